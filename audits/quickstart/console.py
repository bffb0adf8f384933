"""Console: runs one experiment from its configuration to its folder and shows progress.

Source: docs/architecture.md, "The main job".
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from audits.quickstart import pages, plots, results
from audits.quickstart.configuration import Configuration
from audits.quickstart.folders import RunFolder
from audits.quickstart.running import Run
from audits.quickstart.tasks import Task, make_task
from privacy.accounting.slots import TOTAL


def default_folder(name: str, *, resume: bool, base: Path = Path("secfad-runs")) -> Path:
    """secfad-runs/NAME, secfad-runs/NAME-2, ...: the first free one, or the newest one to resume."""
    label = name.replace(" ", "-")
    candidates = [base / label]
    while candidates[-1].exists():
        candidates.append(base / f"{label}-{len(candidates) + 1}")
    return candidates[-2] if resume and len(candidates) > 1 else candidates[-1]


def run_experiment(
    configuration: Configuration, path: Path, *, resume: bool, console: Console
) -> None:
    """Certifies, runs and reports an experiment.

    Raises:
      ExperimentError: The folder cannot be used, or this run cannot be resumed in it.
        audits.CertificationError: A program does not pass; nothing was sent or charged.
        PrivacyError: A round was refused; the checkpoint holds the finished rounds.
    """
    started = time.monotonic()
    folder = RunFolder(path)
    with folder.locked():
        folder.claim(configuration, resume=resume)
        if folder.results.exists():
            console.print("This run is finished; nothing to do.")
        else:
            _complete(configuration, folder, started, console)
        found = pages.read_results(folder.path)
        pages.write_page(folder.path)
    console.print(results.summary(found))
    if found["stopped_early"]:
        console.print(f"[bold]Stopped early:[/bold] {escape(found['stopped_early'])}")
    for note in found["notes"]:
        console.print(f"- {escape(note)}")
    console.print(f"Written to {escape(str(folder.path))}", soft_wrap=True)


def _complete(
    configuration: Configuration, folder: RunFolder, started: float, console: Console
) -> None:
    task = make_task(configuration)
    folder.write_certificates(task)
    for purpose, query in task.queries.items():
        console.print(f"certified {purpose}: {query.certificate.id[:16]}")
    for statement in dict.fromkeys(task.secure_sums.values()):
        console.print(escape(statement))
    for line in _planned(task):
        console.print(escape(line), soft_wrap=True)
    with folder.open_ledger(task) as ledger:
        run = Run(task, folder, ledger)
        with _bar(configuration, console) as observe:
            trained = run.finish(observe)
        found = results.collect(run, trained, time.monotonic() - started)
        plots.draw(found, folder.path)
        results.write(folder, found)


def _planned(task: Task) -> list[str]:
    """The consequences and the planned cost of noise by clients, before anything is released."""
    schedule = task.schedule
    if not schedule.statement:
        return []
    plan, central = schedule.price(), schedule.price_with_central_noise()
    needed = ", ".join(f"{name} {value:.2f}" for name, value in plan.released.items())
    return [
        schedule.statement,
        f"planned epsilon: {needed} ({plan.accountant}); with noise by the server {central[TOTAL]:.2f}",
    ]


@contextmanager
def _bar(configuration: Configuration, console: Console) -> Iterator:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        name, rounds = configuration.name, configuration.schedule.rounds
        shown = bar.add_task(name, total=rounds, figures="")

        def observe(line: Mapping[str, Any]) -> None:
            figures = f"loss {line['loss']:.3f}  learning rate {line['learning_rate']:.3f}"
            bar.update(shown, completed=line["round"], figures=figures)

        yield observe
