"""Folders: the files of a run, and when a folder may be used or resumed.

    configuration.json   written first; its digest decides whether a run may resume here
    certificate.json     of both programs, before the first round ledger.db            every charge;
    never restored from a checkpoint releases/            released sums, durable before the ledger
    commits them checkpoint.npz       the state after the last finished round, with the ledger's
    head metrics.jsonl        one line per finished round results.json, *.png, report.html

A ledger without the head of the checkpoint is another ledger or an older copy. Resuming with it
would spend the same budget twice, so `privacy.train` refuses it.

Source: docs/ledger-slots.md, section 4.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import privacy
from audits.quickstart.configuration import Configuration
from audits.quickstart.errors import FolderOccupied
from audits.quickstart.tasks import Task
from privacy.errors import ResumeRefused
from privacy.files import write_durably

_TRACES = ("configuration.json", "ledger.db", "checkpoint.npz", "results.json")


class RunFolder:
    """The files of one run.

    Args:
      path: The folder; it is created if missing.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def ledger(self) -> Path:
        """The file of charges."""
        return self.path / "ledger.db"

    @property
    def checkpoint(self) -> Path:
        """The file of the state."""
        return self.path / "checkpoint.npz"

    @property
    def results(self) -> Path:
        """The file of results; written last."""
        return self.path / "results.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder for this process; the lock ends with the process, also by SIGKILL.

        Raises:
          FolderOccupied: Another process uses the folder.
        """
        with open(self.path / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise FolderOccupied(
                    f"Expected a folder that no other process uses, got {self.path}, which another "
                    "process holds. Wait for it, or pass another --out."
                ) from None
            yield

    def claim(self, configuration: Configuration, *, resume: bool) -> None:
        """Claims the folder for this configuration.

        Raises:
          FolderOccupied: The folder has a run and resume is false.
          ResumeRefused: The folder has a run of another configuration.
        """
        found = [name for name in _TRACES if (self.path / name).exists()]
        if found and not resume:
            raise FolderOccupied(
                f"Expected a folder without a run, got {self.path} with {found[0]}. "
                "Continue it with --resume, or pass another --out."
            )
        mine = self.path / "configuration.json"
        if not found:
            body = {"digest": configuration.digest} | configuration.model_dump(mode="json")
            write_durably(mine, json.dumps(body, indent=2).encode())
        else:
            _require_same(mine, configuration)

    def write_certificates(self, task: Task) -> None:
        """Writes certificate.json: purpose to certificate, before the first round."""
        certificates = {name: q.certificate.to_dict() for name, q in task.queries.items()}
        text = json.dumps(certificates, indent=1)
        write_durably(self.path / "certificate.json", text.encode())

    def open_ledger(self, task: Task) -> privacy.Ledger:
        """The run's ledger: created before the first round, and opened afterwards.

        Raises:
          BudgetExceeded: The planned releases do not fit the budgets; no ledger is created.
          ResumeRefused: The ledger is missing although rounds were run, or it has other terms.
          LedgerCorrupt: Its chain does not verify.
        """
        schedule = task.schedule
        if not self.ledger.exists():
            if self.checkpoint.exists():
                raise ResumeRefused(
                    f"Expected the ledger of the checkpoint in {self.path}, got none. A budget is "
                    "never started over: restore ledger.db, or begin in another folder."
                )
            schedule.require_fit()
            return privacy.Ledger.create(
                self.ledger,
                schedule.budget,
                population=task.configuration.data.population,
                purposes=schedule.purposes,
                relation=schedule.relation,
                slots=schedule.slots,
                accountant=schedule.accountant,
            )
        ledger = privacy.Ledger.open(self.ledger)
        ledger.verify()
        wanted = (schedule.budget, task.configuration.data.population, schedule.relation)
        charter = ledger.charter
        if (charter.budget, charter.population, charter.relation) != wanted:
            raise ResumeRefused(
                f"Expected a ledger of {wanted[0]} for {wanted[1]} clients under {wanted[2]}, got "
                f"{charter.budget} for {charter.population} under {charter.relation}. It belongs to "
                "another run, or to one of an older version whose cohorts had secret sizes."
            )
        return ledger


def _require_same(mine: Path, configuration: Configuration) -> None:
    try:
        digest = json.loads(mine.read_text())["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ResumeRefused(
            f"Expected {mine} with the configuration of the run, got a file that cannot be read. "
            "Begin in another folder."
        ) from None
    if digest != configuration.digest:
        raise ResumeRefused(
            f"Expected the configuration this run was started with ({digest[:12]}, in {mine}), got "
            f"another ({configuration.digest[:12]}). Undo the change, or begin in another folder."
        )
