"""Planning: the cost of a schedule of draws on a filter, before anything is released.

Slots are Poisson Gaussians; draws of a fixed size, and Skellam noise, are paid from a filter on the
Renyi divergence at one order. `filter_for` chooses this order for a schedule. `quote` prices the
schedule in both views and says whether it fits the budgets.

>>> terms = ((FixedSizeGaussian(1000, 50, 4.0), 1),)
>>> schedule = [Draws("training", terms, 100)]
>>> plan = quote(schedule, Budget(8.0, 1e-5), relation="REPLACE_ONE")
>>> plan.accountant, round(plan.released["total"], 2), round(plan.server["total"], 1), plan.fits
('rdp@4', 2.49, 33.1, True)

Sources: docs/ledger-slots.md, section 3; docs/decisions/0037-noise-by-clients-needs-public-sizes.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from privacy.accounting.calibration import least_noise
from privacy.accounting.filters import Filter, best_order
from privacy.accounting.slots import TOTAL, Plan, by_purpose, expect_all, quoted
from privacy.accounting.terms import (
    FixedSizeGaussian,
    FixedSizeSkellam,
    GaussianTerm,
    Leaf,
    SkellamTerm,
    Terms,
)
from privacy.budgets import Budget, expect_budget
from privacy.checking import expect_mapping
from privacy.errors import BudgetExceeded, InvalidEvent, UnsupportedEvent
from privacy.ledger.admission import filter_fits
from privacy.ledger.ledger import Ledger, expect_ledger
from privacy.ledger.reports import spent_mechanisms
from privacy.relations import Relation

# Costs are rounded up and capacities down.
_FULL = 1 - 1e-9


@dataclass(frozen=True)
class Draws:
    """`count` planned cohort draws of a purpose, each with the mechanism that a ledger charges."""

    purpose: str
    terms: Terms
    count: int


def filter_for(
    schedule: Sequence[Draws],
    budget: Budget,
    *,
    purposes: Mapping[str, Budget] | None = None,
    relation: str | Relation,
) -> str:
    """The accountant for which a schedule uses the smallest part of its budgets, as "rdp@ORDER".

    The order must be chosen from the plan, before any output is seen. The budgets and the relation
    are those of `Ledger.create`.

    Raises:
      UnsupportedEvent: A draw has no Renyi divergence under the relation.
    """
    _expect_plan(schedule, budget, purposes)
    return f"rdp@{_best_order(schedule, budget, purposes or {}, Relation.parse(relation))[0]}"


def quote(
    schedule: Sequence[Draws],
    budget: Budget,
    *,
    purposes: Mapping[str, Budget] | None = None,
    relation: str | Relation,
    accountant: str | None = None,
) -> Plan:
    """The cost of a schedule in both views; see `Plan`.

    Guarantees:
      `fits` says that a new ledger with these budgets and this accountant, by default that of
      `filter_for`, admits every draw of the schedule.
    """
    _expect_plan(schedule, budget, purposes)
    relation = Relation.parse(relation)
    if accountant is None:
        accountant = filter_for(schedule, budget, purposes=purposes, relation=relation)
    rule, budgets = Filter.parse(accountant), {**(purposes or {}), TOTAL: budget}
    found = quoted(_parts(schedule), budget, purposes or {}, relation)
    # Add draw by draw, like a ledger: each cost is rounded up.
    costs = {
        scope: sum(d.count * rule.cost(d.terms, relation) for d in schedule if _is_in(d, scope))
        for scope in found.released
    }
    fits = all(units <= rule.capacity(budgets.get(n, budget)) for n, units in costs.items())
    return replace(found, fits=fits, accountant=accountant)


def quote_on(ledger: Ledger, schedule: Sequence[Draws]) -> Plan:
    """The cost of a schedule together with all charges of a ledger; writes nothing.

    Guarantees:
      `fits` says that the ledger's filters admit every draw of the schedule now.

    Raises:
      InvalidEvent: A purpose is unknown to the ledger.
    """
    expect_ledger(ledger)
    expect_all(schedule, Draws, "schedule", "Pass [query.draws(...)].")
    charter = ledger.charter
    costs: dict[str, int] = {}
    for draws in schedule:
        charter.check_purpose(draws.purpose)
        for scope, units in charter.costs(draws.purpose, draws.terms).items():
            costs[scope] = costs.get(scope, 0) + draws.count * units
    every = [*_parts(schedule), *spent_mechanisms(ledger.store).items()]
    found = quoted(every, charter.budget, charter.purposes, charter.relation)
    paid = all(charter.costs(draws.purpose, draws.terms) for draws in schedule)
    fits = paid and all(filter_fits(ledger.store, n, units)[0] for n, units in costs.items())
    return ledger.bounds.marked_plan(replace(found, fits=fits, accountant=charter.accountant))


def _expect_plan(schedule: Any, budget: Any, purposes: Any) -> None:
    expect_all(schedule, Draws, "schedule", "Pass [query.draws(...)].")
    expect_budget(budget, "budget")
    advice = "Pass {'training': privacy.Budget(epsilon, delta), ...}."
    expected = "a mapping from purposes to budgets"
    expect_mapping(purposes or {}, Budget, "purposes", expected, advice, InvalidEvent)


def best_load(
    schedule: Sequence[Draws],
    budget: Budget,
    relation: Relation,
    purposes: Mapping[str, Budget] | None = None,
) -> float:
    """The share of the fullest budget's capacity that a schedule uses, at the best order."""
    return _best_order(schedule, budget, purposes or {}, relation)[1] / _FULL


def louder(draws: Draws, factor: float) -> Draws:
    """The same draws with the standard deviation of the noise multiplied by a factor."""
    return Draws(
        draws.purpose, tuple((_louder(leaf, factor), n) for leaf, n in draws.terms), draws.count
    )


def noise_that_fits(
    schedule: Sequence[Draws],
    budget: Budget,
    *,
    purposes: Mapping[str, Budget] | None = None,
    relation: str | Relation,
) -> dict[str, float]:
    """The factors by which the noise of each purpose must grow for a schedule to fit; 1 if it need
    not.

    It first brings each purpose within its own budget, then all purposes by one factor within the
    global one.

    Raises:
      BudgetExceeded: No noise is enough: the budgets have no capacity at any order.
    """
    _expect_plan(schedule, budget, purposes)
    relation, limits = Relation.parse(relation), purposes or {}
    factors = dict.fromkeys((draws.purpose for draws in schedule), 1.0)

    def load(own: Mapping[str, float], limits: Mapping[str, Budget], total: Budget) -> float:
        loud = [louder(d, own[d.purpose]) for d in schedule if d.purpose in own]
        return best_load(loud, total, relation, limits)

    for name in factors:
        limit = limits.get(name, budget)
        factors[name] = _least(lambda f, n=name, b=limit: load({n: f}, {}, b))
    shared = _least(lambda f: load({n: f * own for n, own in factors.items()}, limits, budget))
    return {name: shared * own for name, own in factors.items()}


def _least(load: Callable[[float], float]) -> float:
    """The least factor of at least 1 whose load is within 1."""
    try:
        return 1.0 if load(1.0) <= 1 else least_noise(load, 1.0, 1.0, 2.0)
    except OverflowError:
        raise BudgetExceeded(
            "Expected budgets that fit the schedule with some noise, got ones without "
            "capacity. Use a larger epsilon.",
            purpose=None,
            needed="any noise",
            left="nothing",
        ) from None


def _louder(leaf: Leaf, factor: float) -> Leaf:
    if isinstance(leaf, GaussianTerm | FixedSizeGaussian):
        return replace(leaf, noise_multiplier=leaf.noise_multiplier * factor)
    if isinstance(leaf, SkellamTerm):
        return replace(leaf, variance=leaf.variance * factor**2)
    if isinstance(leaf, FixedSizeSkellam):
        return replace(leaf, noise=_louder(leaf.noise, factor))
    raise UnsupportedEvent(f"Expected Gaussian or Skellam noise on a draw, got {leaf}.")


def _best_order(
    schedule: Sequence[Draws], budget: Budget, purposes: Mapping[str, Budget], relation: Relation
) -> tuple[int, float]:
    budgets = {**purposes, TOTAL: budget}
    scopes = by_purpose(_parts(schedule)).items()
    return best_order([(terms, budgets.get(scope, budget)) for scope, terms in scopes], relation)


def _parts(schedule: Sequence[Draws]) -> list[tuple[str, Terms]]:
    return [(d.purpose, tuple((leaf, n * d.count) for leaf, n in d.terms)) for d in schedule]


def _is_in(draws: Draws, scope: str) -> bool:
    return scope in (TOTAL, draws.purpose)
