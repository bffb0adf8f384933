"""Curves of single mechanisms from `dp_accounting`. The only importer of that library.

This module asks the library only for elementary curves of validated mechanisms: Renyi divergences,
the exact epsilon of one Gaussian, and the losses of truncated samples, which it also composes.
Other modules do counts, all other compositions and the conversion to epsilon. If the library has no
bound, this module raises `UnsupportedEvent`.

>>> round(exact_gaussian_epsilon(1.0, 1e-5), 3)
4.377

Sources: Balle & Wang (2018) for one Gaussian; Mironov, Talwar, Zhang (2019) for sampled Gaussians in RDP;
Doroshenko et al. (2022) for losses on a grid.
"""

import contextlib
import functools
import logging
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting import dp_event, rdp
from dp_accounting.pld import privacy_loss_distribution as pld_library
from dp_accounting.privacy_accountant import NeighboringRelation

from privacy.accounting import terms as elementary
from privacy.accounting.terms import Leaf, Terms
from privacy.errors import UnsupportedEvent
from privacy.relations import Relation

# The library puts losses on a grid and composes them without a tilt. This allows for its rounding
# errors, of up to 4e-13 where seen.
_LIBRARY_ERROR = 4e-12
_LOSS_GRID = 1e-4
# The library inverts the losses of a mixture point by point, so its grid is coarser, and with less
# noise it has too many points.
_MIXTURE_GRID = 2e-3
_FINEST_MIXTURE = 0.2


def exact_gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of N(0, 1) against N(mu, 1), from the closed form."""
    with np.errstate(all="ignore"):
        return float(dp_accounting.get_epsilon_gaussian(1 / mu, delta))


def library_divergences(leaf: Leaf, relation: Relation, orders: tuple[float, ...]) -> np.ndarray:
    """Renyi divergences of one mechanism; a NaN or negative value is not a bound.

    Raises:
      UnsupportedEvent: The library has none for this relation.
    """
    accountant = rdp.RdpAccountant(orders, NeighboringRelation[relation.name])
    event = _dp_event(leaf, relation)
    if not accountant.supports(event):
        raise UnsupportedEvent(
            f"Expected a mechanism with a known Renyi divergence under {relation}, got {leaf}."
            " Use accountant 'pld' or the relation that the mechanism is analysed for."
        )
    with np.errstate(all="ignore"), _quiet():
        return accountant.compose(event).rdp


@contextlib.contextmanager
def _quiet():
    """Drops the library's log lines about orders without convergence; this module handles them."""
    logger = logging.getLogger("absl")

    def drop(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def refuse_replace_one(leaf: Leaf, relation: Relation) -> None:
    """Raises `UnsupportedEvent` for a Poisson sample whose divergences are those of other relations."""
    if relation is Relation.REPLACE_ONE:
        raise UnsupportedEvent(
            f"Expected ADD_OR_REMOVE_ONE or REPLACE_SPECIAL for a Poisson sample, got {relation}"
            f" with {leaf}. Use accountant 'pld' for Gaussians under REPLACE_ONE."
        )


def _dp_event(leaf: Leaf, relation: Relation) -> dp_event.DpEvent:
    """The library's event for RDP, whose noise multipliers are relative to the sensitivity."""
    factor = relation.sensitivity_factor
    match leaf:
        case elementary.GaussianTerm(z, q):
            if q < 1:
                refuse_replace_one(leaf, relation)
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


@functools.lru_cache(maxsize=16)
def library_losses(terms: Terms, relation: Relation) -> Any:
    """The library's privacy loss distribution of a composition.

    Raises:
      UnsupportedEvent: A mechanism's losses are not known under this relation.
    """
    mixed = any(isinstance(leaf, elementary.MixtureOfGaussians) for leaf, _ in terms)
    grid = _MIXTURE_GRID if mixed else _LOSS_GRID
    total = pld_library.identity(value_discretization_interval=grid)
    for leaf, count in terms:
        part = _library_leaf(leaf, relation, grid)
        total = total.compose(part.self_compose(count) if count > 1 else part)
    return total


@functools.lru_cache(maxsize=64)
def _library_leaf(leaf: Leaf, relation: Relation, grid: float) -> Any:
    neighbouring = NeighboringRelation[relation.name]
    options: dict[str, Any] = {"value_discretization_interval": grid}
    match leaf:
        case elementary.GaussianTerm(z, q):
            return pld_library.from_gaussian_mechanism(
                z, sampling_prob=q, neighboring_relation=neighbouring, **options
            )
        case elementary.TruncatedGaussian(size, q, cap, z):
            return pld_library.from_truncated_subsampled_gaussian_mechanism(
                size, q, cap, z, neighboring_relation=neighbouring, **options
            )
        case elementary.MixtureOfGaussians(deviation, sizes, probabilities) if (
            relation is not Relation.REPLACE_ONE and deviation >= _FINEST_MIXTURE * max(sizes)
        ):
            return pld_library.from_mixture_gaussian_mechanism(
                deviation, sizes, probabilities, **options
            )
        case elementary.Laplace(b, q):
            return pld_library.from_laplace_mechanism(
                b / relation.sensitivity_factor, sampling_prob=q, **options
            )
    raise no_losses(leaf, relation)


def library_error(terms: Terms) -> float:
    """The largest error by which a delta of `library_losses` may be too small."""
    return _LIBRARY_ERROR * (1 + sum(count for _, count in terms) / 10_000)


def no_losses(leaf: Leaf, relation: Relation) -> UnsupportedEvent:
    """The error for a mechanism whose losses are not known."""
    return UnsupportedEvent(
        f"Expected a mechanism with a privacy loss distribution under {relation}, got {leaf}."
        " Use accountant 'rdp'."
    )
