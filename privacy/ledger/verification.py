"""Verification: checks a ledger's records one by one and recomputes the totals.

`replay` reads a chain. It checks that every record continues the previous one, follows from its
inputs (`privacy.ledger.rules`), and fits the totals (`privacy.ledger.state`). `verify` replays the
chain of a file into an empty database and compares its totals with the file's, so an edited total
is detected before it is spent. Both take time proportional to the records; each distinct mechanism
is priced once.

Sources: docs/ledger-slots.md, section 4.
"""

import itertools
import sqlite3
from collections.abc import Iterable
from typing import Any

from privacy.accounting.events import canonical_json
from privacy.errors import LedgerCorrupt, PrivacyError
from privacy.ledger.faults import unreadable
from privacy.ledger.records import Record, check_chain
from privacy.ledger.rules import Rules
from privacy.ledger.state import apply, create_tables, schema, totals
from privacy.ledger.store import Store

# The errors that an invalid body can raise, without those of a full disk.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
_REFUSED = (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


def replay(
    records: Iterable[Record], connection: sqlite3.Connection, *, keep: bool = False
) -> Record:
    """Replays a chain into a database with empty tables; returns its last record.

    The tables receive the totals and, with `keep`, the records.

    Raises:
      LedgerCorrupt: The chain is broken, or a record breaks a rule of the ledger.
    """
    rules, last = Rules(), None
    for record in check_chain(records):
        try:
            if keep:
                values = (record.seq, record.kind, record.prev, record.text, record.hash)
                connection.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?)", values)
            body = record.body
            if canonical_json(body).decode() != record.text:
                raise ValueError("its JSON is not in canonical form")
            voided = rules.check(record.seq, record.kind, body)
            apply(connection, record.seq, record.kind, body, voided)
        except (PrivacyError, *_MALFORMED, *_REFUSED) as error:
            raise LedgerCorrupt(
                f"Expected records that keep the ledger's rules; record {record.seq} is bad:"
                f" {type(error).__name__}: {error} Do not spend from this file; restore it from an"
                " export that verifies.",
                record=record.seq,
            ) from error
        last = record
    assert last is not None  # an empty chain does not pass check_chain
    rules.finish()
    return last


def verify(store: Store) -> None:
    """Replays the whole chain and compares it with the file's totals.

    Raises:
      LedgerCorrupt: The error names the first bad record, or the totals that do not follow from the
        chain.
    """
    replica = sqlite3.connect(":memory:", isolation_level=None)
    try:
        create_tables(replica)
        expected_schema = schema(replica)
        with store.reading() as connection:
            replica.execute("BEGIN")  # one transaction; the records themselves stay where they are
            last = replay(store.records(), replica)
            expected, found = totals(replica), totals(connection)
            found_schema = schema(connection)
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
    if found_schema != expected_schema:
        different = _first_difference(expected_schema, found_schema)
        raise unreadable(
            store.path, f"tables or triggers that a ledger does not have: {different[1]}"
        )


def _first_difference(left: list[tuple], right: list[tuple]) -> tuple[Any, Any]:
    for first, second in itertools.zip_longest(left, right):
        if first != second:
            return first, second
    return None, None
