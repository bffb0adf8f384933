"""Faults: what SQLite says about a ledger's file, as the errors of this package.

A file that cannot be written or read *now*, because the disk is full, the folder is read-only or
another program holds the lock, keeps its charges: `LedgerUnavailable`, and the same step can be tried
again. Everything else means that the file is not what a ledger wrote: `LedgerCorrupt`.

>>> full = sqlite3.OperationalError("database or disk is full")
>>> full.sqlite_errorcode = sqlite3.SQLITE_FULL
>>> type(typed(Path("l.db"), full)).__name__
'LedgerUnavailable'

Sources: SQLite's documentation of result codes.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from privacy.errors import LedgerCorrupt, LedgerError, LedgerUnavailable

# Result codes that say nothing about the content; an extended code has its primary one in 8 bits.
_REMEDIES = {
    sqlite3.SQLITE_FULL: "The disk is full: make room",
    sqlite3.SQLITE_READONLY: "The file or its folder cannot be written: check permissions and mount",
    sqlite3.SQLITE_IOERR: "The file system failed or is full: make room and check the disk",
    sqlite3.SQLITE_CANTOPEN: "A file could not be opened beside it: check permissions and room",
    sqlite3.SQLITE_PERM: "Permission was denied: check permissions",
    sqlite3.SQLITE_BUSY: "Another program holds the lock: close it",
    sqlite3.SQLITE_LOCKED: "Another program holds the lock: close it",
    sqlite3.SQLITE_PROTOCOL: "Locking failed: put the file on a local file system",
    sqlite3.SQLITE_NOMEM: "Memory ran out: free some",
    sqlite3.SQLITE_INTERRUPT: "The query was interrupted",
}


def typed(path: Path, error: Exception) -> LedgerError:
    """The error of this package for one of SQLite or of its bindings."""
    remedy = _REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if remedy is None:
        return unreadable(path, error)
    return LedgerUnavailable(
        f"Expected a ledger that can be read and written at {path}, got: {error}. {remedy}, then try"
        " again. What was charged before is on disk; this step is not."
    )


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raises what SQLite raises inside as typed errors about the file at path."""
    try:
        yield
    except (sqlite3.Error, sqlite3.Warning, UnicodeError) as error:
        raise typed(path, error) from error


def unreadable(path: Path, reason: object) -> LedgerCorrupt:
    """The error for a file that is not a ledger or is damaged below the level of records."""
    return LedgerCorrupt(
        f"Expected a readable ledger at {path}, got: {reason}."
        " Do not spend from this file; restore it from an export that verifies."
    )


def not_writable(path: Path, error: OSError) -> LedgerUnavailable:
    """The error for a file of a ledger that the operating system does not let us write or read."""
    return LedgerUnavailable(
        f"Expected a place for a file at {path}, got: {error}. Check the folder, its permissions and"
        " the room on the disk, then try again."
    )
