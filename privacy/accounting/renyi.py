"""Renyi divergences with short formulas, and their conversion to (epsilon, delta).

A divergence bound at order a > 1 converts to epsilon at every delta. Every order gives a valid
bound, so a *fixed* composition may use the best order of a list. Two bounds are proved at integer
orders only and extended by convexity: noise added by clients inside a modular sum, and samples
(Poisson or of a fixed size) of a mechanism given only by its divergences.

>>> round(zcdp_epsilon(0.1, 1e-5), 3)
1.914

Sources: Canonne, Kamath, Steinke (2020), proposition 12; Bun & Steinke (2016); Kairouz, Liu,
Steinke (2021), proposition 14; Agarwal, Kairouz, Liu (2021); Zhu & Wang (2019), theorem 6; Wang, Balle,
Kasiviswanathan (2019), theorem 9.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from privacy.accounting.terms import (
    DistributedDiscreteGaussian,
    FixedSizeSkellam,
    Leaf,
    SkellamTerm,
    ZCdp,
)

_FINE_ORDERS = [1 + x / 10 for x in range(1, 100)]
ORDERS = np.array([*_FINE_ORDERS, *range(11, 64), 128, 256, 512, 1024], dtype=np.float64)


def zcdp_epsilon(rho: float, delta: float) -> float:
    """Epsilon of rho-zCDP at the best Renyi order (every order is a valid bound)."""

    def at(log_order_minus_one: float) -> float:
        order = 1 + math.exp(log_order_minus_one)
        return order * rho + rdp_conversion(order, delta)

    low, high = -9.0, 14.0
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(80):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if at(left) < at(right) else (left, high)
    return max(0.0, at((low + high) / 2))


def rdp_conversion(order: float, delta: float) -> float:
    """The term to add to a Renyi divergence of this order to get epsilon at delta."""
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def rdp_delta(curve: np.ndarray, target: float) -> float:
    """The best delta at epsilon = target of divergences at `ORDERS`."""
    best = 1.0
    for order, divergence in zip(ORDERS, curve, strict=True):
        log_delta = (order - 1) * (divergence - target + math.log1p(-1 / order)) - math.log(order)
        kl = math.sqrt(-math.expm1(-divergence))
        best = min(best, kl, math.exp(min(log_delta, 0.0)))
    return float(best)


def at_integers(orders: tuple[float, ...], divergence: Callable[[int], float]) -> np.ndarray:
    """A curve from its bounds at integer orders; in between, the chord of (a - 1) D(a).

    Guarantees:
      An upper bound at every order: (a - 1) D(a) is the logarithm of a moment, so convex in a, and it
      is 0 at a = 1.

    Source: van Erven & Harremoes (2014), corollary 2.
    """
    known = functools.cache(divergence)

    def scaled(order: int) -> float:
        return (order - 1) * known(order) if order > 1 else 0.0

    def at(order: float) -> float:
        low = math.floor(order)
        if low == order:
            return known(low)
        weight = order - low
        return ((1 - weight) * scaled(low) + weight * scaled(low + 1)) / (order - 1)

    return np.array([at(order) for order in orders])


def short_divergence(leaf: Leaf) -> Callable[[int], float] | None:
    """The divergence of a mechanism at integer orders, if it has a short formula here.

    Source: Kairouz, Liu, Steinke (2021), proposition 14; Agarwal, Kairouz, Liu (2021), theorem 3.5.
    """
    match leaf:
        case FixedSizeSkellam(population, size, noise):
            on_cohort = functools.partial(_skellam_divergence, noise)
            return functools.partial(fixed_size_divergence, size / population, on_cohort)
        case SkellamTerm():
            own = functools.partial(_skellam_divergence, leaf)
            return own if leaf.q == 1 else functools.partial(sampled_divergence, leaf.q, own)
        case ZCdp() if leaf.q < 1:
            return functools.partial(sampled_divergence, leaf.q, lambda k: leaf.xi + leaf.rho * k)
        case DistributedDiscreteGaussian():
            return functools.partial(_distributed_divergence, leaf)
    return None


def _distributed_divergence(leaf: DistributedDiscreteGaussian, a: int) -> float:
    spread = math.sqrt(leaf.clients) * leaf.local_sigma
    u, v, d = leaf.l2 / spread, leaf.l1 / spread, leaf.dim
    tau = convolution_gap(leaf.clients, leaf.local_sigma)
    return min(
        a / 2 * u**2 + tau * d,
        a / 2 * (u**2 + 2 * v * tau + tau**2 * d),
        a / 2 * (u + math.sqrt(d) * tau) ** 2,
    )


def _skellam_divergence(leaf: SkellamTerm, a: int) -> float:
    small = ((2 * a - 1) * leaf.l2**2 + 6 * leaf.l1) / (4 * leaf.variance**2)
    return a * leaf.l2**2 / (2 * leaf.variance) + min(small, 1.5 * leaf.l1 / leaf.variance)


@functools.lru_cache(maxsize=64)
def convolution_gap(clients: int, local_sigma: float) -> float:
    """tau: the distance of a sum of discrete Gaussians from a discrete Gaussian, in log ratio.

    The terms only fall with k, so beyond a million each is bounded by the last one computed.
    """
    k = np.arange(1, min(clients, 10**6))
    terms = np.exp(-2 * np.pi**2 * local_sigma**2 * k / (k + 1))
    beyond = max(0, clients - 10**6) * math.exp(-2 * np.pi**2 * local_sigma**2 * (1 - 1e-6))
    return 10 * (float(np.sum(terms)) + beyond)


def sampled_divergence(q: float, divergence: Callable[[int], float], a: int) -> float:
    """Divergence at order a of a mechanism on a Poisson sample, from its own at orders up to a.

    Guarantees:
      An upper bound under add-or-remove-one, for any mechanism whose divergence is at most
      `divergence`; at most its own at a, since sampling only mixes in the neighbour's law.

    Source: Zhu & Wang (2019), theorem 6: from order 3 on, each term is trebled.
    """
    log_q, log_rest = math.log(q), math.log1p(-q)

    def term(k: int) -> float:
        choose = math.lgamma(a + 1) - math.lgamma(k + 1) - math.lgamma(a - k + 1)
        grown = (k - 1) * divergence(k)
        return choose + k * log_q + (a - k) * log_rest + grown + math.log(3 if k > 2 else 1)

    first = (a - 1) * log_rest + math.log1p(q * (a - 1))
    mixed = float(np.logaddexp.reduce([first, *(term(k) for k in range(2, a + 1))])) / (a - 1)
    return min(mixed, divergence(a))


def fixed_size_divergence(rate: float, divergence: Callable[[int], float], a: int) -> float:
    """Divergence at order a of a mechanism on a sample of fixed size, from its own at orders up to a.

    Guarantees:
      An upper bound under replace-one, for any mechanism whose divergence under replace-one is at
      most `divergence`; at most its own at a, since sampling only mixes in pairs of laws that are
      no further apart. It assumes nothing about the ratio of the laws, which is unbounded for
      Skellam noise.

    Source: Wang, Balle, Kasiviswanathan (2019), theorem 9, with an infinite divergence at infinity.
    """
    second = divergence(2)
    ratio = math.log(-math.expm1(-second)) if second > 0 else -math.inf

    def term(k: int) -> float:
        choose = math.lgamma(a + 1) - math.lgamma(k + 1) - math.lgamma(a - k + 1)
        own = (k - 1) * divergence(k) + math.log(2)
        # 4 (exp(D) - 1) = 4 exp(D) (1 - exp(-D)), which does not overflow.
        return (
            choose
            + k * math.log(rate)
            + (min(own, math.log(4) + second + ratio) if k == 2 else own)
        )

    mixed = float(np.logaddexp.reduce([0.0, *(term(k) for k in range(2, a + 1))])) / (a - 1)
    return min(mixed, divergence(a))
