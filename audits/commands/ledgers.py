"""Text and pictures of a ledger: the spent budget by purpose, and the cost of a schedule.

Source: docs/ledger-slots.md.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

import privacy
from privacy.accounting.events import parse_event
from privacy.accounting.slots import TOTAL, Plan
from privacy.budgets import positive_count
from privacy.errors import InvalidEvent
from privacy.ledger.planning import Draws
from privacy.ledger.spending import VIEWS, Spent

_BAR, _EIGHTHS = 20, " ▏▎▍▌▋▊▉"


def overview(ledger: privacy.Ledger) -> Table:
    """Budgets, the spent budget in both views, and the remaining slots, by purpose."""
    charter = ledger.charter
    table = Table(
        title=f"ledger {ledger.id[:12]}: {charter.population} clients, {charter.relation}",
        title_justify="left",
        caption=f"head {ledger.head}",
    )
    for name in ("purpose", "budget", "delta", "spent: released", "spent: server", "slots left"):
        table.add_column(name, justify="left" if name == "purpose" else "right")
    released, server = ledger.spent("released"), ledger.spent("server")
    for scope in (*charter.names, TOTAL):
        budget = charter.budget_of(scope)
        left = "" if scope == TOTAL else _slots(ledger.remaining(scope).slots)
        table.add_row(
            scope,
            f"{budget.epsilon:g}",
            f"{budget.delta:g}",
            f"{released[scope]:.4f}",
            f"{server[scope]:.4f}",
            left,
        )
    return table


def _slots(slots: Sequence[privacy.Slot]) -> str:
    return "\n".join(
        f"{s.count} x (q <= {s.sampling_rate:g}, z >= {s.noise_multiplier:g})" for s in slots
    )


def curve(spent: Sequence[Spent], budget: privacy.Budget) -> Table:
    """The budget over the draws so far: a bar for the released view, and figures for both views."""
    purposes = [name for name in spent[-1].epsilon["released"] if name != TOTAL]
    table = Table(title=f"epsilon over draws, bars of {budget.epsilon:g}", title_justify="left")
    table.add_column("draws", justify="right")
    table.add_column("released", no_wrap=True)
    for name in (TOTAL, *purposes, "server view"):
        table.add_column(name, justify="right")
    for point in spent:
        released, server = (point.epsilon[view] for view in VIEWS)
        figures = [released[TOTAL], *(released.get(p, 0.0) for p in purposes), server[TOTAL]]
        bar = _bar(released[TOTAL] / budget.epsilon)
        table.add_row(str(point.draws), bar, *(f"{figure:.4f}" for figure in figures))
    return table


def _bar(share: float) -> str:
    """A bar in eighths of a character."""
    eighths = round(8 * _BAR * min(1.0, max(0.0, share)))
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def draw_curve(spent: Sequence[Spent], budget: privacy.Budget, path: Path) -> None:
    """Writes the budget over the draws as a picture, SVG or PNG by suffix.

    Raises:
      InvalidEvent: The suffix is neither .svg nor .png.
    """
    if path.suffix not in (".svg", ".png"):
        raise InvalidEvent(f"Expected a name that ends in .svg or .png, got {path.name!r}.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: it keeps global state and selects a GUI backend.
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    draws = [0, *(point.draws for point in spent)]
    for view, style in zip(VIEWS, ("-", "--"), strict=True):
        for name in spent[-1].epsilon[view]:
            values = [0.0, *(point.epsilon[view].get(name, 0.0) for point in spent)]
            axis.plot(draws, values, style, label=f"{name}, {view} view")
    axis.axhline(budget.epsilon, color="#888888", linewidth=1, label=f"budget {budget.epsilon:g}")
    axis.set_xlabel("cohort draws")
    axis.set_ylabel(f"epsilon at delta = {budget.delta:g}")
    axis.legend()
    figure.savefig(path)


def quote(plan: Plan) -> Table:
    """A plan's epsilons, by purpose and in both views."""
    table = Table()
    for name in ("purpose", "epsilon, released view", "epsilon, server view"):
        table.add_column(name, justify="left" if name == "purpose" else "right")
    for scope in plan.released:
        table.add_row(scope, f"{plan.released[scope]:.4f}", f"{plan.server[scope]:.4f}")
    return table


def parse_fixed(text: str, population: int) -> Draws:
    """Reads "training,60,8.0,80": purpose, size of a cohort, noise multiplier, count.

    Raises:
      InvalidEvent: It is not that.
    """
    parts = text.split(",")
    try:
        purpose, size, multiplier, count = parts
        event = {"type": "gaussian", "noise_multiplier": float(multiplier)}
        sizes = {"dataset_size": population, "sample_size": int(size)}
        terms = parse_event({"type": "sampled_without_replacement", **sizes, "event": event})
        return Draws(purpose, terms, positive_count(int(count), "a count"))
    except ValueError as error:
        raise InvalidEvent(
            f"Expected a schedule as PURPOSE,SIZE,NOISE_MULTIPLIER,COUNT, got {text!r} ({error}). "
            "Write for example training,60,8.0,80."
        ) from None


def parse_slot(text: str) -> privacy.Slot:
    """Reads "training,0.3,2.0,80": purpose, sampling rate, noise multiplier, count.

    Raises:
      InvalidEvent: It is not that.
    """
    parts = text.split(",")
    try:
        purpose, rate, multiplier, count = parts
        return privacy.Slot(purpose, float(rate), float(multiplier), int(count))
    except ValueError as error:
        raise InvalidEvent(
            f"Expected a slot as PURPOSE,RATE,NOISE_MULTIPLIER,COUNT, got {text!r} ({error}). "
            "Write for example training,0.3,2.0,80."
        ) from None
