"""What an experiment says: criteria, figures, curves, and what they were made with."""

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np

from experiments.statistics import Interval


@dataclass(frozen=True)
class Options:
    """What a run is given.

    Attributes:
      tiny: A run of seconds that exercises the code; its figures mean nothing.
      shakespeare: Path of the plays; without it what needs them is left out.
    """

    tiny: bool = False
    shakespeare: Path | None = None


@dataclass(frozen=True)
class Criterion:
    """One claim and whether it held.

    Attributes:
      claim: In words, with the bound.
      figure: What was found.
      passed: Whether it held.
    """

    claim: str
    figure: str
    passed: bool


@dataclass(frozen=True)
class Outcome:
    """The result of one experiment.

    Attributes:
      name: For the command line.
      shows: What is shown, in a sentence.
      matches: Which claim or figure of a paper it answers to.
      criteria: What had to hold.
      settings: Of the run.
      notes: What is ours, what differs, what could not be checked.
      table: Rows of figures, the first one the header.
      curves: Label to values, over `axis`.
      axis: What the curves run over: a name and its values.
      measure: What the curves show.
    """

    name: str
    shows: str
    matches: str
    criteria: tuple[Criterion, ...]
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    axis: tuple[str, Sequence[float]] = ("", ())
    measure: str = ""

    @property
    def passed(self) -> bool:
        """Whether every criterion held."""
        return all(c.passed for c in self.criteria)


def above(claim: str, found: Interval, bound: float) -> Criterion:
    """The lower end of the interval is above the bound."""
    return Criterion(claim, str(found), bool(found.low > bound))


def below(claim: str, found: Interval, bound: float) -> Criterion:
    """The upper end of the interval is below the bound."""
    return Criterion(claim, str(found), bool(found.high < bound))


def run_and_save(
    run: Callable[[Options], Outcome], options: Options, out: Path | None
) -> tuple[Outcome, float]:
    """Runs an experiment; writes NAME.json and NAME.png to `out`."""
    start, busy = time.perf_counter(), time.process_time()
    outcome = run(options)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        record = asdict(outcome) | {
            "passed": outcome.passed,
            "seconds": round(seconds, 1),
            "processor_seconds": round(busy, 1),
            "tiny": options.tiny,
            "versions": {
                "python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__
            },
        }  # fmt: skip
        text = json.dumps(record, indent=1, default=float)
        (out / f"{outcome.name}.json").write_text(text + "\n", "utf-8")
        if outcome.curves:
            plot(outcome, out / f"{outcome.name}.png")
    return outcome, seconds


def plot(outcome: Outcome, path: Path) -> None:
    """The curves of an outcome as a picture."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    label, values = outcome.axis
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for name, curve in outcome.curves.items():
        axes.plot(values, curve, label=name)
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_xscale("log")
    axes.set(xlabel=label, ylabel=outcome.measure, title=outcome.shows)
    axes.title.set_fontsize(9)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
