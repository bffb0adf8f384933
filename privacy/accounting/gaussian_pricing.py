"""Gaussian pricing with full participation: one number, mu or rho, determines the price.

With full participation, Gaussians compose to one Gaussian, whose epsilon is exact ("gdp"). Together
with rho-zCDP mechanisms they compose by adding rho ("zcdp"). A sampled mechanism has neither number
and is refused.

>>> round(gaussian_epsilon(1.0, 1e-5), 3)
4.377

Sources: Balle & Wang (2018) for the exact epsilon; Dong, Roth, Su (2022) for mu; Bun & Steinke (2016)
for rho.
"""

import math

from privacy.accounting import terms as elementary
from privacy.accounting.library_curves import exact_gaussian_epsilon
from privacy.accounting.terms import Terms
from privacy.errors import UnsupportedEvent
from privacy.relations import Relation

_TINY_MU = 1e-7


def squared_gdp(terms: Terms, relation: Relation) -> float:
    """mu^2 of Gaussians with full participation: the sum of (factor / z)^2.

    Raises:
      UnsupportedEvent: A sample or another family, whose trade-off curve is not Gaussian.
    """
    total = []
    for leaf, count in terms:
        if not isinstance(leaf, elementary.GaussianTerm) or leaf.q != 1:
            raise UnsupportedEvent(
                f"Expected Gaussians with everyone taking part (q=1) for gdp, got {leaf}."
                " Charge q=1, or use accountant 'pld' or 'rdp'."
            )
        ratio = relation.sensitivity_factor / leaf.noise_multiplier
        total.append(count * ratio * ratio)
    return math.fsum(total)


def zcdp_rho(terms: Terms, relation: Relation) -> float:
    """The rho of Gaussians and rho-zCDP mechanisms with full participation.

    Raises:
      UnsupportedEvent: A sample, or a family without a rho.
    """
    total = []
    for leaf, count in terms:
        if isinstance(leaf, elementary.GaussianTerm) and leaf.q == 1:
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
    return exact_gaussian_epsilon(mu, delta)
