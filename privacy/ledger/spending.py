"""Spending: the used budget of a ledger after each part of its draws.

The records state which draw spent which slot, so any prefix of them can be priced like
`Ledger.spent`. This is a report, like `spent`; slots and filters decide.

Source: docs/ledger-slots.md, section 3.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from privacy.accounting import events
from privacy.accounting import terms as elementary
from privacy.accounting.slots import TOTAL, Slot, quoted, slot_terms
from privacy.checking import expect_count
from privacy.errors import LedgerError
from privacy.ledger.ledger import Ledger, expect_ledger
from privacy.ledger.store import Store

VIEWS = ("released", "server")


@dataclass(frozen=True)
class Spent:
    """The spent budget after some draws, without voided ones: view to scope to epsilon.

    A scope is a purpose that has spent anything, or "total".
    """

    draws: int
    epsilon: Mapping[str, Mapping[str, float]]


def spending(ledger: Ledger, *, points: int = 8) -> list[Spent]:
    """Epsilon after 1/points, 2/points, ... of all draws, in both views.

    Args:
      ledger: Any ledger.
      points: Number of points of the curve; each costs as much as two calls of `Ledger.spent`.
    """
    expect_ledger(ledger)
    expect_count(points, "points", "It counts points of the curve.", least=1, error=LedgerError)
    charged, slots = _charges(ledger.store), _slots(ledger.store)
    unbounded = ledger.bounds.charges()
    edges = sorted({round(len(charged) * k / points) for k in range(1, points + 1)} - {0})
    curve, counts, done = [], Counter(), 0
    for edge in edges:
        counts.update(charge for _, charge in charged[done:edge])
        done = edge
        priced = _priced(ledger, counts, slots)
        for purpose in {purpose for seq, (purpose, *_) in charged[:edge] if seq in unbounded}:
            priced["released"] |= dict.fromkeys((purpose, TOTAL), math.inf)
        curve.append(Spent(edge, priced))
    return curve


# A draw counts as its purpose with its spent slot or event.
_Charge = tuple[str, int | None, str | None]


def _charges(store: Store) -> list[tuple[int, _Charge]]:
    query = (
        "SELECT r.seq, r.purpose, json_extract(t.text, '$.slot'), json_extract(t.text, '$.tally')"
        " FROM reservations r JOIN records t ON t.seq = r.seq WHERE r.state != 'void' ORDER BY r.seq"
    )
    with store.reading() as connection:
        return [(seq, (p, s, t)) for seq, p, s, t in connection.execute(query).fetchall()]


def _slots(store: Store) -> dict[int, tuple[float, float]]:
    with store.reading() as connection:
        return {row[0]: row[1:] for row in connection.execute("SELECT slot, q, z FROM slots")}


def _priced(
    ledger: Ledger, counts: Mapping[_Charge, int], slots: Mapping[int, tuple[float, float]]
) -> dict[str, dict[str, float]]:
    parts: list[tuple[str, elementary.Terms]] = []
    for (purpose, slot, tally), count in counts.items():
        if slot is not None:
            own = slot_terms([Slot(purpose, *slots[slot], count)])
        else:
            assert tally is not None  # a draw is paid from a slot or from a filter
            own = tuple((leaf, count) for leaf, _ in events.parse_event(json.loads(tally)))
        parts.append((purpose, own))
    charter = ledger.charter
    found = quoted(parts, charter.budget, charter.purposes, charter.relation)
    return {"released": dict(found.released), "server": dict(found.server)}
