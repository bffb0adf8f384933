"""`ReleaseJournal`: makes releases durable before the ledger commits them.

A crash between a release and the next checkpoint must not cost a second release. Every released
array is therefore written, with a hash, before its reservation is committed. A run that repeats the
round gets the journalled arrays without a charge. The arrays are noisy sums, so the journal is as
public as the model. Each release has a key: the ledger, the program, its mechanism and the server
arguments. A request with any other key is refused. After the commit, a release must match the
committed digest. Before the commit, only its own hash protects it, so a crash between journal and
commit is repaired without a second charge. A file is never overwritten.

Source: docs/ledger-slots.md, section 4, for the order of the steps.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privacy.accounting.events import canonical_json
from privacy.checking import expect_path
from privacy.errors import JournalCorrupt, ResumeRefused, RunRefused
from privacy.files import Damaged, read_arrays, storage, write_arrays
from privacy.ledger.ledger import Ledger
from secfad import SERVER, Program


@dataclass(frozen=True)
class Released:
    """The sums of every round of one evaluation, and their SHA-256 as hexadecimal digits."""

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
class ReleaseKey:
    """The key of a release: the evaluation that it belongs to.

    Attributes:
      ledger: Id of the ledger that paid.
      program: Digest of the program.
      mechanism: Digest of the mechanism's record: noise, clip norms, grid.
      arguments: Digest of the server arguments; client data are not included.
    """

    ledger: str
    program: str
    mechanism: str
    arguments: str

    @classmethod
    def of(
        cls, program: Program, leaves: Sequence[Any], *, ledger: str, mechanism: Mapping[str, Any]
    ) -> "ReleaseKey":
        """The key of a program with these flat arguments."""
        hasher = hashlib.sha256(b"secfad-question-1")
        for leaf, place in zip(leaves, program.in_placements):
            if place is SERVER:
                if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                    leaf = jax.random.key_data(leaf)
                _update(hasher, np.asarray(leaf))
        noise = hashlib.sha256(canonical_json(mechanism)).hexdigest()
        return cls(ledger, program.digest, noise, hasher.hexdigest())


def _update(hasher: Any, array: np.ndarray) -> None:
    """Hashes dtype, shape and bytes, so that distinct arrays have distinct hashes."""
    header = f"{array.dtype.str}{array.shape}".encode()
    hasher.update(len(header).to_bytes(8, "big") + header + array.tobytes())


class ReleaseJournal:
    """A folder with one file per released evaluation, named by the ledger's record.

    Args:
      path: The folder of one ledger; it is created if missing.

    Raises:
      RunRefused: It is not a path, or the path is not a folder.
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
        self._known: tuple[Ledger | None, set[int]] = (None, set())

    def _file(self, seq: int) -> Path:
        return self.path / f"release-{seq:08d}.npz"

    def holds(self, seq: int) -> bool:
        """Whether a file exists for the release of a record."""
        return self._file(seq).exists()

    def check(self, ledger: Ledger) -> None:
        """Refuses a ledger that lacks a release of this journal.

        A release is written between `open` and `commit`, so the ledger has its reservation. A
        missing reservation was charged in a newer copy of the ledger's file, or in another ledger.

        Raises:
          ResumeRefused: The ledger lacks a release.
        """
        with storage(self.path):
            names = [_NAME.fullmatch(name) for name in os.listdir(self.path)]
        found = {int(name[1]) for name in names if name}
        known = self._known[1] if self._known[0] is ledger else set()
        for seq in sorted(found - known):
            query = "SELECT state FROM reservations WHERE seq = ?"
            if ledger.store.select(query, (seq,), (str,)) not in _RELEASED:
                raise ResumeRefused(
                    f"Expected a ledger that was charged for every release in {self.path}, got"
                    f" {ledger.store.path}, which ends in record {ledger.store.last().seq} and was not for"
                    f" that of record {seq}. The ledger's file is an older copy, whose later charges would"
                    " be forgotten, or another ledger. Restore the newest copy; if it is lost, end this"
                    " ledger, and count all it ever planned as spent. For another ledger use a folder of"
                    " its own."
                )
        self._known = (ledger, found)

    def write(self, seq: int, released: Released, key: ReleaseKey) -> None:
        """Makes the release of a ledger record durable: on return it survives a crash.

        Raises:
          JournalCorrupt: Another release exists for this record. It is left unchanged.
          StorageFailed: The disk is full or cannot be written; the charge stays.
        """
        arrays = {
            f"{i}.{j}": array
            for i, sums in enumerate(released.rounds)
            for j, array in enumerate(sums)
        }
        arrays |= {
            "counts": np.array([len(sums) for sums in released.rounds], np.int64),
            "digest": np.array(_bound(seq, released, key)),
            "question": np.array(json.dumps(asdict(key))),
        }
        try:
            write_arrays(self._file(seq), arrays, replace=False)
        except FileExistsError:
            there = self.read(seq, key)
            if there is None or there.digest != released.digest:
                raise JournalCorrupt(
                    f"Expected no release of record {seq} yet, got another one in {self._file(seq)}. It is"
                    " kept: the ledger's file is an older copy, or the journal is of another ledger."
                    " Restore the newest copy, or use another folder; the charge stays."
                ) from None

    def read(self, seq: int, key: ReleaseKey, *, committed: str | None = None) -> Released | None:
        """The release of a ledger record, or None if it was never made durable.

        `committed` is the digest that the ledger committed; None if a crash came before.

        Raises:
          JournalCorrupt: The file exists but does not hold the written or committed release.
          ResumeRefused: The release has another key.
          StorageFailed: The file cannot be opened.
        """
        file = self._file(seq)
        if not file.exists():
            return None
        try:
            data = read_arrays(file)
            rounds = tuple(
                tuple(data[f"{i}.{j}"] for j in range(count))
                for i, count in enumerate(data["counts"])
            )
            stated, stored = str(data["digest"]), ReleaseKey(**json.loads(str(data["question"])))
        except (Damaged, ValueError, KeyError, TypeError) as error:
            raise self._corrupt(file) from error
        released = Released.of(rounds)
        if _bound(seq, released, stored) != stated:
            raise self._corrupt(file)
        _check_key(file, stored, key)
        if committed is not None and released.digest != committed:
            raise JournalCorrupt(
                f"Expected in {file} what the ledger committed in record {seq} ({committed[:16]}…), got"
                f" another release ({released.digest[:16]}…). Restore it, or remove it to release that"
                " round again; the earlier charge stays."
            )
        return released

    def _corrupt(self, file: Path) -> JournalCorrupt:
        return JournalCorrupt(
            f"Expected an unaltered release in {file}, got a file whose hash does not match or"
            " that an older version wrote. Remove it to release that round again; the earlier charge stays."
        )


_NAME = re.compile(r"release-(\d+)\.npz")
_RELEASED = ([("open",)], [("committed",)])


def _bound(seq: int, released: Released, key: ReleaseKey) -> str:
    """SHA-256 of a release together with its key."""
    said = canonical_json([seq, released.digest, asdict(key)])
    return hashlib.sha256(b"secfad-journal-2" + said).hexdigest()


def _check_key(file: Path, stored: ReleaseKey, requested: ReleaseKey) -> None:
    """Refuses a release with another key."""
    remedies = {
        "ledger": "Each ledger has a journal of its own: use another folder.",
        "program": "The program was changed: use another run_id, so that it is charged for itself.",
        "mechanism": "Noise or clip norms were changed: use another run_id, so that they are charged for"
        " themselves.",
        "arguments": "The round is not repeated with the state it was released for. Restore that state, or"
        " remove the file to release the round again; the earlier charge stays.",
    }
    for what, remedy in remedies.items():
        came, wanted = getattr(stored, what), getattr(requested, what)
        if came != wanted:
            raise ResumeRefused(
                f"Expected a release for the present {what} ({wanted[:16]}…) in {file}, got one for"
                f" another ({came[:16]}…). {remedy}"
            )
