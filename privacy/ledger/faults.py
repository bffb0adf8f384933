"""Faults: converts SQLite errors about a ledger's file to the errors of this package.

If a file cannot be written or read *now* (a full disk, a read-only folder, a lock of another
program), its charges stay and the step can be repeated: `LedgerUnavailable`. Every other error
means that the file does not hold a ledger's content: `LedgerCorrupt`.

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

# Result codes that are not about the content; the low 8 bits of an extended code are the primary
# one.
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
    """The error of this package for an error of SQLite or of its bindings."""
    remedy = _REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if remedy is None:
        return unreadable(path, error)
    return LedgerUnavailable(
        f"Expected a ledger that can be read and written at {path}, got: {error}. {remedy}, then try"
        " again. What was charged before is on disk; this step is not."
    )


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Converts SQLite errors inside to typed errors about the file at path."""
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
    """The error for a ledger file that the operating system refuses to write or read."""
    return LedgerUnavailable(
        f"Expected a place for a file at {path}, got: {error}. Check the folder, its permissions and"
        " the room on the disk, then try again."
    )
