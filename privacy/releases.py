"""`ReleaseJournal`: what was released, durable before the ledger says so.

A crash between a release and the next checkpoint must not cost a second release. Every released
array is therefore written, with a hash, before its reservation is committed. A run that asks again
for the same round gets the journalled arrays, and nothing is charged; arrays are noisy sums, so the
journal is as public as the model. A release answers one question, a program at given server
arguments, and is refused as the answer to any other.

Source: docs/ledger-slots.md, section 4, for the order of the steps.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privacy.checking import expect_path
from privacy.checkpoints import write_durably
from privacy.errors import JournalCorrupt, ResumeRefused, RunRefused
from secfad import SERVER, Program


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
                _update(hasher, array)
        return cls(arrays, hasher.hexdigest())


@dataclass(frozen=True)
class Question:
    """What a release answers.

    Attributes:
      program: Digest of the program.
      arguments: Digest of the values that the server put into it; client data are not in it.
    """

    program: str
    arguments: str

    @classmethod
    def of(cls, program: Program, leaves: Sequence[Any]) -> "Question":
        """The question that a program asks with these flat arguments."""
        hasher = hashlib.sha256(b"secfad-question-1")
        for leaf, place in zip(leaves, program.in_placements):
            if place is SERVER:
                if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                    leaf = jax.random.key_data(leaf)
                _update(hasher, np.asarray(leaf))
        return cls(program.digest, hasher.hexdigest())


def _update(hasher: Any, array: np.ndarray) -> None:
    """Hashes dtype, shape and bytes, so that no two arrays look alike."""
    header = f"{array.dtype.str}{array.shape}".encode()
    hasher.update(len(header).to_bytes(8, "big") + header + array.tobytes())


class ReleaseJournal:
    """A folder with one file per released evaluation, named by the ledger's record.

    Args:
      path: The folder; it is made if missing.

    Raises:
      RunRefused: It is no path, or there is something else.
    """

    def __init__(self, path: str | os.PathLike[str]):
        expect_path(path, "path", "Name a folder for the journal.")
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunRefused(
                f"Expected a folder that can be made at {self.path}, got: {error}. Name another one."
            ) from error

    def _file(self, seq: int) -> Path:
        return self.path / f"release-{seq:08d}.npz"

    def write(self, seq: int, released: Released, question: Question) -> None:
        """Makes a release durable: on return it survives a crash of the machine.

        Args:
          seq: The ledger's record.
          released: What was released.
          question: What it answers.
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
            program=np.array(question.program),
            arguments=np.array(question.arguments),
            **arrays,
        )
        write_durably(self._file(seq), buffer.getvalue())

    def read(self, seq: int, question: Question) -> Released | None:
        """The release of a ledger record, or None if it was never made durable.

        Raises:
          JournalCorrupt: The file exists and does not hold what was written.
          ResumeRefused: It answers another question.
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
                stated = str(data["digest"])
                answered = Question(str(data["program"]), str(data["arguments"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise self._corrupt(file) from error
        released = Released.of(rounds)
        if released.digest != stated:
            raise self._corrupt(file)
        self._check_question(file, answered, question)
        return released

    def _check_question(self, file: Path, answered: Question, asked: Question) -> None:
        if answered.program != asked.program:
            raise ResumeRefused(
                f"Expected a release of the program {asked.program[:16]}… in {file}, got one of "
                f"{answered.program[:16]}…. The program was changed: use another run_id, so that it is "
                "charged for itself."
            )
        if answered.arguments != asked.arguments:
            raise ResumeRefused(
                f"Expected a release for the server's present arguments ({asked.arguments[:16]}…) in "
                f"{file}, got one for others ({answered.arguments[:16]}…): the round is not repeated with "
                "the state it was released for. Restore that state, or remove the file to release the "
                "round again; the earlier charge stays."
            )

    def _corrupt(self, file: Path) -> JournalCorrupt:
        return JournalCorrupt(
            f"Expected an unaltered release in {file}, got a file whose hash does not match. "
            "Remove it to release that round again; the earlier charge stays."
        )
