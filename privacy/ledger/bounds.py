"""Bounds: charges of older versions whose price is not a bound.

Noise by clients reveals their number, so a Poisson draw with q < 1 has no amplification by a secret
size (`privacy.accounting.sizes`). Older versions charged such draws with amplification. For a
ledger with such a charge no released view is known. Its server view still holds, and it accepts no
further reservations.

Source: docs/decisions/0037-noise-by-clients-needs-public-sizes.md.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from privacy.accounting.sizes import STATEMENT
from privacy.accounting.slots import TOTAL, Plan
from privacy.errors import NoBoundKnown
from privacy.ledger.store import Store

# The text is canonical JSON, in which a quotation mark inside a string is escaped.
_BY_CLIENTS = '"noise_party":"clients"'
_SUSPECT = (
    "SELECT seq FROM records WHERE kind = 'reserve' AND seq > ? AND instr(text, ?) > 0"
    " AND json_extract(text, '$.sampling.q') < 1"
    " AND coalesce(json_extract(text, '$.sampling.kind'), 'poisson') = 'poisson'"
)


class Bounds:
    """The charges of a ledger whose price is not a bound, updated incrementally.

    Args:
      store: The ledger's file; records are only appended, so each is read once.
    """

    def __init__(self, store: Store):
        self._store = store
        self._read = -1
        self._suspects: list[int] = []

    def charges(self) -> dict[int, str]:
        """Record number to purpose of these charges, without voided ones."""
        with self._store.reading() as connection:
            last = connection.execute("SELECT max(seq) FROM records").fetchone()[0]
            rows = connection.execute(_SUSPECT, (self._read, _BY_CLIENTS)).fetchall()
            self._suspects += [row[0] for row in rows]
            self._read = last
            query = "SELECT purpose FROM reservations WHERE seq = ? AND state != 'void'"
            found = {seq: connection.execute(query, (seq,)).fetchone() for seq in self._suspects}
        return {seq: row[0] for seq, row in found.items() if row}

    @property
    def statement(self) -> str:
        """Description of the problem, or ""."""
        found = self.charges()
        if not found:
            return ""
        return (
            f"No bound is known for the released view: {len(found)} draws, the first in record "
            f"{min(found)}, were Poisson samples to which clients added the noise, and the noise "
            "reveals the secret size. The server view still holds. Nothing more can be reserved."
        )

    def require(self) -> None:
        """Raises `NoBoundKnown` if the ledger has such a charge."""
        if statement := self.statement:
            raise NoBoundKnown(
                f"Expected a ledger whose charges are bounds, got one that holds others. {statement}"
                " Begin another ledger, and count what this one released in its server view, which does not"
                " hide who took part."
            )

    def marked(self, spent: Mapping[str, float]) -> dict[str, float]:
        """Epsilons of the released view, infinite for purposes with such a charge and in total."""
        purposes = set(self.charges().values())
        scopes = purposes | {TOTAL} if purposes else purposes
        return {scope: math.inf if scope in scopes else value for scope, value in spent.items()}

    def marked_plan(self, plan: Plan) -> Plan:
        """Marks a plan like `marked`; on such a ledger it does not fit."""
        if not self.charges():
            return plan
        return replace(plan, released=self.marked(plan.released), fits=False)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks that are necessary to interpret the epsilons of the ledger; may be empty."""
        if statement := self.statement:
            return (statement,)
        query = "SELECT 1 FROM records WHERE kind = 'reserve' AND instr(text, ?) > 0 LIMIT 1"
        with self._store.reading() as connection:
            found = connection.execute(query, (_BY_CLIENTS,)).fetchone()
        return (STATEMENT,) if found else ()
