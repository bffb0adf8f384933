"""Renyi pricing: adds the divergences of all mechanisms at many orders and converts them to
epsilon.

`privacy.accounting.renyi` computes divergences with short formulas; the library computes the
others. A NaN or negative divergence is an unusable order and not an epsilon of 0.

>>> terms = ((elementary.GaussianTerm(2.0), 8),)
>>> renyi_divergence(terms, 3.0, Relation.ADD_OR_REMOVE_ONE)
3.0

Sources: Mironov (2017); Canonne, Kamath, Steinke (2020), proposition 12; `privacy.accounting.renyi`.
"""

import functools
import math

import numpy as np

from privacy.accounting import terms as elementary
from privacy.accounting.library_curves import library_divergences, refuse_replace_one
from privacy.accounting.renyi import (
    ORDERS,
    at_integers,
    rdp_conversion,
    rdp_delta,
    short_divergence,
)
from privacy.accounting.terms import Leaf, Terms
from privacy.errors import UnsupportedEvent
from privacy.relations import Relation


def renyi_divergence(terms: Terms, order: float, relation: Relation) -> float:
    """Renyi divergence of the given order of the whole composition; may be infinite."""
    total = math.fsum(
        count * float(_leaf_rdp(leaf, relation, (order,))[0]) for leaf, count in terms
    )
    return total if total >= 0 else math.inf


def renyi_epsilon(terms: Terms, delta: float, relation: Relation) -> float:
    """Epsilon at the best order; infinite if no order can be used."""
    best = math.inf
    for order, divergence in zip(ORDERS, _rdp_of(terms, relation), strict=True):
        if delta**2 + math.expm1(-divergence) > 0:
            return 0.0  # delta <= sqrt(1 - exp(-KL)), and KL is at most this divergence
        best = min(best, divergence + rdp_conversion(float(order), delta))
    return float(best)


def renyi_delta(terms: Terms, epsilon: float, relation: Relation) -> float:
    """Delta at the best order."""
    return rdp_delta(_rdp_of(terms, relation), epsilon)


def _rdp_of(terms: Terms, relation: Relation) -> np.ndarray:
    orders = tuple(ORDERS)
    return np.sum([count * _leaf_rdp(leaf, relation, orders) for leaf, count in terms], axis=0)


@functools.lru_cache(maxsize=4096)
def _leaf_rdp(leaf: Leaf, relation: Relation, orders: tuple[float, ...]) -> np.ndarray:
    """Divergences of one mechanism; an order that cannot be used is infinite, never 0."""
    divergence = short_divergence(leaf)
    if divergence is None:
        curve = library_divergences(leaf, relation, orders)
    else:
        if isinstance(leaf, elementary.FixedSizeSkellam):
            _require_replace_one(leaf, relation)
        elif getattr(leaf, "q", 1.0) < 1:
            refuse_replace_one(leaf, relation)
        curve = at_integers(orders, divergence)
    curve = np.where(curve >= 0, curve, np.inf)
    if isinstance(leaf, elementary.GaussianTerm):
        # Sampling never increases the divergence, so q=1 bounds every order.
        mu = relation.sensitivity_factor / leaf.noise_multiplier
        curve = np.minimum(curve, np.array(orders) * mu**2 / 2)
    curve.flags.writeable = False
    return curve


def _require_replace_one(leaf: Leaf, relation: Relation) -> None:
    if relation is not Relation.REPLACE_ONE:
        raise UnsupportedEvent(
            f"Expected REPLACE_ONE for a sample of fixed size, got {relation} with {leaf}. A client that"
            " is added takes another's place in the cohort. Create the ledger with REPLACE_ONE."
        )
