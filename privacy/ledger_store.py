"""Store: one SQLite file that survives crashes and serves several processes.

Rollback journal with synchronous=EXTRA: when an append has returned, it is on disk, also after a
power cut, and a copy of the one file is a whole ledger (a write-ahead log would keep committed
charges beside it). Every append runs in a BEGIN IMMEDIATE transaction, so that reading what is left
and spending it cannot be separated by another process. An append costs the same for a ledger of
ten records or a hundred thousand.

>>> import tempfile, pathlib
>>> path = pathlib.Path(tempfile.mkdtemp()) / "ledger.db"
>>> store = Store.create(path, lambda new: new.append("genesis", {"filters": {}}))
>>> (store.last().seq, store.close())
(0, None)

Sources: SQLite's documentation of atomic commit and of PRAGMA synchronous.
"""

import contextlib
import itertools
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from privacy.errors import LedgerCorrupt, LedgerError
from privacy.ledger_records import Record, check_chain
from privacy.ledger_state import apply, create_tables, totals
from secagg import forks

_BUSY_SECONDS = 120.0
_COLUMNS = "seq, kind, prev, text, hash"


class Store:
    """A connection to one ledger file. Not to be carried through a fork."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if not self.path.is_file():
            raise LedgerError(
                f"Expected a ledger file at {self.path}, got nothing there."
                " Make one with privacy.Ledger.create."
            )
        self._owner = forks.generation()
        self._lock = threading.RLock()
        try:
            self._connection = _connect(self.path)
        except sqlite3.DatabaseError as error:
            raise unreadable(self.path, error) from error

    @classmethod
    def create(cls, path: str | os.PathLike[str], fill: Callable[["Store"], Any]) -> "Store":
        """Makes a new file with the records that fill appends; all of them or no file.

        Raises:
          LedgerError: Something exists at path. It is left as it is.
        """
        path = Path(path)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.draft")
        try:
            draft.touch(mode=0o600, exist_ok=False)
            store = cls(draft)
            try:
                with store.transaction() as connection:
                    create_tables(connection)
                    fill(store)
            finally:
                store.close()
            os.link(draft, path)  # fails, atomically, if the path is taken
        except FileExistsError:
            raise LedgerError(
                f"Expected a free path for a new ledger, got an existing file {path}."
                " Use privacy.Ledger.open; a budget is never started over."
            ) from None
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(path.parent)
        return cls(path)

    def close(self) -> None:
        """Closes the connection; the file stays."""
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Holds the ledger's write lock; commits at the end, rolls back on any exception."""
        with self._lock:
            connection = self.reader()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """All queries inside see the ledger at one moment.

        Raises:
          LedgerCorrupt: The file is damaged below the level of records.
        """
        with self._lock:
            connection = self.reader()
            nested = connection.in_transaction
            try:
                if not nested:
                    connection.execute("BEGIN")
                yield connection
            except sqlite3.DatabaseError as error:
                if "locked" in str(error):
                    raise
                raise unreadable(self.path, error) from error
            finally:
                if not nested and connection.in_transaction:
                    connection.execute("ROLLBACK")

    def reader(self) -> sqlite3.Connection:
        """The connection, for queries; refuses one that came through a fork."""
        if forks.generation() != self._owner:
            raise LedgerError(
                f"Expected the process {self._owner[1]} that opened the ledger, got a fork of it, "
                f"process {os.getpid()}. Call privacy.Ledger.open in each process."
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
        apply(connection, record.seq, kind, body)
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

    def before(self, seq: int) -> Record | None:
        """The newest record older than this number."""
        return self._one("WHERE seq < ? ORDER BY seq DESC LIMIT 1", seq)

    def with_hash(self, value: str) -> Record | None:
        """The record with this hash, if there is one."""
        return self._one("WHERE hash = ?", value)

    def records(self) -> Iterator[Record]:
        """All records in order; call inside `reading` for those of one moment."""
        rows = self.reader().execute(f"SELECT {_COLUMNS} FROM records ORDER BY seq")
        yield from (Record(*row) for row in rows)

    def _one(self, condition: str, *values: Any) -> Record | None:
        with self.reading() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM records {condition}", values)
            found = row.fetchone()
        return Record(*found) if found else None


def replay(records: Iterator[Record], connection: sqlite3.Connection) -> Record:
    """Checks a chain and adds it up in a database with empty tables; returns its last record.

    Raises:
      LedgerCorrupt: The chain is broken, or a record breaks a rule of the ledger.
    """
    last = None
    for record in check_chain(records):
        try:
            values = (record.seq, record.kind, record.prev, record.text, record.hash)
            connection.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?)", values)
            apply(connection, record.seq, record.kind, record.body)
        except (LedgerError, ValueError, KeyError, TypeError, sqlite3.Error) as error:
            raise LedgerCorrupt(
                f"Expected records that keep the ledger's rules; record {record.seq} is bad: {error}",
                record=record.seq,
            ) from error
        last = record
    assert last is not None  # an empty chain does not pass check_chain
    return last


def verify(store: Store) -> None:
    """Replays the whole chain and compares it with the file's totals.

    Raises:
      LedgerCorrupt: Naming the first bad record, or the totals that do not follow from the chain.
    """
    replica = sqlite3.connect(":memory:", isolation_level=None)
    try:
        create_tables(replica)
        with store.reading() as connection:
            last = replay(store.records(), replica)
            expected, found = totals(replica), totals(connection)
            damage = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    finally:
        replica.close()
    for table, rows in expected.items():
        if rows != found[table]:
            extra = _first_difference(rows, found[table])
            raise LedgerCorrupt(
                f"Expected totals that follow from the {last.seq + 1} records; in {table} the file"
                f" says {extra[1]}, the records say {extra[0]}. Records after {last.seq} were cut"
                " off, or the totals were altered; restore an export that verifies.",
                record=last.seq + 1,
            )
    if damage != "ok":
        raise unreadable(store.path, damage)


def _first_difference(left: list[tuple], right: list[tuple]) -> tuple[Any, Any]:
    for first, second in itertools.zip_longest(left, right):
        if first != second:
            return first, second
    return None, None


def unreadable(path: Path, reason: object) -> LedgerCorrupt:
    """The error for a file that is not a ledger or is damaged below the level of records."""
    return LedgerCorrupt(
        f"Expected a readable ledger at {path}, got: {reason}."
        " Do not spend from this file; restore it from an export that verifies."
    )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=_BUSY_SECONDS,
        check_same_thread=False,
    )
    mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
    connection.execute("PRAGMA synchronous = EXTRA")
    if mode != "delete":
        connection.close()
        raise LedgerError(
            f"Expected a file that uses a rollback journal, got journal mode {mode!r} at {path}."
            " Close every other program that has this file open."
        )
    return connection


def _sync_folder(folder: Path) -> None:
    """Makes the new name durable; without it a power cut could lose the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
