"""Calibration: the noise for a budget, and the number of rounds that a budget pays for.

Both functions account for past releases, given as an event. Their results are safe: the plan is
within the budget for the same accountant that admits it.

>>> budget = Budget(1.0, 1e-6)
>>> rounds_for(budget, sampling_rate=1.0, noise_multiplier=50.0)
140
>>> round(noise_multiplier_for(Budget(4.377, 1e-5), sampling_rate=1.0, rounds=1), 2)
1.0

Sources: `privacy.accounting.pricing`.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from privacy.accounting.events import parse_event
from privacy.accounting.pricing import price
from privacy.accounting.terms import MAX_COUNT, GaussianTerm, Terms, make_terms
from privacy.budgets import (
    Budget,
    expect_budget,
    positive_count,
    positive_number,
    sampling_probability,
)
from privacy.errors import BudgetExceeded, UnsupportedEvent
from privacy.relations import Relation

_PRECISION = 1e-4
_MAX_NOISE = 1e9


def noise_multiplier_for(
    budget: Budget,
    *,
    sampling_rate: float,
    rounds: int,
    spent: Mapping[str, Any] | None = None,
    accountant: str = "pld",
    relation: str | Relation = Relation.ADD_OR_REMOVE_ONE,
) -> float:
    """The least joint noise multiplier, to one in 10,000, with which rounds fit into a budget.

    Args:
      budget: The budget of all releases, including past ones.
      sampling_rate: Poisson rate q of each round.
      rounds: Cohort draws.
      spent: Event of what was already released, or None.
      accountant: As in `accounting.epsilon`.
      relation: Neighbouring relation.

    Raises:
      BudgetExceeded: The past releases leave no budget.
    """
    expect_budget(budget, "budget")
    before, q = _spent(spent), sampling_probability(sampling_rate)
    rounds = positive_count(rounds, "rounds")

    if before and price(before, budget.delta, accountant=accountant, relation=relation) >= (
        budget.epsilon
    ):
        raise BudgetExceeded(
            f"Expected room in {budget} beside what was spent, got none for any round at any noise."
            " Pass a larger budget or stop.",
            purpose=None,
            needed="any round at any noise",
            left="nothing",
        )

    def cost(z: float, accountant: str = accountant) -> float:
        terms = make_terms([*before, (GaussianTerm(z, q), rounds)])
        return price(terms, budget.delta, accountant=accountant, relation=relation)

    high = 1.0
    with contextlib.suppress(UnsupportedEvent):  # a cheap bound is a good starting point
        high = least_noise(lambda z: cost(z, "rdp"), budget.epsilon, high, 2.0)
    return least_noise(cost, budget.epsilon, high, 1.15)


def least_noise(cost: Callable[[float], float], target: float, start: float, step: float) -> float:
    """The least z whose cost is within a target, to one in 10,000, searched around start.

    Raises:
      OverflowError: No z is within the target.
    """
    low = high = start
    while cost(high) > target:
        if high > _MAX_NOISE:
            raise OverflowError("no noise is enough")
        low, high, step = high, high * step, min(step**2, 1e3)
    while low == high or cost(low) <= target:
        low, high, step = low / step, low, min(step**2, 1e3)
        if low < 1e-60:
            return high
    return _least(cost, target, low, high)


def _least(cost: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The least z that fits, between one that does not and one that does.

    False position on log cost over log z, which is nearly a line, with a bisection every third step.
    """
    above, below = math.log(cost(low) / target), math.log(max(cost(high), 1e-300) / target)
    step = 0
    while high / low > 1 + _PRECISION and below < -_PRECISION:
        step += 1
        share = 0.5 if step % 3 == 0 else min(0.98, max(0.02, above / (above - below)))
        middle = low * (high / low) ** share
        value = math.log(max(cost(middle), 1e-300) / target)
        if value > 0:
            low, above = middle, value
        else:
            high, below = middle, value
    return high


def rounds_for(
    budget: Budget,
    *,
    sampling_rate: float,
    noise_multiplier: float,
    spent: Mapping[str, Any] | None = None,
    accountant: str = "pld",
    relation: str | Relation = Relation.ADD_OR_REMOVE_ONE,
) -> int:
    """The exact largest number of equal rounds that fit into a budget; may be 0.

    The noise multiplier is the joint effective one of each round; all else is as in
    `noise_multiplier_for`.
    """
    expect_budget(budget, "budget")
    before, z = _spent(spent), positive_number(noise_multiplier, "noise_multiplier")
    q = sampling_probability(sampling_rate)

    def fits(rounds: int) -> bool:
        terms = make_terms([*before, (GaussianTerm(z, q), rounds)])
        return (
            price(terms, budget.delta, accountant=accountant, relation=relation) <= budget.epsilon
        )

    low, high, most = 0, 1, MAX_COUNT // 2
    while high < most and fits(high):
        low, high = high, min(4 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _spent(event: Mapping[str, Any] | None) -> Terms:
    return () if event is None else parse_event(event)
