"""Results: the figures of a run, as JSON and as a table.

Every figure comes from the run: losses and accuracies from its history, epsilons from its ledger,
bytes from its messages. The non-private twin is shown next to the private run.

Source: docs/privacy-model.md, for the two views of epsilon.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table

from audits.quickstart.folders import RunFolder
from audits.quickstart.measuring import majority_accuracy
from audits.quickstart.running import Run
from audits.quickstart.schedules import HYPERGRADIENT, PURPOSES, TRAINING
from privacy.accounting.slots import TOTAL
from privacy.certificates.certificates import current_environment
from privacy.execution.traffic import public_traffic
from privacy.files import write_durably
from privacy.training.training import Trained

SCHEMA = "secfad-results-1"
_FIGURES = {
    "accuracy": "held-out accuracy",
    "loss": "held-out loss",
    "learning_rate": "server learning rate",
    "momentum": "server momentum",
}
NOTES = (
    "The released view holds for those who see what is released and not who takes part; the server "
    "view for a server that does see who takes part.",
    "Cohorts and noise were drawn from the operating system's randomness, so a repetition differs.",
    "Client bytes are those of one release among the expected number of clients: the messages of "
    "secure aggregation as serialised, and the broadcast values.",
    "Loss and accuracy are measured in the clear on held-out examples; they are not private.",
)


SECRET_SIZES = (
    "Unit of privacy: one client, added or removed.",
    "Sizes of cohorts are secret and not published: real ones differ from the expected one.",
)


def collect(run: Run, trained: Trained, seconds: float) -> dict[str, Any]:
    """The results of a finished run; `seconds` is the time of this process."""
    configuration, ledger = run.task.configuration, run.ledger
    history = {name: [line[name] for line in trained.metrics] for name in _measured(trained)}
    reservations = run.reservations
    states = [reservation.state for reservation in reservations]
    released = [release for line in trained.metrics for release in line["releases"].values()]
    return {
        "schema": SCHEMA,
        "name": configuration.name,
        "configuration": configuration.model_dump(mode="json"),
        "configuration_digest": configuration.digest,
        "environment": current_environment(),
        "rounds": trained.rounds,
        "stopped_early": trained.stopped or None,
        "seconds": round(seconds, 1),
        "initial": {name: history[name][0] for name in ("loss", "accuracy")},
        "majority_accuracy": majority_accuracy(run.task.data.train, run.task.data.test),
        "private": _outcome(history, ""),
        "baseline": _outcome(history, "baseline_") if "baseline_loss" in history else None,
        "epsilon": {view: ledger.spent(view) for view in ("released", "server")},
        "epsilon_with_central_noise": _central(run),
        "relation": str(ledger.charter.relation),
        "accountant": ledger.charter.accountant,
        "cohort_size": configuration.fixed_size,
        "delta": configuration.privacy.delta,
        "bytes_per_client_and_release": _traffic(run),
        "secure_sums": {
            name: configuration.engine.sums.record(query.program.mechanism)
            for name, query in run.task.queries.items()
        },
        "ledger": {
            "id": ledger.id,
            "head": ledger.head,
            "charges": _charges(run),
            "charged_without_release": len(states) - states.count("committed"),
            "releases_from_journal": sum(release["replayed"] for release in released),
        },
        "certificates": {name: query.certificate.id for name, query in run.task.queries.items()},
        "budget_spent": budget_curve(run, trained.rounds),
        "history": history,
        "clipping": {name: [asdict(a) for a in found] for name, found in trained.clipping.items()},
        "notes": [
            *_on_sizes(run),
            *NOTES,
            *dict.fromkeys(run.task.secure_sums.values()),
            *(a.statement for f in trained.clipping.values() for a in f if a.finding),
        ],
    }


def write(folder: RunFolder, results: Mapping[str, Any]) -> None:
    """Writes results.json, which marks the run as complete."""
    write_durably(folder.results, json.dumps(results, indent=1).encode())


def _measured(trained: Trained) -> list[str]:
    """The names of the figures measured in every round."""
    return [name for name in trained.metrics[0] if name not in ("round", "releases")]


def _outcome(history: Mapping[str, list[float]], prefix: str) -> dict[str, float]:
    names = ("loss", "accuracy", "learning_rate", "momentum")
    return {name: history[prefix + name][-1] for name in names}


def _charges(run: Run) -> dict[str, int]:
    """The charged draws of each purpose."""
    found = run.reservations
    return {purpose: sum(r.purpose == purpose for r in found) for purpose in PURPOSES}


def _central(run: Run) -> dict[str, float] | None:
    """The cost of the same draws with secret sizes; None if the sizes were secret."""
    if run.task.configuration.engine.noise == "central":
        return None
    return run.task.schedule.price_with_central_noise(_charges(run))


def _on_sizes(run: Run) -> list[str]:
    """The notes on the neighbouring relation and on the secrecy of cohort sizes."""
    central = _central(run)
    if central is None:
        return list(SECRET_SIZES)
    spent = run.ledger.spent()[TOTAL]
    cost = (
        f"The same noise added by the server, to cohorts of a secret size, would have cost epsilon"
        f" {central[TOTAL]:.2f} in total instead of {spent:.2f}, for one client added or removed."
    )
    return [run.task.schedule.statement, cost]


def _traffic(run: Run) -> dict[str, dict[str, float]]:
    """Bytes of one client in one release among the expected number of clients."""
    size, sums = run.task.sampling.expected_size, run.task.configuration.engine.sums
    return {n: asdict(public_traffic(q.program, size, sums)) for n, q in run.task.queries.items()}


def budget_curve(run: Run, done: int, points: int = 8) -> list[dict[str, float]]:
    """Epsilon spent after some of the rounds, in the released view."""
    curve, reservations = [], run.reservations
    rounds = sorted({round(done * k / points) for k in range(1, points + 1)} | {1})
    for last in rounds:
        counts = {p: sum(r.purpose == p and r.round < last for r in reservations) for p in PURPOSES}
        curve.append({"round": last, **run.task.schedule.price(counts).released})
    return curve


def summary(results: Mapping[str, Any]) -> Table:
    """The table printed at the end of a run."""
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
        for purpose in (TRAINING, HYPERGRADIENT, TOTAL):
            epsilon = results["epsilon"][view][purpose]
            row(f"epsilon, {view} view: {purpose}", "0", f"{epsilon:.2f}", "unbounded")
    if central := results.get("epsilon_with_central_noise"):
        row("the same with noise by the server: total", "0", f"{central[TOTAL]:.2f}", "")
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
