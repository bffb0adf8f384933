"""Accounting: converts releases to (epsilon, delta).

`epsilon` validates an event and prices its multiset of mechanisms by one of four accountants:
`"pld"` (privacy loss distributions: the tightest), `"rdp"` (Renyi divergences), `"gdp"` (exact, for
Gaussians with full participation) and `"zcdp"`. They are in `loss_pricing`, `renyi_pricing` and
`gaussian_pricing`.

Every returned number is an upper bound for the multiset: a count at any depth is used, and a
replaced client counts twice in RDP too. `filters` and `slots` determine which multisets an analyst
may choose after seeing outputs.

>>> round(epsilon({"type": "gaussian", "noise_multiplier": 1.0}, 1e-5), 3)
4.377

Sources: those of the three modules.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from privacy.accounting import terms as elementary
from privacy.accounting.events import parse_event
from privacy.accounting.gaussian_pricing import gaussian_epsilon, squared_gdp, zcdp_rho
from privacy.accounting.loss_pricing import loss_delta, loss_epsilon
from privacy.accounting.renyi import zcdp_epsilon
from privacy.accounting.renyi_pricing import renyi_delta, renyi_epsilon
from privacy.accounting.terms import Terms
from privacy.budgets import finite_number, open_unit
from privacy.errors import InvalidEvent, UnsupportedEvent
from privacy.relations import Relation

ACCOUNTANTS: tuple[str, ...] = ("pld", "rdp", "gdp", "zcdp")

_LEAST_NOISE = 1e-100


def epsilon(
    event: Mapping[str, Any],
    delta: float,
    *,
    accountant: str = "pld",
    relation: str | Relation = Relation.ADD_OR_REMOVE_ONE,
) -> float:
    """Prices an event.

    Guarantees:
      The composition of the event's mechanisms, each chosen in advance, is (epsilon, delta)-DP
      under the relation. The result is never negative and never NaN; it is infinite only for a
      non-private part.

    Args:
      event: Canonical JSON event, see `privacy.accounting.events`.
      delta: Strictly between 0 and 1.
      accountant: "pld", "rdp", "gdp" or "zcdp".
      relation: Neighbouring relation.

    Raises:
      InvalidEvent: The event or delta is invalid (a ValueError).
      UnsupportedEvent: This accountant has no bound for the event under this relation.

    Source: The module's sources.
    """
    return price(parse_event(event), delta, accountant=accountant, relation=relation)


def delta(
    event: Mapping[str, Any],
    epsilon: float,
    *,
    accountant: str = "pld",
    relation: str | Relation = Relation.ADD_OR_REMOVE_ONE,
) -> float:
    """The delta at which the event is (epsilon, delta)-DP; a dual of `epsilon`.

    Raises:
      InvalidEvent: The event or epsilon is invalid.
      UnsupportedEvent: No bound is known, or the accountant is neither "pld" nor "rdp".
    """
    terms, relation = parse_event(event), Relation.parse(relation)
    target = finite_number(epsilon, "epsilon")
    if target < 0:
        raise InvalidEvent(f"Expected epsilon of at least 0, got {epsilon!r}.")
    _check_sizes(terms)
    if _contains_non_private(terms):
        return 1.0
    if accountant == "pld":
        value = loss_delta(terms, target, relation)
    elif accountant == "rdp":
        value = renyi_delta(terms, target, relation)
    else:
        raise UnsupportedEvent(f"Expected accountant 'pld' or 'rdp' for delta, got {accountant!r}.")
    return min(1.0, max(0.0, value))


def price(
    terms: Terms,
    delta: float,
    *,
    accountant: str = "pld",
    relation: str | Relation = Relation.ADD_OR_REMOVE_ONE,
) -> float:
    """`epsilon` of parsed terms, with a cache."""
    delta, relation = open_unit(delta, "delta"), Relation.parse(relation)
    pricer = _PRICERS.get(accountant)
    if pricer is None:
        raise InvalidEvent(f"Expected an accountant among {ACCOUNTANTS}, got {accountant!r}.")
    if not terms:
        return 0.0
    _check_sizes(terms)
    if _contains_non_private(terms):
        return math.inf
    value = pricer(terms, delta, relation)
    if math.isnan(value):
        raise UnsupportedEvent(
            f"Expected a finite {accountant} curve for {terms}, got NaN at every order."
            " Use another accountant or less extreme parameters."
        )
    return max(0.0, value)


def _check_sizes(terms: Terms) -> None:
    for leaf, _ in terms:
        if getattr(leaf, "noise_multiplier", 1.0) < _LEAST_NOISE:
            raise InvalidEvent(
                f"Expected a noise multiplier of at least {_LEAST_NOISE:g}, whose price is a float, got"
                f" {leaf}. Use values between 1e-6 and 1e12."
            )


def _contains_non_private(terms: Terms) -> bool:
    return any(
        isinstance(leaf, elementary.NonPrivate)
        or (isinstance(leaf, elementary.RepeatAndSelect) and _contains_non_private(leaf.terms))
        for leaf, _ in terms
    )


def _gdp_epsilon(terms: Terms, delta: float, relation: Relation) -> float:
    return gaussian_epsilon(math.sqrt(squared_gdp(terms, relation)), delta)


def _zcdp_epsilon(terms: Terms, delta: float, relation: Relation) -> float:
    return zcdp_epsilon(zcdp_rho(terms, relation), delta)


_PRICERS: Mapping[str, Callable[[Terms, float, Relation], float]] = {
    "pld": loss_epsilon,
    "rdp": renyi_epsilon,
    "gdp": _gdp_epsilon,
    "zcdp": _zcdp_epsilon,
}
