"""Admission: decides inside the ledger's write lock whether a plan or a draw fits.

A plan on a "pld" ledger is priced together with all earlier plans, once per purpose and once in
total. A draw spends the cheapest slot that dominates it. Without such a slot it is paid from
filters, if its purpose has any. A refused plan or draw is not written.

Sources: docs/ledger-slots.md, sections 2 and 3.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from privacy.accounting import terms as elementary
from privacy.accounting.calibration import least_noise
from privacy.accounting.pricing import price
from privacy.accounting.slots import TOTAL, Slot, fits_multiplier, slot_terms, tally_key
from privacy.errors import BudgetExceeded, InvalidEvent
from privacy.ledger.charter import Charter
from privacy.ledger.faults import unreadable
from privacy.ledger.store import Store


def stored_slots(store: Store, count: str, purpose: str | None = None) -> list[Slot]:
    """The ledger's slots with a positive count: "declared", "spent" or "declared - spent"."""
    query = f"SELECT purpose, q, z, {count} AS n FROM slots WHERE n > 0 ORDER BY weight, slot"
    rows = store.select(query, (), (str, float, float, int))
    return [Slot(*row) for row in rows if purpose in (None, row[0])]


def admit_plan(store: Store, charter: Charter, slots: Sequence[Slot]) -> dict[str, int]:
    """Returns the filter costs of a plan that fits.

    Raises:
      BudgetExceeded: It does not fit together with all earlier plans.
      InvalidEvent: A purpose is unknown, or it runs on its own filter.
    """
    for slot in slots:
        charter.check_purpose(slot.purpose)
    if charter.accountant == "pld":
        _admit_by_price(store, charter, slots)
        return {}
    costs = plan_costs(charter, slots)
    for scope, units in costs.items():
        check_filter(store, charter, scope, units, "the plan")
    return costs


def plan_costs(charter: Charter, slots: Sequence[Slot]) -> dict[str, int]:
    """The costs of slots in each filter of a ledger that has filters for all purposes."""
    costs: dict[str, int] = {}
    for slot in slots:
        for scope, units in charter.costs(slot.purpose, slot_terms([slot])).items():
            costs[scope] = costs.get(scope, 0) + units
    return costs


def plan_price(charter: Charter, slots: Sequence[Slot], scope: str) -> float:
    """Epsilon of the slots of a scope, at the delta of its planned budget.

    Raises:
      InvalidEvent: The scope runs on its own filter.
    """
    if scope in charter.rules:
        raise InvalidEvent(
            f"Expected slots for planned purposes, got some for {scope!r}, which runs on"
            f" {charter.rules[scope]}. Reserve its draws without slots."
        )
    mine = [slot for slot in slots if scope in (TOTAL, slot.purpose)]
    delta = charter.planned_budget(scope).delta
    return price(slot_terms(mine), delta, relation=charter.relation)


def _admit_by_price(store: Store, charter: Charter, slots: Sequence[Slot]) -> None:
    every = [*stored_slots(store, "declared"), *slots]
    for scope in (*sorted({slot.purpose for slot in slots}), TOTAL):
        needed, budget = plan_price(charter, every, scope), charter.planned_budget(scope)
        if needed > budget.epsilon:
            raise BudgetExceeded(
                f"Expected slots within epsilon {budget.epsilon:g} of {scope!r} at delta"
                f" {budget.delta:g}; with everything declared they need {needed:.4f}."
                f" Nothing was declared.{_fitting_noise(store, charter, slots, scope)} Use more noise,"
                " fewer draws or a lower sampling rate.",
                purpose=None if scope == TOTAL else scope,
                needed=f"epsilon {needed:.4f}",
                left=f"epsilon {budget.epsilon:g} for everything declared",
            )


def _fitting_noise(store: Store, charter: Charter, slots: Sequence[Slot], scope: str) -> str:
    """A sentence about the noise with which a refused plan would fit."""
    declared, budget = stored_slots(store, "declared"), charter.planned_budget(scope)
    mine = [slot for slot in slots if scope in (TOTAL, slot.purpose)]

    def cost(factor: float) -> float:
        loud = [replace(s, noise_multiplier=factor * s.noise_multiplier) for s in mine]
        return plan_price(charter, [*declared, *loud], scope)

    if declared and plan_price(charter, declared, scope) >= budget.epsilon * (1 - 1e-6):
        return " What was declared before leaves nothing."
    try:
        factor = least_noise(cost, budget.epsilon, 1.0, 1.2)
    except OverflowError:
        return " No noise is enough."
    if len(mine) == 1:
        needed = f"{_rounded_up(factor * mine[0].noise_multiplier)}"
        return f" A noise multiplier of {needed} would fit."
    return f" It would fit with {_rounded_up(factor)} times the noise."


def _rounded_up(value: float) -> str:
    digits = 10.0 ** (3 - math.floor(math.log10(value)))
    return f"{math.ceil(value * digits) / digits:g}"


def payment(
    store: Store,
    charter: Charter,
    purpose: str,
    sampling: str,
    q: float,
    z: float | None,
    terms: elementary.Terms,
) -> dict[str, Any]:
    """The payment of a draw: the cheapest slot that dominates it, else filter costs.

    z is the multiplier of the Gaussian as which it is charged; None for another family.

    Raises:
      BudgetExceeded: There is neither a slot nor room in a filter.
    """
    if z is not None and is_poisson(sampling, q):
        query = (
            "SELECT slot FROM slots WHERE purpose = ? AND spent < declared AND q >= ?"
            " AND z <= ? ORDER BY weight, slot LIMIT 1"
        )
        for row in store.select(query, (purpose, q, fits_multiplier(z)), (int,)):
            return {"slot": row[0], "costs": {}, "tally": None}
    noise = f"noise multiplier {z:.6g}" if z is not None else "Skellam noise"
    needed = f"one {sampling} draw with q={q:g} and {noise}"
    costs = charter.costs(purpose, terms)
    if not costs:
        raise _no_slot(store, purpose, needed, q=q, gaussian=z is not None)
    for scope, units in costs.items():
        check_filter(store, charter, scope, units, needed, terms)
    return {"slot": None, "costs": costs, "tally": tally_key(terms)}


def _fitting_draw(charter: Charter, scope: str, terms: elementary.Terms, left: int) -> str:
    """A sentence about the noise with which a refused draw would fit into what is left."""
    ((leaf, count),) = terms
    if left <= 0 or not isinstance(leaf, elementary.GaussianTerm | elementary.FixedSizeGaussian):
        return ""

    def cost(z: float) -> float:
        loud = ((replace(leaf, noise_multiplier=z), count),)
        return float(charter.rules[scope].cost(loud, charter.relation))

    try:
        z = least_noise(cost, float(left), leaf.noise_multiplier, 1.5)
    except OverflowError:
        return ""
    return f" A noise multiplier of {_rounded_up(z)} would fit."


def is_poisson(sampling: str, q: float) -> bool:
    """Whether a draw is a Poisson sample or full participation, like the draws of slots."""
    return sampling == "poisson" or q == 1


def _no_slot(
    store: Store, purpose: str, needed: str, *, q: float, gaussian: bool
) -> BudgetExceeded:
    slots = stored_slots(store, "declared - spent", purpose)
    left = ", ".join(
        f"{slot.count} x (q<={slot.sampling_rate:g}, z>={slot.noise_multiplier:g})"
        for slot in slots
    )
    enough = [slot.noise_multiplier for slot in slots if q <= slot.sampling_rate]
    fitting = f" A noise multiplier of {min(enough)!r} would fit." if gaussian and enough else ""
    remedy = (
        " Declare the draw with Ledger.declare before it is needed, or use at least as much noise as"
        " was planned."
        if gaussian
        else " Slots are Gaussian: create the ledger with a filter, as in accountant='rdp@8', or run"
        " the purpose on one (unplanned=)."
    )
    return BudgetExceeded(
        f"Expected a slot of {purpose!r} that dominates {needed}; left are: {left or 'none'}."
        f" Nothing was charged.{fitting}{remedy}",
        purpose=purpose,
        needed=needed,
        left=left or "no slots",
    )


def filter_fits(store: Store, scope: str, units: int) -> tuple[bool, int, int]:
    """Whether a scope's filter has room for a cost, its capacity and what is left of it."""
    rows = store.select("SELECT capacity, spent FROM filters WHERE scope = ?", (scope,), (int, int))
    if not rows:
        raise unreadable(store.path, f"the filter of {scope!r} is missing")
    capacity, spent = rows[0]
    return spent + units <= capacity, capacity, capacity - spent


def check_filter(
    store: Store,
    charter: Charter,
    scope: str,
    units: int,
    needed: str,
    terms: elementary.Terms | None = None,
) -> None:
    """Raises `BudgetExceeded` if a scope's filter has no room for the cost, of one draw of terms."""
    fits, capacity, room = filter_fits(store, scope, units)
    if fits:
        return
    share, left = units / capacity, room / capacity
    fitting = "" if terms is None else _fitting_draw(charter, scope, terms, room)
    raise BudgetExceeded(
        f"Expected a charge within what is left of {scope!r} under {charter.rules[scope]};"
        f" {needed} needs {share:.4%} of its capacity and {left:.4%} is left. Nothing was charged."
        f" Stop here, use more noise, or a lower sampling rate.{fitting}",
        purpose=None if scope == TOTAL else scope,
        needed=f"{needed}: {share:.4%} of the capacity",
        left=f"{left:.4%} of the capacity",
    )
