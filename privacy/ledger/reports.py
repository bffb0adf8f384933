"""Reports: the planned cost, the spent budget and the remaining budget of a ledger.

Reports decide nothing. Slots and filters admit draws (`privacy.ledger.admission`). A report states
the cost of the same draws if they had been planned, in the released view or in the view of a server
that sees who takes part. No bound is known for the charges in `privacy.ledger.bounds`.

Source: docs/ledger-slots.md, section 3.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from privacy.accounting import events
from privacy.accounting import terms as elementary
from privacy.accounting.pricing import price
from privacy.accounting.slots import TOTAL, Plan, Slot, plan, report, slot_terms, without_sampling
from privacy.budgets import Budget
from privacy.cards import Card
from privacy.errors import BudgetExceeded, InvalidEvent
from privacy.ledger.admission import admit_plan, stored_slots
from privacy.ledger.bounds import Bounds
from privacy.ledger.charter import Charter
from privacy.ledger.faults import unreadable
from privacy.ledger.store import Store


@dataclass(frozen=True)
class Remaining:
    """The remaining budget of a purpose.

    Attributes:
      epsilon: Its budget minus the spent epsilon, in the released view. This is only a report; the
        slots and the filter decide.
      slots: Declared slots that are not yet spent, with their number.
      filter_fraction: Remaining share of its filter's capacity; None without a filter.
    """

    epsilon: float
    slots: tuple[Slot, ...]
    filter_fraction: float | None


def quote(store: Store, charter: Charter, bounds: Bounds, slots: Sequence[Slot]) -> Plan:
    """The cost of all declared slots and these slots; see `Ledger.plan`."""
    with store.reading():
        every = [*stored_slots(store, "declared"), *slots]
        found = plan(every, charter.budget, purposes=charter.purposes, relation=charter.relation)
        try:
            admit_plan(store, charter, slots)
        except BudgetExceeded:
            return bounds.marked_plan(replace(found, fits=False))
    return bounds.marked_plan(replace(found, fits=True))


def spent(store: Store, charter: Charter, bounds: Bounds, view: str) -> dict[str, float]:
    """Spent epsilon by purpose and in total; see `Ledger.spent`."""
    if view not in ("released", "server"):
        raise InvalidEvent(f"Expected view 'released' or 'server', got {view!r}.")
    result = _spent_epsilon(store, charter, released=view == "released")
    return bounds.marked(result) if view == "released" else result


def remaining(store: Store, charter: Charter, bounds: Bounds, purpose: str) -> Remaining:
    """The remaining budget of a purpose; see `Ledger.remaining`."""
    charter.check_purpose(purpose)
    if bounds.charges():
        return Remaining(0.0, (), 0.0)
    fractions, query = [], "SELECT scope, capacity, spent FROM filters"
    for scope, capacity, units in store.select(query, (), (str, int, int)):
        if scope in (purpose, TOTAL):
            fractions.append(1 - units / max(1, capacity))
    used = spent(store, charter, bounds, "released")[purpose]
    epsilon = max(0.0, charter.budget_of(purpose).epsilon - used)
    slots = tuple(stored_slots(store, "declared - spent", purpose))
    return Remaining(epsilon, slots, min(fractions) if fractions else None)


def ledger_card(name: str, store: Store, charter: Charter, bounds: Bounds) -> Card:
    """Budgets and the spent epsilon by purpose in both views; only the budgets of a closed ledger."""
    title = f"ledger {name[:12]}: {charter.population} clients, {charter.relation}"
    budgets = {scope: charter.budget_of(scope) for scope in (*charter.names, TOTAL)}
    rows = [{"purpose": s, "epsilon": b.epsilon, "delta": b.delta} for s, b in budgets.items()]
    if store.closed:
        return Card(title, ("closed",), rows)
    released, server = (spent(store, charter, bounds, view) for view in ("released", "server"))
    for row in rows:
        row["spent: released"] = f"{released[row['purpose']]:.4f}"
        row["spent: server"] = f"{server[row['purpose']]:.4f}"
    return Card(title, tuple(bounds.remarks), rows)


def spent_mechanisms(store: Store) -> dict[str, elementary.Terms]:
    """The reservations that were not voided, by purpose: slots at their declared size, and tallies."""
    result: dict[str, list[tuple[elementary.Leaf, int]]] = {}
    with store.reading():
        for slot in stored_slots(store, "spent"):
            result.setdefault(slot.purpose, []).extend(slot_terms([slot]))
        query = "SELECT purpose, event, count FROM tallies WHERE count > 0"
        for purpose, event, count in store.select(query, (), (str, str, int)):
            pairs = [(leaf, count) for leaf, _ in _tallied(store, event)]
            result.setdefault(purpose, []).extend(pairs)
    return {purpose: elementary.make_terms(pairs) for purpose, pairs in result.items()}


def _tallied(store: Store, event: str) -> elementary.Terms:
    """The mechanism under which draws without a slot are counted.

    Raises:
      LedgerCorrupt: The table of tallies was damaged.
    """
    try:
        return events.parse_event(json.loads(event))
    except (ValueError, RecursionError) as error:
        raise unreadable(store.path, f"a tally that is not an event ({error})") from error


def _spent_epsilon(store: Store, charter: Charter, *, released: bool) -> dict[str, float]:
    """Spent epsilon by purpose and in total, each at its budget's delta.

    For a "pld" ledger with filters and slots, the total is at most the cost of the parts at the
    deltas set aside for them. Spent slots never cost more than their plan.
    """
    view = (lambda terms: terms) if released else without_sampling
    mechanisms, result = spent_mechanisms(store), {}

    def priced(scope: str, names: Iterable[str], budget: Budget) -> float:
        terms = elementary.make_terms([pair for n in names for pair in mechanisms.get(n, ())])
        found = report(view(terms), budget.delta, charter.relation)
        if released and charter.accountant == "pld" and found > budget.epsilon:
            mine = [s for s in stored_slots(store, "declared") if s.purpose in names]
            if scope not in charter.rules and mine:
                plan = price(slot_terms(mine), budget.delta, relation=charter.relation)
                found = min(found, plan)
        return found

    for name in charter.names:
        result[name] = priced(name, [name], charter.budget_of(name))
    # Only there are budgets set aside; if everything runs on filters, budgets may overlap.
    aside = [n for n in charter.rules if n != TOTAL] if charter.accountant == "pld" else []
    planned = [name for name in charter.names if name not in aside]
    if not aside:
        return result | {TOTAL: priced(TOTAL, planned, charter.budget)}
    parts = sum(result[name] for name in aside)
    parts += priced(TOTAL, planned, charter.planned_budget(TOTAL))
    together = elementary.make_terms([pair for found in mechanisms.values() for pair in found])
    whole = report(view(together), charter.budget.delta, charter.relation)
    return result | {TOTAL: min(parts, whole)}
