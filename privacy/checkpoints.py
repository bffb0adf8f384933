"""Checkpoints of a training run: state and ledger head, old or new and never half.

Written to a draft, synced and renamed. The ledger itself is never inside: restoring a checkpoint must
not restore a budget. A checkpoint names the head of the ledger when it was written, and is refused
with a ledger that does not contain that history, because such a ledger forgot charges.

Source: docs/ledger-slots.md, section 4.
"""

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from privacy.errors import ResumeRefused
from privacy.ledger import Ledger

_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A run between two rounds.

    Attributes:
      round: Rounds finished.
      state: The server's state, a tree of arrays.
      ledger_head: Head of the ledger at that moment.
    """

    round: int
    state: Any
    ledger_head: str


class CheckpointFile:
    """One file that always holds the newest finished checkpoint.

    Args:
      path: Of the file; its folder is made if missing.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, checkpoint: Checkpoint) -> None:
        """Replaces the checkpoint, atomically and durably."""
        leaves = jax.tree.leaves(checkpoint.state)
        header = {
            "format": _FORMAT,
            "round": checkpoint.round,
            "ledger_head": checkpoint.ledger_head,
            "tree": str(jax.tree.structure(checkpoint.state)),
        }
        buffer = io.BytesIO()
        arrays = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        np.savez(buffer, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)
        write_durably(self.path, buffer.getvalue())

    def read(self, *, like: Any, ledger: Ledger) -> Checkpoint | None:
        """The checkpoint, or None if there is none.

        Args:
          like: A state of the expected structure.
          ledger: The run's ledger.

        Raises:
          ResumeRefused: The file is damaged, holds another kind of state, or is not of this ledger's
            history.
        """
        if not self.path.exists():
            return None
        leaves, tree = jax.tree.flatten(like)
        try:
            with open(self.path, "rb") as file, np.load(file, allow_pickle=False) as data:
                header = json.loads(str(data["header"]))
                stored = [data[f"leaf{i}"] for i in range(len(leaves))]
                round, head, written = header["round"], header["ledger_head"], header["tree"]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ResumeRefused(
                f"Expected a checkpoint in {self.path}, got a file that cannot be read ({error}). "
                "Remove it to start over; releases are in the journal and charges in the ledger."
            ) from error
        shapes = [(np.shape(a), np.shape(b)) for a, b in zip(leaves, stored)]
        if written != str(tree) or any(a != b for a, b in shapes):
            raise ResumeRefused(
                f"Expected a state of structure {tree}, got {written} with other shapes in {self.path}."
                " Resume with the algorithm that wrote it, or use another folder."
            )
        if not ledger.is_descendant_of(head):
            raise ResumeRefused(
                f"Expected a ledger that contains the record {head[:12]}… of the checkpoint, got one that"
                " does not: an older copy or another ledger. Continuing would forget charges."
            )
        return Checkpoint(int(round), jax.tree.unflatten(tree, stored), head)


def write_durably(path: Path, content: bytes) -> None:
    """Replaces a file so that a crash leaves the old content or the new, on disk when this returns."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    with open(draft, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
