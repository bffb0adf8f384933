"""Store: one SQLite file that survives crashes and supports several processes.

The store uses a rollback journal with synchronous=EXTRA. When an append returns, it is on disk,
even after a power cut, and a copy of the file is a whole ledger (a write-ahead log would keep
committed charges in a second file). Every append runs in a BEGIN IMMEDIATE transaction, so no other
process can spend between reading the remaining budget and spending it. An append costs the same for
a ledger of ten records or a hundred thousand.

>>> import tempfile, pathlib
>>> path = pathlib.Path(tempfile.mkdtemp()) / "ledger.db"
>>> store = Store.create(path, lambda new: new.append("genesis", {"filters": {}}))
>>> (store.last().seq, store.close())
(0, None)

Sources: SQLite's documentation of atomic commit and of PRAGMA synchronous.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from privacy.errors import LedgerError
from privacy.files import draft_of
from privacy.ledger.faults import not_writable, translated, unreadable
from privacy.ledger.records import Record
from privacy.ledger.state import apply, create_tables
from secagg.crypto import forks

_BUSY_SECONDS = 120.0
_COLUMNS = "seq, kind, prev, text, hash"
_TYPES = (int, str, str, str, str)


class Store:
    """A connection to one ledger file. Do not use it in a forked process."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if not self.path.is_file():
            raise LedgerError(
                f"Expected a ledger file at {self.path}, got nothing there."
                " Make one with privacy.Ledger.create."
            )
        self._owner = forks.generation()
        self.closed = False
        self._lock = threading.RLock()
        with translated(self.path):
            self._connection = _connect(self.path)

    @classmethod
    def create(cls, path: str | os.PathLike[str], fill: Callable[["Store"], Any]) -> "Store":
        """Creates a new file with the records that `fill` appends; all of them or no file.

        Raises:
          LedgerError: The path exists. It is left unchanged.
          LedgerUnavailable: The file cannot be written there.
        """
        path = Path(path)
        try:
            with draft_of(path, replace=False) as draft:
                draft.touch(mode=0o600, exist_ok=False)
                store = cls(draft)
                try:
                    with store.transaction() as connection:
                        create_tables(connection)
                        fill(store)
                finally:
                    store.close()
        except FileExistsError:
            raise LedgerError(
                f"Expected a free path for a new ledger, got an existing file {path}."
                " Use privacy.Ledger.open; a budget is never started over."
            ) from None
        except OSError as error:
            raise not_writable(path, error) from error
        return cls(path)

    def close(self) -> None:
        """Closes the connection; the file stays."""
        self.closed = True
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Holds the ledger's write lock; commits at the end, rolls back on any exception.

        Raises:
          LedgerUnavailable: The disk is full, the file is read-only, or another program holds it.
          LedgerCorrupt: The file is damaged, or its totals are inconsistent.
        """
        with self._lock, translated(self.path):
            connection = self.reader()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                _end(connection)
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """All queries inside see one snapshot of the ledger.

        Raises:
          LedgerUnavailable: Another program holds the file, or the disk fails.
          LedgerCorrupt: The file is damaged below the level of records.
        """
        with self._lock, translated(self.path):
            connection = self.reader()
            nested = connection.in_transaction
            try:
                if not nested:
                    connection.execute("BEGIN")
                yield connection
            finally:
                if not nested:
                    _end(connection)

    def select(self, query: str, values: Sequence[Any], types: Sequence[type]) -> list[tuple]:
        """The rows of a query, with every value checked against the type of its column.

        Raises:
          LedgerCorrupt: A value is of another type: the file was damaged.
        """
        with self.reading() as connection:
            rows = connection.execute(query, values).fetchall()
        for row in rows:
            _check_types(self.path, row, types)
        return rows

    def reader(self) -> sqlite3.Connection:
        """The connection for queries; refuses a closed one, and one from before a fork."""
        if forks.generation() != self._owner:
            raise LedgerError(
                f"Expected the process {self._owner[1]} that opened the ledger, got a fork of it, "
                f"process {os.getpid()}. Call privacy.Ledger.open in each process."
            )
        if self.closed:
            raise LedgerError(
                f"Expected an open ledger, got the closed {self.path}. Call privacy.Ledger.open."
            )
        return self._connection

    def append(self, kind: str, body: Mapping[str, Any]) -> Record:
        """Appends a record and adds it to the totals. Call inside `transaction`."""
        record = Record.after(self.last_or_none(), kind, body)
        connection = self.reader()
        connection.execute(
            f"INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)",
            (record.seq, record.kind, record.prev, record.text, record.hash),
        )
        voided = self.body(body["reservation"]) if kind == "void" else None
        apply(connection, record.seq, kind, body, voided)
        return record

    def last_or_none(self) -> Record | None:
        """The newest record, if there is one."""
        return self._one("ORDER BY seq DESC LIMIT 1")

    def last(self) -> Record:
        """The newest record."""
        record = self.last_or_none()
        if record is None:
            raise unreadable(self.path, "it has no genesis record")
        return record

    def get(self, seq: int) -> Record | None:
        """The record with this number, if there is one."""
        return self._one("WHERE seq = ?", seq)

    def body(self, seq: int) -> dict[str, Any]:
        """The body of the record with this number.

        Raises:
          LedgerCorrupt: The record is missing or is not a JSON object.
        """
        record = self.get(seq)
        try:
            body = record.body if record else None
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise unreadable(self.path, f"record {seq} is missing or is not a JSON object")
        return body

    def before(self, seq: int) -> Record | None:
        """The newest record older than this number."""
        return self._one("WHERE seq < ? ORDER BY seq DESC LIMIT 1", seq)

    def with_hash(self, value: str) -> Record | None:
        """The record with this hash, if there is one."""
        return self._one("WHERE hash = ?", value)

    def records(self) -> Iterator[Record]:
        """All records in order; call inside `reading` for one snapshot."""
        with translated(self.path):
            for row in self.reader().execute(f"SELECT {_COLUMNS} FROM records ORDER BY seq"):
                _check_types(self.path, row, _TYPES)
                yield Record(*row)

    def _one(self, condition: str, *values: Any) -> Record | None:
        found = self.select(f"SELECT {_COLUMNS} FROM records {condition}", values, _TYPES)
        return Record(*found[0]) if found else None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=_BUSY_SECONDS,
        check_same_thread=False,
    )
    try:
        mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
        connection.execute("PRAGMA synchronous = EXTRA")
    except BaseException:
        connection.close()
        raise
    if mode != "delete":
        connection.close()
        raise LedgerError(
            f"Expected a file that uses a rollback journal, got journal mode {mode!r} at {path}."
            " Close every other program that has this file open."
        )
    return connection


def _end(connection: sqlite3.Connection) -> None:
    """Rolls back, unless a failed disk has done it already."""
    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _check_types(path: Path, row: Sequence[Any], types: Sequence[type]) -> None:
    if tuple(map(type, row)) != tuple(types):
        found = ", ".join(type(value).__name__ for value in row)
        wanted = ", ".join(kind.__name__ for kind in types)
        raise unreadable(path, f"a row of ({found}) instead of ({wanted})")
