"""Filters: admission of draws whose parameters depend on earlier outputs.

A filter adds integer costs and refuses a charge beyond its capacity. For three costs the plain sum
is valid even if each mechanism is chosen from all earlier outputs: the Renyi divergence at *one*
order fixed in advance (`rdp@a`), mu^2 of Gaussian trade-off curves (`gdp`) and rho (`zcdp`). "The
tightest epsilon of the executed draws" is not among them; docs/ledger-slots.md shows how an analyst
overspends it.

Costs are Python integers in units of 2^-40, rounded up. Capacities are rounded down. Rounding
errors therefore never refund budget.

>>> from privacy.accounting.events import parse_event
>>> rule = Filter.parse("rdp@6")
>>> event = {"type": "poisson", "q": 0.01, "event": {"type": "gaussian", "noise_multiplier": 1.0}}
>>> cost = rule.cost(parse_event(event), Relation.ADD_OR_REMOVE_ONE)
>>> rule.capacity(Budget(4.0, 1e-5)) // cost
3835

Sources: Feldman & Zrnic (2021) for one Renyi order; Koskela, Tobaben, Honkela (2022) and Smith &
Thakurta (2022) for Gaussian DP; Rogers et al. (2016) for why a filter is not an odometer.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from privacy.accounting.gaussian_pricing import gaussian_epsilon, squared_gdp, zcdp_rho
from privacy.accounting.renyi import rdp_conversion, zcdp_epsilon
from privacy.accounting.renyi_pricing import renyi_divergence
from privacy.accounting.terms import Terms
from privacy.budgets import Budget, finite_number
from privacy.errors import InvalidEvent
from privacy.relations import Relation

UNITS = 2**40
MAX_UNITS = 2**62
# The load of a budget decreases up to its best order and increases after it; high orders are
# expensive to compute.
ORDERS = (*range(2, 33), 40, 48, 64, 96, 128, 192, 256)
_PAST_THE_BEST = 4
_ROUNDING = 1e-12  # relative room for the rounding errors of a computed cost


@dataclass(frozen=True)
class Filter:
    """A rule of admission: the cost of a release and the capacity of a budget.

    Attributes:
      kind: "rdp", "gdp" or "zcdp".
      order: The Renyi order of "rdp", fixed for the life of the ledger; 0.0 for the others.
    """

    kind: str
    order: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Filter":
        """Reads "rdp@6", "gdp" or "zcdp"."""
        kind, at, order = str(text).partition("@")
        if kind == "rdp" and at:
            try:
                value = finite_number(float(order), "a Renyi order")
            except ValueError:
                value = 0.0
            if value > 1:
                return cls("rdp", value)
        if kind in ("gdp", "zcdp") and not at:
            return cls(kind)
        raise InvalidEvent(
            f"Expected a filter 'rdp@ORDER' with an order above 1, 'gdp' or 'zcdp'; got {text!r}."
            " One order is fixed in advance: taking the best order afterwards is not a filter."
        )

    def __str__(self):
        return f"{self.kind}@{self.order:g}" if self.kind == "rdp" else self.kind

    def cost(self, terms: Terms, relation: Relation) -> int:
        """Cost of a composition in units, rounded up.

        Raises:
          UnsupportedEvent: The filter has no finite cost for these mechanisms.
        """
        if self.kind == "rdp":
            value = renyi_divergence(terms, self.order, relation)
        else:
            value = (squared_gdp if self.kind == "gdp" else zcdp_rho)(terms, relation)
        units = value * UNITS * (1 + _ROUNDING)
        return min(MAX_UNITS, math.ceil(units)) if units < MAX_UNITS else MAX_UNITS

    def capacity(self, budget: Budget) -> int:
        """The capacity of a budget in units, rounded down.

        Raises:
          InvalidEvent: The order is so low that even zero cost exceeds the budget.
        """
        value = _capacity(self, budget)
        if value <= 0:
            raise InvalidEvent(
                f"Expected a filter under which {budget} holds something; at {self} its capacity is"
                f" {value:.4g}. Use a higher order; best_order(plan) finds one."
            )
        # Below the largest cost, so a mechanism whose cost is truncated there never fits.
        return min(MAX_UNITS - 1, math.floor(value * UNITS * (1 - _ROUNDING)))


@functools.lru_cache(maxsize=256)
def _capacity(rule: Filter, budget: Budget) -> float:
    if rule.kind == "rdp":
        return budget.epsilon - rdp_conversion(rule.order, budget.delta)
    if rule.kind == "gdp":
        mu = _largest(lambda value: gaussian_epsilon(value, budget.delta) <= budget.epsilon)
        return mu**2
    return _largest(lambda value: zcdp_epsilon(value, budget.delta) <= budget.epsilon)


def _largest(fits: Callable[[float], bool]) -> float:
    """The largest positive number that fits, from below, to a relative 2^-50."""
    low, high = 0.0, 1e-6
    while fits(high) and high < 1e12:
        low, high = high, high * 2
    for _ in range(52):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def best_order(scopes: Sequence[tuple[Terms, Budget]], relation: Relation) -> tuple[int, float]:
    """The integer order at which compositions use the least of their budgets, and what they use.

    The order must be chosen from the plan, before any output is seen.

    Args:
      scopes: Compositions, each with the budget that pays for it.
      relation: Neighbouring relation.

    Returns:
      An order of `ORDERS`, and the share of the fullest budget's capacity that is used at it.
    """

    def load(terms: Terms, budget: Budget, order: int) -> float:
        capacity = budget.epsilon - rdp_conversion(order, budget.delta)
        return renyi_divergence(terms, order, relation) / capacity if capacity > 0 else math.inf

    best, least, worse = ORDERS[0], math.inf, 0
    for order in ORDERS:
        fullest = max(load(*scope, order) for scope in scopes)
        best, least, worse = (order, fullest, 0) if fullest < least else (best, least, worse + 1)
        if worse >= _PAST_THE_BEST and least < math.inf:
            break
    return best, least
