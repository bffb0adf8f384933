"""State: the totals of a ledger's records, in tables of the same file.

`apply` is the only place where a record changes a total, so charges, imports and verification
follow the same rules: verification replays the chain into an empty database and compares. The rules
are also constraints of the tables: no caller can spend a slot beyond its count or a filter beyond
its capacity.

>>> connection = sqlite3.connect(":memory:", isolation_level=None)
>>> create_tables(connection)
>>> apply(connection, 0, "genesis", {"filters": {"total": {"rule": "gdp", "capacity": 10}}})
>>> connection.execute("SELECT scope, capacity, spent FROM filters").fetchall()
[('total', 10, 0)]

Sources: docs/ledger-slots.md, section 3.
"""

import sqlite3
from collections.abc import Mapping
from typing import Any

from privacy.accounting.slots import Slot, fits_multiplier
from privacy.errors import LedgerError, ReservationState

DERIVED = {
    "slots": "slot, purpose, q, z, declared, spent",
    "filters": "scope, rule, capacity, spent",
    "tallies": "purpose, event, count",
    "reservations": "seq, state, purpose, run_id, round, cohort_id",
}

_SCHEMA = """
CREATE TABLE records (
  seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, prev TEXT NOT NULL, text TEXT NOT NULL,
  hash TEXT NOT NULL UNIQUE
);
CREATE TRIGGER records_are_never_changed BEFORE UPDATE ON records
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER records_are_never_deleted BEFORE DELETE ON records
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TABLE slots (
  slot INTEGER PRIMARY KEY, purpose TEXT NOT NULL, q REAL NOT NULL, z REAL NOT NULL,
  weight REAL NOT NULL, declared INTEGER NOT NULL, spent INTEGER NOT NULL,
  UNIQUE (purpose, q, z), CHECK (0 <= spent AND spent <= declared)
);
CREATE TABLE filters (
  scope TEXT PRIMARY KEY, rule TEXT NOT NULL, capacity INTEGER NOT NULL,
  spent INTEGER NOT NULL, CHECK (0 <= spent AND spent <= capacity)
);
CREATE TABLE tallies (
  purpose TEXT NOT NULL, event TEXT NOT NULL, count INTEGER NOT NULL CHECK (count >= 0),
  PRIMARY KEY (purpose, event)
);
CREATE TABLE reservations (
  seq INTEGER PRIMARY KEY, state TEXT NOT NULL, purpose TEXT NOT NULL, run_id TEXT NOT NULL,
  round INTEGER NOT NULL, cohort_id TEXT NOT NULL UNIQUE
);
CREATE INDEX reservations_by_round ON reservations (run_id, round);
"""

# The state that each kind of record expects of its reservation.
BEFORE = {"open": "reserved", "commit": "open", "void": "reserved"}
AFTER = {"open": "open", "commit": "committed", "void": "void"}


def create_tables(connection: sqlite3.Connection) -> None:
    """Creates the empty tables of a ledger, inside the caller's transaction if there is one."""
    statements, pending = [], ""
    for line in _SCHEMA.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    for statement in statements:
        connection.execute(statement)


def apply(
    connection: sqlite3.Connection,
    seq: int,
    kind: str,
    body: Mapping[str, Any],
    voided: Mapping[str, Any] | None = None,
) -> None:
    """Adds one record to the totals; a void needs the body of the refunded reservation.

    Raises:
      sqlite3.IntegrityError: It would exceed a total or reuse a cohort.
      ReservationState: Its reservation is not in the state required for this step.
    """
    if kind == "genesis":
        for scope, rule in body["filters"].items():
            row = (scope, rule["rule"], rule["capacity"])
            connection.execute("INSERT INTO filters VALUES (?, ?, ?, 0)", row)
    elif kind == "plan":
        _declare(connection, body)
    elif kind == "reserve":
        _charge(connection, body, 1)
        connection.execute(
            "INSERT INTO reservations VALUES (?, 'reserved', ?, ?, ?, ?)",
            (seq, body["purpose"], body["run_id"], body["round"], body["cohort_id"]),
        )
    else:
        _advance(connection, kind, body["reservation"])
        if kind == "void":
            assert voided is not None  # the caller passes the reservation of a void
            _charge(connection, voided, -1)


def _declare(connection: sqlite3.Connection, body: Mapping[str, Any]) -> None:
    for entry in body["slots"]:
        slot = Slot(**entry)
        connection.execute(
            "INSERT INTO slots (purpose, q, z, weight, declared, spent) VALUES (?, ?, ?, ?, ?, 0)"
            " ON CONFLICT (purpose, q, z) DO UPDATE SET declared = declared + excluded.declared",
            (slot.purpose, slot.sampling_rate, slot.noise_multiplier, slot.weight, slot.count),
        )
    _move(connection, body["costs"], 1)


def _charge(connection: sqlite3.Connection, body: Mapping[str, Any], sign: int) -> None:
    if body["slot"] is not None:
        least = fits_multiplier(body["charged_multiplier"])
        changed = connection.execute(
            "UPDATE slots SET spent = spent + ?"
            " WHERE slot = ? AND purpose = ? AND q >= ? AND z <= ?",
            (sign, body["slot"], body["purpose"], body["sampling"]["q"], least),
        ).rowcount
        if changed != 1:
            raise LedgerError(f"Expected slot {body['slot']} to dominate the draw that spends it.")
        return
    _move(connection, body["costs"], sign)
    connection.execute(
        "INSERT INTO tallies VALUES (?, ?, 1)"
        " ON CONFLICT (purpose, event) DO UPDATE SET count = count + ?",
        (body["purpose"], body["tally"], sign),
    )


def _move(connection: sqlite3.Connection, costs: Mapping[str, int], sign: int) -> None:
    for scope, units in costs.items():
        changed = connection.execute(
            "UPDATE filters SET spent = spent + ? WHERE scope = ?", (sign * units, scope)
        ).rowcount
        if changed != 1 or units < 0:
            raise LedgerError(f"Expected a filter {scope!r} and a cost of at least 0, got {units}.")


def _advance(connection: sqlite3.Connection, kind: str, reservation: int) -> None:
    changed = connection.execute(
        "UPDATE reservations SET state = ? WHERE seq = ? AND state = ?",
        (AFTER[kind], reservation, BEFORE[kind]),
    ).rowcount
    if changed == 1:
        return
    row = connection.execute(
        "SELECT state FROM reservations WHERE seq = ?", (reservation,)
    ).fetchone()
    raise ReservationState(
        f"Expected reservation {reservation} to be {BEFORE[kind]!r} before it can be"
        f" {AFTER[kind]!r}, got {row[0] if row else 'no such reservation'!r}."
        " Steps are reserve, open, commit; void is possible only before open."
    )


def schema(connection: sqlite3.Connection) -> list[tuple]:
    """Every table, index and trigger with its definition."""
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2"
    return connection.execute(query).fetchall()


def totals(connection: sqlite3.Connection) -> dict[str, list[tuple]]:
    """Every derived table, sorted, for comparison."""
    return {
        table: connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
        for table, columns in DERIVED.items()
    }
