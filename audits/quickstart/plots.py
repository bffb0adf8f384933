"""Plots: loss, hyperparameters and budget of a run, drawn from results.json.

Source: results.json.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_PRIVATE, _TWIN, _LIMIT = "#1f5fa8", "#d07a1e", "#888888"


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes loss.png, hyperparameters.png and budget.png; returns their paths."""
    drawn = []
    for name, fill in (
        ("loss", _loss),
        ("hyperparameters", _hyperparameters),
        ("budget", _budget),
    ):
        # No pyplot: it keeps global state and selects a GUI backend.
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        fill(figure.subplots(1, 1 if name == "budget" else 2, squeeze=False)[0], results)
        drawn.append(folder / f"{name}.png")
        figure.savefig(drawn[-1], dpi=110)
    return drawn


def _loss(axes: Any, results: Mapping[str, Any]) -> None:
    left, right = axes
    _pair(left, results, "loss", "held-out loss")
    _pair(right, results, "accuracy", "held-out accuracy")
    right.axhline(results["majority_accuracy"], color=_LIMIT, linestyle=":", label="majority label")
    right.legend()


def _hyperparameters(axes: Any, results: Mapping[str, Any]) -> None:
    left, right = axes
    _pair(left, results, "learning_rate", "server learning rate")
    _pair(right, results, "momentum", "server momentum")


def _pair(axis: Axes, results: Mapping[str, Any], key: str, label: str) -> None:
    history = results["history"]
    axis.plot(history[key], color=_PRIVATE, label="private")
    if f"baseline_{key}" in history:
        axis.plot(history[f"baseline_{key}"], color=_TWIN, label="without privacy")
    axis.set_xlabel("round")
    axis.set_ylabel(label)
    axis.legend()


def _budget(axes: Any, results: Mapping[str, Any]) -> None:
    axis, curve = axes[0], results["budget_spent"]
    for purpose, style in (("total", "-"), ("training", "--"), ("hypergradient", ":")):
        points = [(0, 0.0), *((p["round"], p[purpose]) for p in curve if purpose in p)]
        axis.plot(*zip(*points), color=_PRIVATE, linestyle=style, label=purpose)
    limit = results["configuration"]["privacy"]["epsilon"]
    axis.axhline(limit, color=_LIMIT, linewidth=1, label=f"budget {limit:g}")
    axis.set_xlabel("round")
    axis.set_ylabel(f"epsilon spent at delta = {results['delta']:g}")
    axis.set_title("released-model view")
    axis.legend()
