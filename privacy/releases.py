"""`ReleaseJournal`: what was released, durable before the ledger says so.

A crash between a release and the next checkpoint must not cost a second release. Every released
array is therefore written, with a hash, before its reservation is committed. A run that asks again
for the same round gets the journalled arrays, and nothing is charged; arrays are noisy sums, so the
journal is as public as the model.

Source: docs/ledger-slots.md, section 4, for the order of the steps.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from privacy.checkpoints import write_durably
from privacy.errors import JournalCorrupt, ResumeRefused


@dataclass(frozen=True)
class Released:
    """The aggregates of one evaluation.

    Attributes:
      rounds: For every round, the released sums.
      digest: SHA-256 of all of it, as hexadecimal digits.
    """

    rounds: tuple[tuple[np.ndarray, ...], ...]
    digest: str

    @classmethod
    def of(cls, rounds: Sequence[Sequence[np.ndarray]]) -> "Released":
        """Released arrays with their digest."""
        arrays = tuple(tuple(np.asarray(a) for a in sums) for sums in rounds)
        hasher = hashlib.sha256(b"secfad-release-1")
        for sums in arrays:
            hasher.update(len(sums).to_bytes(8, "big"))
            for array in sums:
                header = f"{array.dtype.str}{array.shape}".encode()
                hasher.update(len(header).to_bytes(8, "big") + header + array.tobytes())
        return cls(arrays, hasher.hexdigest())


class ReleaseJournal:
    """A folder with one file per released evaluation, named by the ledger's record.

    Args:
      path: The folder; it is made if missing.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    def _file(self, seq: int) -> Path:
        return self.path / f"release-{seq:08d}.npz"

    def write(self, seq: int, released: Released, program: str) -> None:
        """Makes a release durable: on return it survives a crash of the machine.

        Args:
          seq: The ledger's record.
          released: What was released.
          program: Digest of the program that released it.
        """
        buffer = io.BytesIO()
        arrays = {
            f"{i}.{j}": array
            for i, sums in enumerate(released.rounds)
            for j, array in enumerate(sums)
        }
        np.savez(
            buffer,
            allow_pickle=False,
            counts=np.array([len(sums) for sums in released.rounds], np.int64),
            digest=np.array(released.digest),
            program=np.array(program),
            **arrays,
        )
        write_durably(self._file(seq), buffer.getvalue())

    def read(self, seq: int, program: str) -> Released | None:
        """The release of a ledger record, or None if it was never made durable.

        Raises:
          JournalCorrupt: The file exists and does not hold what was written.
          ResumeRefused: It holds a release of another program.
        """
        file = self._file(seq)
        if not file.exists():
            return None
        try:
            with open(file, "rb") as handle, np.load(handle, allow_pickle=False) as data:
                rounds = tuple(
                    tuple(data[f"{i}.{j}"] for j in range(count))
                    for i, count in enumerate(data["counts"])
                )
                stated, author = str(data["digest"]), str(data["program"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise self._corrupt(file) from error
        released = Released.of(rounds)
        if released.digest != stated:
            raise self._corrupt(file)
        if author != program:
            raise ResumeRefused(
                f"Expected a release of the program {program[:16]}… in {file}, got one of {author[:16]}…. "
                "The program was changed: use another run_id, so that it is charged for itself."
            )
        return released

    def _corrupt(self, file: Path) -> JournalCorrupt:
        return JournalCorrupt(
            f"Expected an unaltered release in {file}, got a file whose hash does not match. "
            "Remove it to release that round again; the earlier charge stays."
        )
