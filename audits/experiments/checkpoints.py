"""Checkpoints: what a run knows after a round, in one file that is old or new and never half.

Written to a draft, synced, renamed, and the folder synced: a crash at any instant leaves the previous
checkpoint or the next. A checkpoint carries the digest of the configuration and the ledger's head;
the ledger itself is never inside, because restoring a checkpoint must not restore a budget.

>>> import tempfile
>>> start = Learner.initial(learning_rate=1.0, momentum=0.5)
>>> state = Progress(0, start, None, "", "ab", "cd", History())
>>> save(state, Path(tempfile.mkdtemp()) / "checkpoint.npz")

Sources: docs/ledger-slots.md, section 4, for the head in a checkpoint.
"""

import dataclasses
import io
import json
import os
import secrets
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from audits.experiments.errors import CheckpointCorrupt
from audits.experiments.fedavgm import Learner
from privacy.execution import Result

_FORMAT = 1


@dataclass
class History:
    """One entry per round; index 0 is before the first.

    Attributes:
      loss: Held-out loss of the private model.
      accuracy: Held-out accuracy of the private model.
      learning_rate: Of the private server.
      momentum: Of the private server.
      baseline_loss: The baseline's, if it runs; so for the three below.
      baseline_accuracy: See above.
      baseline_learning_rate: See above.
      baseline_momentum: See above.
      bytes_up: Mean bytes sent by a client of a cohort, by purpose, one entry per release that was
        made; one taken from the journal has none.
      bytes_down: Mean bytes received by a client, likewise.
      replayed: Releases taken from the journal after a crash.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    momentum: list[float] = field(default_factory=list)
    baseline_loss: list[float] = field(default_factory=list)
    baseline_accuracy: list[float] = field(default_factory=list)
    baseline_learning_rate: list[float] = field(default_factory=list)
    baseline_momentum: list[float] = field(default_factory=list)
    bytes_up: dict[str, list[float]] = field(default_factory=dict)
    bytes_down: dict[str, list[float]] = field(default_factory=dict)
    replayed: int = 0

    def count(self, purpose: str, result: Result) -> None:
        """Adds what one release cost."""
        if result.replayed:
            self.replayed += 1
            return
        self.bytes_up.setdefault(purpose, []).append(result.bytes_up)
        self.bytes_down.setdefault(purpose, []).append(result.bytes_down)


@dataclass(frozen=True)
class Progress:
    """A run between two rounds.

    Attributes:
      round: Rounds finished.
      private: The private learner.
      baseline: Its non-private twin, if there is one.
      stopped: Why the run ended early, or "".
      configuration: Digest of the configuration.
      ledger_head: Head of the ledger at this moment.
      history: What was measured.
    """

    round: int
    private: Learner
    baseline: Learner | None
    stopped: str
    configuration: str
    ledger_head: str
    history: History


def save(progress: Progress, path: Path) -> None:
    """Replaces the checkpoint, atomically and durably."""
    header = {
        "format": _FORMAT,
        "round": progress.round,
        "stopped": progress.stopped,
        "configuration": progress.configuration,
        "ledger_head": progress.ledger_head,
        "history": dataclasses.asdict(progress.history),
    }
    arrays = _arrays("private", progress.private)
    if progress.baseline is not None:
        arrays |= _arrays("baseline", progress.baseline)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)
    write_durably(path, buffer.getvalue())


def read(path: Path) -> Progress | None:
    """The checkpoint, or None if there is none.

    Raises:
      CheckpointCorrupt: It is not what was written.
    """
    if not path.exists():
        return None
    try:
        # np.load leaves a file open that it opened itself and could not read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
            header = json.loads(str(data["header"]))
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']}")
            learners = {
                name: _learner(name, data) if f"{name}.momentum" in data else None
                for name in ("private", "baseline")
            }
        private = learners["private"]
        if private is None:
            raise ValueError("no model")
        return Progress(
            round=int(header["round"]),
            private=private,
            baseline=learners["baseline"],
            stopped=header["stopped"],
            configuration=header["configuration"],
            ledger_head=header["ledger_head"],
            history=History(**header["history"]),
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointCorrupt(
            f"Expected a checkpoint in {path}, got a file that cannot be read ({error}). Remove it: "
            "the run starts over from its journal of releases, and the ledger keeps every charge."
        ) from error


def write_durably(path: Path, content: bytes) -> None:
    """Replaces a file so that a crash leaves the old content or the new, on disk when this returns."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.draft")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _arrays(name: str, learner: Learner) -> dict[str, Any]:
    parts = {"model": learner.model, "buffer": learner.buffer}
    arrays = {
        f"{name}.{part}.{leaf}": a for part, tree in parts.items() for leaf, a in tree.items()
    }
    return arrays | {f"{name}.{leaf}": value for leaf, value in learner.hyper.items()}


def _learner(name: str, data: Any) -> Learner:
    def tree(part: str) -> dict[str, np.ndarray]:
        return {leaf: data[f"{name}.{part}.{leaf}"] for leaf in ("weights", "bias")}

    hyper = {leaf: data[f"{name}.{leaf}"][()] for leaf in ("log_learning_rate", "momentum")}
    return Learner(tree("model"), tree("buffer"), hyper)
