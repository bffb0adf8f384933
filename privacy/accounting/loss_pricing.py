"""Loss pricing: epsilon and delta from the laws of privacy losses, the tightest accountant.

`loss_distributions` computes the losses of sampled Gaussians and Laplace mechanisms, and
`loss_composition` composes them with error bounds. Gaussians with full participation have an exact
formula. The library handles truncated samples. If losses do not fit on a grid, a coarser bound is
used, never a guess.

>>> sampled = ((elementary.GaussianTerm(1.0, 0.01), 1000),)
>>> round(loss_epsilon(sampled, 1e-5, Relation.ADD_OR_REMOVE_ONE), 2)
1.83

Sources: Koskela, Jaelkoe, Honkela (2020); Doroshenko et al. (2022);
docs/decisions/0038-tilted-composition.md.
"""

import contextlib
import functools
import math

from privacy.accounting import terms as elementary
from privacy.accounting.gaussian_pricing import gaussian_epsilon, squared_gdp
from privacy.accounting.library_curves import library_error, library_losses, no_losses
from privacy.accounting.loss_composition import (
    Parts,
    composed_delta,
    composed_epsilon,
    stays_within,
)
from privacy.accounting.loss_distributions import directions
from privacy.accounting.renyi_pricing import renyi_delta, renyi_epsilon
from privacy.accounting.terms import Terms
from privacy.errors import UnsupportedEvent
from privacy.relations import Relation

_TINY_DELTA = 1e-250
# With less Gaussian noise, points some standard deviations apart are no longer distinct floats.
# With less Laplace noise, the integral needs too many points for an epsilon far above 100.
_FINEST_NOISE = {elementary.GaussianTerm: 1e-6, elementary.Laplace: 1e-2}


def loss_epsilon(terms: Terms, delta: float, relation: Relation) -> float:
    """Epsilon of a composition; a tight upper bound.

    Raises:
      UnsupportedEvent: A mechanism's losses are not known, or delta is too small for the library.
    """
    if all(isinstance(leaf, elementary.GaussianTerm) and leaf.q == 1 for leaf, _ in terms):
        return gaussian_epsilon(math.sqrt(squared_gdp(terms, relation)), delta)
    return _composed_epsilon(terms, delta, relation)


@functools.lru_cache(maxsize=4096)
def _composed_epsilon(terms: Terms, delta: float, relation: Relation) -> float:
    parts = _composable(terms, relation)
    if parts is None:
        error = library_error(terms)
        if delta <= 2 * error:
            raise UnsupportedEvent(
                f"Expected delta above {2 * error:.2g} for privacy loss distributions that the"
                f" library composes, got {delta:g} for {terms}. Use accountant 'rdp', or a larger delta."
            )
        return float(library_losses(terms, relation).get_epsilon_for_delta(delta - error))
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


def loss_delta(terms: Terms, epsilon: float, relation: Relation) -> float:
    """Delta of a composition; a tight upper bound.

    Raises:
      UnsupportedEvent: A mechanism's losses are not known.
    """
    parts = _composable(terms, relation)
    if parts is None:
        pld = library_losses(terms, relation)
        return float(pld.get_delta_for_epsilon(epsilon)) + library_error(terms)
    farthest = _total_variation(parts, relation)
    if farthest < _TINY_DELTA:
        return farthest
    if _is_too_fine(parts):
        with contextlib.suppress(UnsupportedEvent):
            return min(farthest, renyi_delta(terms, epsilon, relation))
        return farthest
    return min(farthest, max(composed_delta(parts, way, epsilon) for way in directions(relation)))


def _is_too_fine(parts: Parts) -> bool:
    """Whether a mechanism's losses are not computed, because its epsilon would be astronomical."""
    return any(leaf.noise_multiplier < _FINEST_NOISE[type(leaf)] for leaf, _ in parts)


def _composable(terms: Terms, relation: Relation) -> Parts | None:
    """The terms, full Gaussians merged, if the losses of all of them are known; else None."""
    full, parts, ways = [], [], directions(relation)
    for leaf, count in terms:
        if isinstance(leaf, elementary.GaussianTerm) and leaf.q == 1:
            full.append((leaf.noise_multiplier, count))
        elif isinstance(leaf, elementary.GaussianTerm | elementary.Laplace):
            if isinstance(leaf, elementary.Laplace) and leaf.q < 1 and len(ways) == 1:
                raise no_losses(leaf, relation)
            parts.append((leaf, count))
        else:
            return None
    if full:
        parts.append((elementary.GaussianTerm(elementary.joint_noise_multiplier(full)), 1))
    return parts


def _total_variation(parts: Parts, relation: Relation) -> float:
    """An upper bound on the distance between outputs on neighbours, and so on delta."""
    total = 0.0
    for leaf, count in parts:
        shift = relation.sensitivity_factor / leaf.noise_multiplier
        if isinstance(leaf, elementary.GaussianTerm):
            total += count * leaf.q * math.erf(shift / math.sqrt(8))
        else:
            total += count * leaf.q * -math.expm1(-shift / 2)
    return min(1.0, total * (1 + 1e-12))


def _coarse_epsilon(terms: Terms, delta: float, relation: Relation) -> float:
    """The fallback if losses do not fit on a grid: Renyi divergences, or the mechanisms without
    sampling.
    """
    bounds = []
    if all(isinstance(leaf, elementary.GaussianTerm | elementary.Laplace) for leaf, _ in terms):
        full = tuple(
            (elementary.GaussianTerm(leaf.noise_multiplier), count)
            for leaf, count in terms
            if isinstance(leaf, elementary.GaussianTerm)
        )
        pure = math.fsum(
            count * relation.sensitivity_factor / leaf.noise_multiplier
            for leaf, count in terms
            if isinstance(leaf, elementary.Laplace)
        )
        rest = gaussian_epsilon(math.sqrt(squared_gdp(full, relation)), delta) if full else 0.0
        bounds.append(pure + rest)
    with contextlib.suppress(UnsupportedEvent):
        bounds.append(renyi_epsilon(terms, delta, relation))
    return min(bounds, default=math.inf)
