"""Client state on disk: secret data of a simulation, in a separate folder.

A real client would hold these rows on its own device. A simulation has them in one folder, which is
as secret as the data. The checkpoint, the journal and the metrics next to it are as public as the
model.

    kept-SEQ.npz     what a released question left its clients with, durable before the release is
    state-ROUND.npz  the rows of the whole population after a round, durable before its checkpoint

A checkpoint holds the digest of the rows of its round, so server and clients always resume
together. A kept file holds the digest of its release, so a replayed release finds the rows of its
own cohort. After a checkpoint only its rows remain.

Source: docs/ledger-slots.md, section 4, for the order of the steps.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from privacy.arrays import read_tree, write_tree
from privacy.errors import ResumeRefused
from privacy.files import Damaged, storage

Tree = Any
_DOMAIN = b"secfad-client-state-1"


@dataclass(frozen=True, eq=False)
class Kept:
    """The client results of one released question; never released themselves.

    `rows` has, by client argument, one row for each of the members, which increase.
    """

    seq: int
    release: str
    members: np.ndarray = field(repr=False)
    rows: Mapping[str, Tree] = field(repr=False)


class ClientFiles:
    """The folder of client state.

    Args:
      path: The folder; it is created with the first file, readable only by its owner.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def write_kept(self, kept: Kept) -> None:
        """Makes the client results of a question durable; call this before its release is durable."""
        head = {"release": kept.release}
        self._write(self._kept(kept.seq), head, {"members": kept.members, "rows": dict(kept.rows)})

    def read_kept(self, seq: int, release: str, *, like: Mapping[str, Tree]) -> Kept:
        """The client results of the question with this release, like these arguments.

        Raises:
          ResumeRefused: The file is missing, damaged or of another release.
        """
        file = self._kept(seq)
        form = {"members": np.zeros(0), "rows": dict(like)}
        head, found, _ = self._read(file, form, _REPEAT)
        if head.get("release") != release:
            raise _refused(file, "it is of another release", _REPEAT)
        return Kept(seq, release, found["members"], found["rows"])

    def write_state(self, round: int, state: Mapping[str, Tree]) -> str:
        """Makes the rows of all clients after a round durable and returns their digest."""
        return self._write(self._state(round), {"round": round}, dict(state))

    def read_state(self, round: int, digest: str, *, like: Mapping[str, Tree]) -> dict[str, Tree]:
        """The rows of all clients after a round, with the digest that its checkpoint holds.

        Raises:
          ResumeRefused: The rows are missing, or they are others.
        """
        file = self._state(round)
        _, found, stated = self._read(file, dict(like), _RESTORE)
        if stated != digest:
            raise _refused(file, "the checkpoint is of other rows", _RESTORE)
        return found

    def forget(self, *, but: int) -> None:
        """Removes all files except the rows of one round, which include all earlier results."""
        for file in (*self.path.glob("kept-*.npz"), *self.path.glob("state-*.npz")):
            if file != self._state(but):
                file.unlink()

    def _kept(self, seq: int) -> Path:
        return self.path / f"kept-{seq:08d}.npz"

    def _state(self, round: int) -> Path:
        return self.path / f"state-{round:08d}.npz"

    def _write(self, file: Path, head: Mapping[str, Any], content: Tree) -> str:
        with storage(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return write_tree(file, head, content, domain=_DOMAIN)

    def _read(self, file: Path, like: Tree, advice: str) -> tuple[dict[str, Any], Any, str]:
        if not file.exists():
            raise _refused(file, "there is none", advice)
        try:
            head, arrays, digest = read_tree(file, domain=_DOMAIN)
        except Damaged as error:
            raise _refused(file, f"it cannot be read ({error})", advice) from error
        tree = jax.tree.structure(like)
        if head["tree"] != str(tree):
            raise _refused(file, "it holds other arguments of clients", advice)
        return head, jax.tree.unflatten(tree, arrays), digest


def _refused(file: Path, came: str, advice: str) -> ResumeRefused:
    return ResumeRefused(f"Expected what clients keep in {file}: {came}. {advice}")


_RESTORE = (
    "Restore the folder with its checkpoint, or start over with another run_id and folder: server and "
    "clients must resume from one round."
)
_REPEAT = (
    "A release can be replayed only with what its own cohort was left with. Restore the file, or remove "
    "the release from the journal to ask the round again; the earlier charge stays."
)
