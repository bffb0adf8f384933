"""Export: the chain of a ledger as lines of JSON, and back.

One record per line, with its hash. An import verifies the chain and the rules of every record, and
rebuilds the totals from the records. It never trusts a total in a file. Pass the expected head
(from a checkpoint or a result file) to refuse a truncated chain.

>>> import tempfile, pathlib
>>> from privacy.budgets import Budget
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> with Ledger.create(folder / "a.db", Budget(1.0, 1e-6), population=10) as ledger:
...     head = export_ledger(ledger, folder / "a.jsonl")
>>> with import_ledger(folder / "a.jsonl", folder / "b.db", head=head) as copy:
...     copy.head == head
True

Sources: docs/ledger-slots.md, section 4.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from privacy.accounting.events import canonical_json
from privacy.checking import expect_path
from privacy.errors import LedgerCorrupt, LedgerError
from privacy.files import draft_of
from privacy.ledger.faults import not_writable
from privacy.ledger.ledger import Ledger, expect_ledger
from privacy.ledger.records import Record, check_chain
from privacy.ledger.store import Store
from privacy.ledger.verification import replay


def export_ledger(ledger: Ledger, path: str | os.PathLike[str]) -> str:
    """Writes all records to a new file and returns the last head.

    Raises:
      LedgerError: The path exists.
      LedgerUnavailable: The file cannot be written there.
      LedgerCorrupt: The chain is broken; nothing is written.
    """
    expect_ledger(ledger)
    expect_path(path, "path", "Name a new file for the export.", LedgerError)
    path, last = Path(path), None
    try:
        with draft_of(path, replace=False) as draft, draft.open("xb") as file:
            with ledger.store.reading():
                for record in check_chain(ledger.entries()):
                    file.write(canonical_json(asdict(record)) + b"\n")
                    last = record
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise LedgerError(f"Expected a free path for an export, got an existing {path}.") from None
    except OSError as error:
        raise not_writable(path, error) from error
    assert last is not None  # an empty chain does not pass check_chain
    return last.hash


def import_ledger(
    source: str | os.PathLike[str], path: str | os.PathLike[str], *, head: str | None = None
) -> Ledger:
    """Creates a ledger from an export.

    Args:
      source: Lines written by `export_ledger`.
      path: A free path.
      head: A hash that the export must contain.

    Raises:
      LedgerCorrupt: The error names the first bad record; no file remains.
      LedgerUnavailable: The source cannot be read, or the file cannot be written.
      LedgerError: The path exists.
    """
    expect_path(source, "source", "Name the file of an export.", LedgerError)
    expect_path(path, "path", "Name a new file for the ledger.", LedgerError)

    def fill(store: Store) -> None:
        replay(read_records(source), store.reader(), keep=True)
        if head is not None and store.with_hash(head) is None:
            raise LedgerCorrupt(
                f"Expected an export that contains the head {head}, got one that ends in"
                f" {store.last().hash}. It was cut short or belongs to another ledger."
            )

    Store.create(path, fill).close()
    return Ledger.open(path)


def read_records(source: str | os.PathLike[str]) -> Iterator[Record]:
    """Reads an export line by line, without checking the chain.

    Raises:
      LedgerCorrupt: A line is not a record.
    """
    try:
        with Path(source).open("rb") as file:
            for number, line in enumerate(file):
                yield _record(number, line)
    except OSError as error:
        raise not_writable(Path(source), error) from error


def _record(number: int, line: bytes) -> Record:
    try:
        value = json.loads(line)
        seq = value.pop("seq")
        record = Record(seq, **value)
        typed = [seq, *value.values()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        record, typed = None, []
    if record is None or [type(part) for part in typed] != [int, str, str, str, str]:
        raise LedgerCorrupt(
            f"Expected one record per line, record {number} is bad: its line is not a JSON"
            " object with a record's fields. Export the ledger again.",
            record=number,
        )
    return record
