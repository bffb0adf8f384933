"""Records: the hash chain of a ledger.

A record is a sequence number, a kind, a JSON body and the hash of its predecessor. Its own hash
covers all four and a tag for this format, so changing, dropping or swapping a record breaks the
chain at that record. A chain cannot show that its *end* was cut off, so its head is also stored
elsewhere, in checkpoints and result files (`Ledger.is_descendant_of`).

>>> first = Record.after(None, "genesis", {"population": 100})
>>> Record.after(first, "reserve", {}).prev == first.hash
True

Sources: docs/ledger-slots.md, section 4.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from privacy.accounting.events import canonical_json
from privacy.errors import LedgerCorrupt

FORMAT = 1
ROOT = "0" * 64
KINDS = ("genesis", "plan", "reserve", "open", "commit", "void")
_TAG = b"secfad ledger 1\x00"


@dataclass(frozen=True)
class Record:
    """One entry of a ledger.

    Attributes:
      seq: 0 for genesis, then consecutive.
      kind: One of `KINDS`.
      prev: Hash of the record before, 64 zeros for genesis.
      text: The body as canonical JSON; the hash covers these bytes.
      hash: SHA-256 over everything above.
    """

    seq: int
    kind: str
    prev: str
    text: str
    hash: str

    @classmethod
    def after(cls, previous: "Record | None", kind: str, body: Mapping[str, Any]) -> "Record":
        """The record that continues the chain with this body."""
        seq, prev = (0, ROOT) if previous is None else (previous.seq + 1, previous.hash)
        text = canonical_json(body).decode()
        return cls(seq, kind, prev, text, chain_hash(seq, kind, prev, text))

    @property
    def body(self) -> dict[str, Any]:
        """The body, parsed."""
        return json.loads(self.text)


def chain_hash(seq: int, kind: str, prev: str, text: str) -> str:
    """SHA-256 of a record, with every variable part preceded by its length."""
    digest = hashlib.sha256(_TAG + seq.to_bytes(8, "big"))
    for part in (kind, prev, text):
        encoded = part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def check_chain(records: Iterable[Record]) -> Iterator[Record]:
    """Yields the records as long as they form a chain.

    Raises:
      LedgerCorrupt: The error names the first record that is missing, out of order or altered.
    """
    previous = None
    for record in records:
        check_link(previous, record)
        yield record
        previous = record
    if previous is None:
        raise LedgerCorrupt(
            "Expected a ledger that begins with a genesis record, got an empty chain."
            " Create one with privacy.Ledger.create.",
            record=0,
        )


def check_link(previous: Record | None, record: Record) -> None:
    """Raises `LedgerCorrupt` unless record is intact and continues previous."""
    seq, prev = (0, ROOT) if previous is None else (previous.seq + 1, previous.hash)
    if record.seq != seq:
        _corrupt(seq, f"it is missing, and record {record.seq} stands in its place")
    if record.prev != prev:
        _corrupt(seq, "it does not continue the record before it")
    if chain_hash(seq, record.kind, record.prev, record.text) != record.hash:
        _corrupt(seq, "its content does not match its hash")
    if record.kind not in KINDS or (record.kind == "genesis") != (seq == 0):
        _corrupt(seq, f"a record of kind {record.kind!r} cannot stand there")


def _corrupt(seq: int, reason: str) -> None:
    raise LedgerCorrupt(
        f"Expected an unaltered chain; record {seq} is bad: {reason}."
        " Do not spend from this file; restore it from an export that verifies.",
        record=seq,
    )
