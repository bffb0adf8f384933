"""Accounting: from what was released to (epsilon, delta). The only importer of dp_accounting.

`epsilon` validates an event before it prices it, and prices the multiset of what it contains by
one of four accountants: `"pld"` (privacy loss distributions: the tightest), `"rdp"` (Renyi
divergences), `"gdp"` (exact, Gaussians with everyone taking part) and `"zcdp"`.

The library is asked only for elementary curves of validated mechanisms; the composition, the
counts, the relation's factor and the conversion are done here. That is why a count at any depth is
honoured, a replaced client counts twice in RDP too, and a divergence that is NaN or negative is an
unusable order and not an epsilon of 0. Every number returned is an upper bound for the multiset;
which multisets an analyst may choose after seeing outputs is the job of `filters` and `slots`.

>>> round(epsilon({"type": "gaussian", "noise_multiplier": 1.0}, 1e-5), 3)
4.377

Sources: Koskela, Jaelkoe, Honkela (2020) and Doroshenko et al. (2022) for PLD; Mironov, Talwar,
Zhang (2019) for sampled Gaussians in RDP; Balle & Wang (2018) for one Gaussian; `privacy.renyi`.
"""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting import dp_event, rdp
from dp_accounting.pld import privacy_loss_distribution as pld_library
from dp_accounting.privacy_accountant import NeighboringRelation

from privacy import terms as elementary
from privacy.budgets import finite_number, open_unit
from privacy.errors import InvalidEvent, UnsupportedEvent
from privacy.events import parse_event
from privacy.loss_composition import composed_delta, composed_epsilon, stays_within
from privacy.loss_distributions import directions
from privacy.relations import Relation
from privacy.renyi import (
    ORDERS,
    at_integers,
    integer_noise_divergence,
    rdp_conversion,
    rdp_delta,
    sampled_zcdp_divergence,
    zcdp_epsilon,
)
from privacy.terms import Leaf, Terms

ACCOUNTANTS: tuple[str, ...] = ("pld", "rdp", "gdp", "zcdp")

# For truncated samples, whose losses the library puts on a grid and composes without a tilt: its
# rounding errors, of up to 4e-13 where seen, are allowed for.
_LIBRARY_ERROR = 4e-12
_LOSS_GRID = 1e-4
_TINY_MU = 1e-7
_TINY_DELTA = 1e-250
_LEAST_NOISE = 1e-100
# With less Gaussian noise, points some standard deviations apart are no longer distinct floats, and
# with less Laplace noise the integral needs more points than its price, far above 100, is worth.
_FINEST_NOISE = {elementary.Gaussian: 1e-6, elementary.Laplace: 1e-2}


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
      under the relation. Never negative, never NaN; infinite only for a non-private part.

    Args:
      event: Canonical JSON event, see `privacy.events`.
      delta: Strictly between 0 and 1.
      accountant: "pld", "rdp", "gdp" or "zcdp".
      relation: Neighbouring relation.

    Raises:
      InvalidEvent: The event or delta makes no sense (a ValueError).
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
      InvalidEvent: The event or epsilon makes no sense.
      UnsupportedEvent: There is no bound, or the accountant is neither "pld" nor "rdp".
    """
    terms, relation = parse_event(event), Relation.parse(relation)
    target = finite_number(epsilon, "epsilon")
    if target < 0:
        raise InvalidEvent(f"Expected epsilon of at least 0, got {epsilon!r}.")
    _check_sizes(terms)
    if _contains_non_private(terms):
        return 1.0
    if accountant == "pld":
        value = _pld_delta(terms, target, relation)
    elif accountant == "rdp":
        value = rdp_delta(_rdp_of(terms, relation), target)
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
    """`epsilon` of already parsed terms; repeated questions are answered from a cache."""
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


def renyi_divergence(terms: Terms, order: float, relation: Relation) -> float:
    """Renyi divergence of the given order of the whole composition; may be infinite."""
    total = math.fsum(
        count * float(_leaf_rdp(leaf, relation, (order,))[0]) for leaf, count in terms
    )
    return total if total >= 0 else math.inf


def squared_gdp(terms: Terms, relation: Relation) -> float:
    """mu^2 of Gaussians in which everyone takes part: sum of (factor / z)^2.

    Raises:
      UnsupportedEvent: A sample or another family, whose trade-off curve is not Gaussian.
    """
    total = []
    for leaf, count in terms:
        if not isinstance(leaf, elementary.Gaussian) or leaf.q != 1:
            raise UnsupportedEvent(
                f"Expected Gaussians with everyone taking part (q=1) for gdp, got {leaf}."
                " Charge q=1, or use accountant 'pld' or 'rdp'."
            )
        ratio = relation.sensitivity_factor / leaf.noise_multiplier
        total.append(count * ratio * ratio)
    return math.fsum(total)


def zcdp_rho(terms: Terms, relation: Relation) -> float:
    """The rho of Gaussians and rho-zCDP mechanisms in which everyone takes part.

    Raises:
      UnsupportedEvent: A sample, or a family without a rho.
    """
    total = []
    for leaf, count in terms:
        if isinstance(leaf, elementary.Gaussian) and leaf.q == 1:
            total.append(squared_gdp(((leaf, count),), relation) / 2)
        elif isinstance(leaf, elementary.ZCdp) and leaf.q == 1 and leaf.xi == 0:
            total.append(count * leaf.rho)
        else:
            raise UnsupportedEvent(
                f"Expected full participation (q=1) and a rho for zcdp, got {leaf}."
                " Charge q=1, or use accountant 'pld' or 'rdp'."
            )
    return math.fsum(total)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Exact epsilon of a mechanism whose trade-off curve is that of N(0, 1) against N(mu, 1)."""
    if mu < _TINY_MU:  # the exact formula subtracts nearly equal numbers; this bound holds always
        overlap = mu / math.sqrt(2 * math.pi) <= delta  # total variation
        return 0.0 if overlap else mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    with np.errstate(all="ignore"):
        return float(dp_accounting.get_epsilon_gaussian(1 / mu, delta))


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


# Renyi divergences.


def _rdp_of(terms: Terms, relation: Relation) -> np.ndarray:
    orders = tuple(ORDERS)
    return np.sum([count * _leaf_rdp(leaf, relation, orders) for leaf, count in terms], axis=0)


@functools.lru_cache(maxsize=4096)
def _leaf_rdp(leaf: Leaf, relation: Relation, orders: tuple[float, ...]) -> np.ndarray:
    """Divergences of one mechanism; an order that cannot be used is infinite, never 0."""
    if isinstance(leaf, elementary.FixedSizeSkellam):
        _require_replace_one(leaf, relation)
        curve = at_integers(orders, functools.partial(integer_noise_divergence, leaf))
    elif isinstance(leaf, elementary.DistributedDiscreteGaussian | elementary.Skellam):
        if isinstance(leaf, elementary.Skellam) and leaf.q < 1:
            _refuse_replace_one(leaf, relation)
        curve = at_integers(orders, functools.partial(integer_noise_divergence, leaf))
    elif isinstance(leaf, elementary.ZCdp) and leaf.q < 1:
        _refuse_replace_one(leaf, relation)
        curve = at_integers(orders, functools.partial(sampled_zcdp_divergence, leaf))
    else:
        accountant = rdp.RdpAccountant(orders, NeighboringRelation[relation.name])
        event = _dp_event(leaf, relation)
        if not accountant.supports(event):
            raise UnsupportedEvent(
                f"Expected a mechanism with a known Renyi divergence under {relation}, got {leaf}."
                " Use accountant 'pld' or the relation that the mechanism is analysed for."
            )
        with np.errstate(all="ignore"), _quiet():
            curve = accountant.compose(event).rdp
    curve = np.where(curve >= 0, curve, np.inf)
    if isinstance(leaf, elementary.Gaussian):  # sampling never hurts, so q=1 bounds every order
        mu = relation.sensitivity_factor / leaf.noise_multiplier
        curve = np.minimum(curve, np.array(orders) * mu**2 / 2)
    curve.flags.writeable = False
    return curve


@contextlib.contextmanager
def _quiet():
    """Drops the library's log lines on orders without convergence; those are handled here."""
    logger = logging.getLogger("absl")

    def drop(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _refuse_replace_one(leaf: Leaf, relation: Relation) -> None:
    if relation is Relation.REPLACE_ONE:
        raise UnsupportedEvent(
            f"Expected ADD_OR_REMOVE_ONE or REPLACE_SPECIAL for a Poisson sample, got {relation}"
            f" with {leaf}. Use accountant 'pld' for Gaussians under REPLACE_ONE."
        )


def _require_replace_one(leaf: Leaf, relation: Relation) -> None:
    if relation is not Relation.REPLACE_ONE:
        raise UnsupportedEvent(
            f"Expected REPLACE_ONE for a sample of fixed size, got {relation} with {leaf}. A client that"
            " is added takes another's place in the cohort. Create the ledger with REPLACE_ONE."
        )


def _dp_event(leaf: Leaf, relation: Relation) -> dp_event.DpEvent:
    """The library's event for RDP, whose noise multipliers are relative to the sensitivity."""
    factor = relation.sensitivity_factor
    match leaf:
        case elementary.Gaussian(z, q):
            if q < 1:
                _refuse_replace_one(leaf, relation)
            inner = dp_event.GaussianDpEvent(z / factor)
            return inner if q == 1 else dp_event.PoissonSampledDpEvent(q, inner)
        case elementary.Laplace(b, 1.0):
            return dp_event.LaplaceDpEvent(b / factor)
        case elementary.ZCdp(rho, xi, 1.0):
            return dp_event.ZCDpEvent(rho, xi)
        case elementary.FixedSizeGaussian(size, sample, z):
            inner = dp_event.GaussianDpEvent(z / factor)
            return dp_event.SampledWithoutReplacementDpEvent(size, sample, inner)
        case elementary.Tree(z, steps):
            return dp_event.SingleEpochTreeAggregationDpEvent(z, steps)
        case elementary.RepeatAndSelect(terms, mean, shape):
            parts: list[dp_event.DpEvent] = [
                dp_event.SelfComposedDpEvent(_dp_event(part, relation), n) for part, n in terms
            ]
            return dp_event.RepeatAndSelectDpEvent(dp_event.ComposedDpEvent(parts), mean, shape)
    return dp_event.UnsupportedDpEvent()


def _rdp_epsilon(terms: Terms, delta: float, relation: Relation) -> float:
    best = math.inf
    for order, divergence in zip(ORDERS, _rdp_of(terms, relation), strict=True):
        if delta**2 + math.expm1(-divergence) > 0:
            return 0.0  # delta <= sqrt(1 - exp(-KL)), and KL is at most this divergence
        best = min(best, divergence + rdp_conversion(float(order), delta))
    return float(best)


# Privacy loss distributions.


def _pld_epsilon(terms: Terms, delta: float, relation: Relation) -> float:
    if all(isinstance(leaf, elementary.Gaussian) and leaf.q == 1 for leaf, _ in terms):
        return gaussian_epsilon(math.sqrt(squared_gdp(terms, relation)), delta)
    return _cached_pld_epsilon(terms, delta, relation)


@functools.lru_cache(maxsize=4096)
def _cached_pld_epsilon(terms: Terms, delta: float, relation: Relation) -> float:
    parts = _composable(terms, relation)
    if parts is None:
        error = _library_error(terms)
        if delta <= 2 * error:
            raise UnsupportedEvent(
                f"Expected delta above {2 * error:.2g} for privacy loss distributions that the"
                f" library composes, got {delta:g} for {terms}. Use accountant 'rdp', or a larger delta."
            )
        return float(_library_pld(terms, relation).get_epsilon_for_delta(delta - error))
    if _total_variation(parts, relation) <= delta:
        return 0.0
    if _is_too_fine(parts):
        return _coarse_epsilon(terms, delta, relation)
    first, *others = directions(relation)
    found = composed_epsilon(parts, first, delta)
    for way in others:
        if not stays_within(parts, way, found, delta):
            found = max(found, composed_epsilon(parts, way, delta))
    if math.isinf(found):
        found = _coarse_epsilon(terms, delta, relation)
    return found


def _pld_delta(terms: Terms, epsilon: float, relation: Relation) -> float:
    parts = _composable(terms, relation)
    if parts is None:
        pld = _library_pld(terms, relation)
        return float(pld.get_delta_for_epsilon(epsilon)) + _library_error(terms)
    farthest = _total_variation(parts, relation)
    if farthest < _TINY_DELTA:
        return farthest
    if _is_too_fine(parts):
        with contextlib.suppress(UnsupportedEvent):
            return min(farthest, rdp_delta(_rdp_of(terms, relation), epsilon))
        return farthest
    return min(farthest, max(composed_delta(parts, way, epsilon) for way in directions(relation)))


def _is_too_fine(parts: list[tuple[elementary.Gaussian | elementary.Laplace, int]]) -> bool:
    """Whether a mechanism's losses are not computed: epsilon is astronomical where they matter."""
    return any(leaf.noise_multiplier < _FINEST_NOISE[type(leaf)] for leaf, _ in parts)


def _composable(
    terms: Terms, relation: Relation
) -> list[tuple[elementary.Gaussian | elementary.Laplace, int]] | None:
    """The terms, full Gaussians merged, if the losses of all of them are known; else None."""
    full, parts = [], []
    for leaf, count in terms:
        if isinstance(leaf, elementary.Gaussian) and leaf.q == 1:
            full.append((leaf.noise_multiplier, count))
        elif isinstance(leaf, elementary.Gaussian | elementary.Laplace):
            if (
                isinstance(leaf, elementary.Laplace)
                and leaf.q < 1
                and len(directions(relation)) == 1
            ):
                raise _no_pld(leaf, relation)
            parts.append((leaf, count))
        else:
            return None
    if full:
        parts.append((elementary.Gaussian(elementary.joint_noise_multiplier(full)), 1))
    return parts


def _total_variation(
    parts: list[tuple[elementary.Gaussian | elementary.Laplace, int]], relation: Relation
) -> float:
    """At most this far apart are the outputs on neighbours: delta is never more."""
    total = 0.0
    for leaf, count in parts:
        shift = relation.sensitivity_factor / leaf.noise_multiplier
        if isinstance(leaf, elementary.Gaussian):
            total += count * leaf.q * math.erf(shift / math.sqrt(8))
        else:
            total += count * leaf.q * -math.expm1(-shift / 2)
    return min(1.0, total * (1 + 1e-12))


def _coarse_epsilon(terms: Terms, delta: float, relation: Relation) -> float:
    """Where the losses do not fit on a grid: Renyi divergences, or the mechanisms without sampling."""
    bounds = []
    if all(isinstance(leaf, elementary.Gaussian | elementary.Laplace) for leaf, _ in terms):
        full = tuple(
            (elementary.Gaussian(leaf.noise_multiplier), count)
            for leaf, count in terms
            if isinstance(leaf, elementary.Gaussian)
        )
        pure = math.fsum(
            count * relation.sensitivity_factor / leaf.noise_multiplier
            for leaf, count in terms
            if isinstance(leaf, elementary.Laplace)
        )
        rest = gaussian_epsilon(math.sqrt(squared_gdp(full, relation)), delta) if full else 0.0
        bounds.append(pure + rest)
    with contextlib.suppress(UnsupportedEvent):
        bounds.append(_rdp_epsilon(terms, delta, relation))
    return min(bounds, default=math.inf)


@functools.lru_cache(maxsize=16)
def _library_pld(terms: Terms, relation: Relation) -> Any:
    total = pld_library.identity(value_discretization_interval=_LOSS_GRID)
    for leaf, count in terms:
        part = _library_leaf(leaf, relation)
        total = total.compose(part.self_compose(count) if count > 1 else part)
    return total


@functools.lru_cache(maxsize=64)
def _library_leaf(leaf: Leaf, relation: Relation) -> Any:
    neighbouring = NeighboringRelation[relation.name]
    options: dict[str, Any] = {"value_discretization_interval": _LOSS_GRID}
    match leaf:
        case elementary.Gaussian(z, q):
            return pld_library.from_gaussian_mechanism(
                z, sampling_prob=q, neighboring_relation=neighbouring, **options
            )
        case elementary.TruncatedGaussian(size, q, cap, z):
            return pld_library.from_truncated_subsampled_gaussian_mechanism(
                size, q, cap, z, neighboring_relation=neighbouring, **options
            )
        case elementary.Laplace(b, q):
            return pld_library.from_laplace_mechanism(
                b / relation.sensitivity_factor, sampling_prob=q, **options
            )
    raise _no_pld(leaf, relation)


def _library_error(terms: Terms) -> float:
    return _LIBRARY_ERROR * (1 + sum(count for _, count in terms) / 10_000)


def _no_pld(leaf: Leaf, relation: Relation) -> UnsupportedEvent:
    return UnsupportedEvent(
        f"Expected a mechanism with a privacy loss distribution under {relation}, got {leaf}."
        " Use accountant 'rdp'."
    )


def _gdp_epsilon(terms: Terms, delta: float, relation: Relation) -> float:
    return gaussian_epsilon(math.sqrt(squared_gdp(terms, relation)), delta)


def _zcdp_epsilon(terms: Terms, delta: float, relation: Relation) -> float:
    return zcdp_epsilon(zcdp_rho(terms, relation), delta)


_PRICERS: Mapping[str, Callable[[Terms, float, Relation], float]] = {
    "pld": _pld_epsilon,
    "rdp": _rdp_epsilon,
    "gdp": _gdp_epsilon,
    "zcdp": _zcdp_epsilon,
}
