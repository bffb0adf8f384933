"""Results: what a run says about itself, as JSON and as a table.

Every figure is read from the run: losses and accuracies from its history, epsilons from its ledger,
bytes from the messages that were made. The non-private twin stands beside the private run.

Source: docs/privacy-model.md, for the two views of epsilon.
"""

import json
from collections.abc import Mapping
from typing import Any

from rich.table import Table

import privacy
from audits.experiments import checkpoints
from audits.experiments.checkpoints import Progress
from audits.experiments.folders import RunFolder
from audits.experiments.measuring import majority_accuracy
from audits.experiments.running import Run
from audits.experiments.tasks import HYPERGRADIENT, PURPOSES, TRAINING
from privacy.certificates import current_environment
from privacy.slots import plan as price_plan

SCHEMA = "secfad-results-1"
_FIGURES = {
    "accuracy": "held-out accuracy",
    "loss": "held-out loss",
    "learning_rate": "server learning rate",
    "momentum": "server momentum",
}
NOTES = (
    "Unit of privacy: one client, added or removed.",
    "The released view holds for those who see what is released and not who takes part; the server "
    "view for a server that does see who takes part.",
    "Cohorts and noise were drawn from the operating system's randomness, so a repetition differs.",
    "Client bytes are means over the clients of a cohort, for one release: the messages of secure "
    "aggregation as serialised, and the broadcast values.",
    "Loss and accuracy are measured in the clear on held-out examples; they are not private.",
)


def collect(run: Run, progress: Progress, seconds: float) -> dict[str, Any]:
    """Everything worth keeping of a finished run; `seconds` is the time of this process."""
    configuration, history, ledger = run.task.configuration, progress.history, run.ledger
    reservations = ledger.find(run.id)
    states = [reservation.state for reservation in reservations]
    return {
        "schema": SCHEMA,
        "name": configuration.name,
        "configuration": configuration.model_dump(mode="json"),
        "configuration_digest": configuration.digest,
        "environment": current_environment(),
        "rounds": progress.round,
        "stopped_early": progress.stopped or None,
        "seconds": round(seconds, 1),
        "initial": {"loss": history.loss[0], "accuracy": history.accuracy[0]},
        "majority_accuracy": majority_accuracy(run.task.data.train, run.task.data.test),
        "private": _outcome(history, ""),
        "baseline": _outcome(history, "baseline_") if history.baseline_loss else None,
        "epsilon": {view: ledger.spent(view) for view in ("released", "server")},
        "delta": configuration.privacy.delta,
        "bytes_per_client_and_release": _traffic(progress),
        "ledger": {
            "id": ledger.id,
            "head": ledger.head,
            "charges": {
                purpose: sum(r.purpose == purpose for r in reservations) for purpose in PURPOSES
            },
            "charged_without_release": len(states) - states.count("committed"),
            "releases_from_journal": history.replayed,
        },
        "certificates": {name: c.id for name, c in run.task.certificates.items()},
        "budget_spent": budget_curve(run, progress),
        "history": {
            name: values
            for name, values in vars(history).items()
            if isinstance(values, list) and values
        },
        "notes": list(NOTES),
    }


def write(folder: RunFolder, results: Mapping[str, Any]) -> None:
    """Writes results.json, which says that the run is complete."""
    checkpoints.write_durably(folder.results, json.dumps(results, indent=1).encode())


def _outcome(history: checkpoints.History, prefix: str) -> dict[str, float]:
    names = ("loss", "accuracy", "learning_rate", "momentum")
    return {name: getattr(history, prefix + name)[-1] for name in names}


def _traffic(progress: Progress) -> dict[str, dict[str, float]]:
    """Mean bytes of one client in one release, protocol and broadcasts together."""
    history = progress.history
    return {
        purpose: {
            "up": sum(history.bytes_up[purpose]) / len(history.bytes_up[purpose]),
            "down": sum(history.bytes_down[purpose]) / len(history.bytes_down[purpose]),
        }
        for purpose in PURPOSES
        if history.bytes_up.get(purpose)
    }


def budget_curve(run: Run, progress: Progress, points: int = 8) -> list[dict[str, float]]:
    """Epsilon spent after some of the rounds, in the released-model view."""
    charter, curve = run.ledger.charter, []
    rounds = sorted({round(progress.round * k / points) for k in range(1, points + 1)} | {1})
    reservations = run.ledger.find(run.id)
    multipliers = {slot.purpose: slot for slot in run.task.slots}
    for last in rounds:
        counts = {p: sum(r.purpose == p and r.round < last for r in reservations) for p in PURPOSES}
        slots = [
            privacy.Slot(p, multipliers[p].sampling_rate, multipliers[p].noise_multiplier, n)
            for p, n in counts.items()
            if n
        ]
        spent = price_plan(slots, charter.budget, purposes=charter.purposes).released
        curve.append({"round": last, **spent})
    return curve


def summary(results: Mapping[str, Any]) -> Table:
    """The table that ends a run."""
    private, twin = results["private"], results["baseline"]
    table = Table(title=f"{results['name']}: {results['rounds']} rounds", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("initial", "private", *(("without privacy",) if twin else ())):
        table.add_column(name, justify="right")

    def row(name: str, *cells: str) -> None:
        table.add_row(name, *cells[: 3 if twin else 2])

    start = results["configuration"]["server"]
    columns = (results["initial"] | start, private, twin or {})
    for key, label in _FIGURES.items():
        row(label, *(_number(column.get(key)) for column in columns))
    table.add_section()
    for view in ("released", "server"):
        for purpose in (TRAINING, HYPERGRADIENT, "total"):
            epsilon = results["epsilon"][view][purpose]
            row(f"epsilon, {view} view: {purpose}", "0", f"{epsilon:.2f}", "unbounded")
    row("delta", "", f"{results['delta']:g}", "")
    table.add_section()
    for purpose, traffic in results["bytes_per_client_and_release"].items():
        for way in ("up", "down"):
            row(f"client bytes {way}: {purpose}", "", f"{traffic[way]:,.0f}", "")
    charges = results["ledger"]["charges"]
    for purpose, count in charges.items():
        row(f"releases charged: {purpose}", "", str(count), "0")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
