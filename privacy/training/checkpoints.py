"""Checkpoints of a training run: state and ledger head, written atomically.

A checkpoint is one file, written to a draft, synced and renamed. It never contains the ledger:
restoring a checkpoint must not restore a budget. It names its run and the head of the ledger when
it was written. It is refused with a ledger that does not contain this head, because such a ledger
lacks charges.

Leaves keep their bits, shape and dtype, including dtypes without a NumPy name (bfloat16, 8-bit
floats).

Sources: docs/ledger-slots.md, section 4; docs/decisions/0033-own-checkpoints.md.
"""

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from privacy.arrays import read_tree, write_tree
from privacy.errors import ResumeRefused
from privacy.files import Damaged, storage
from privacy.ledger.ledger import Ledger

_FORMAT = 4


@dataclass(frozen=True)
class Checkpoint:
    """A run between two rounds.

    Attributes:
      run_id: The run.
      round: Rounds finished.
      state: The server's state, a tree of arrays.
      ledger_head: Head of the ledger at that moment.
      stopped: The reason why the run ended before its planned rounds, or "".
      clients: Digest of the client state after that round, or "" if there is none; see
        `privacy.training.client_files`.
      metrics: Digest of the lines of metrics up to that round, or "" if there is none.
    """

    run_id: str
    round: int
    state: Any
    ledger_head: str
    stopped: str = ""
    clients: str = ""
    metrics: str = ""


class CheckpointFile:
    """One file that always holds the newest finished checkpoint.

    Args:
      path: Path of the file; its folder is created if missing.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        with storage(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, checkpoint: Checkpoint) -> None:
        """Replaces the checkpoint, atomically and durably.

        Raises:
          MechanismError: A leaf of the state is not an array of numbers.
          StorageFailed: The disk is full or cannot be written; the old checkpoint is unchanged.
        """
        header = {"format": _FORMAT} | vars(checkpoint)
        write_tree(self.path, header, header.pop("state"))

    def read(self, *, like: Any, ledger: Ledger, run_id: str) -> Checkpoint | None:
        """The checkpoint with a state of the structure of `like`, or None if there is none.

        Raises:
          ResumeRefused: The file is damaged, belongs to another run or another ledger, or holds
            another kind of state.
          StorageFailed: The file cannot be opened.
        """
        if not self.path.exists():
            return None
        try:
            header, stored, _ = read_tree(self.path)
            if header.pop("format") != _FORMAT:
                raise Damaged("another format")
            written, _ = header.pop("tree"), header.pop("dtypes")
            found = Checkpoint(state=stored, **header)
            types = {f.name: f.type for f in fields(found) if f.name != "state"}
            if any(type(getattr(found, name)) is not kind for name, kind in types.items()):
                raise Damaged("fields of other types")
        except (Damaged, KeyError, TypeError) as error:
            raise ResumeRefused(
                f"Expected a checkpoint in {self.path}, got a file that cannot be read ({error}). "
                "Remove it: the run starts over from its journal of releases, and the ledger keeps "
                "every charge."
            ) from error
        head, owner = found.ledger_head, found.run_id
        if not ledger.is_descendant_of(head):
            raise ResumeRefused(
                f"Expected a ledger that contains the record {head[:12]}… of the checkpoint, got one that"
                f" ends in {ledger.head[:12]}…: an older copy or another ledger. Continuing would forget"
                " charges. Restore the right one."
            )
        if owner != run_id:
            raise ResumeRefused(
                f"Expected a checkpoint of the run {run_id!r} in {self.path}, got one of {owner!r}. "
                "Resume with the settings that wrote it, or use another folder."
            )
        leaves, tree = jax.tree.flatten(like)
        if written != str(tree) or [np.shape(a) for a in leaves] != [a.shape for a in stored]:
            raise ResumeRefused(
                f"Expected a state of structure {tree} in {self.path}, got {written} or other shapes."
                " Resume with the algorithm that wrote it, or use another folder."
            )
        return replace(found, state=jax.tree.unflatten(tree, stored))
