"""Draws: the joint mechanism of all releases on one cohort, as priced terms.

Gaussian noise, and discrete Gaussian noise charged as such, is one Gaussian of the joint
multiplier, for any number of sums. Skellam noise is one Skellam mechanism whose divergence bounds
the sum of the divergences of the groups; sums that are clipped jointly share a group. Sampling
applies to the whole. Noise by clients requires cohorts of a public size
(`privacy.accounting.sizes`).

>>> noisy = {"noise_std": 100.0, "units": "grid", "noise_kind": "skellam", "min_survivors": 6}
>>> release = Release("sum", 1.0, 50.0, l1_sensitivity=200.0, noise_party="clients", **noisy)
>>> ((leaf, count),) = draw_terms([release], Relation.REPLACE_ONE, "fixed", 0.1, population=90)
>>> leaf.sample_size, leaf.noise.l2, leaf.noise.l1, count
(9, 50.0, 200.0, 1)

Sources: docs/ledger-slots.md, section 1; docs/decisions/0036-rotation-and-skellam.md and
0037-noise-by-clients-needs-public-sizes.md.
"""

import dataclasses
from collections.abc import Sequence

from privacy.accounting.sizes import require_public_size, takes_everyone
from privacy.accounting.slots import Release, effective_noise_multiplier
from privacy.accounting.terms import (
    FixedSizeGaussian,
    FixedSizeSkellam,
    GaussianTerm,
    SkellamTerm,
    Terms,
    joint_skellam,
)
from privacy.errors import InvalidEvent
from privacy.relations import Relation

# Room for the rounding errors of a variance and of its shares.
_SLACK = 1e-12


def draw_terms(
    releases: Sequence[Release], relation: Relation, sampling: str, q: float, *, population: int
) -> Terms:
    """The mechanism of one draw.

    Args:
      releases: All releases on the draw.
      relation: The relation of the ledger.
      sampling: "poisson", or "fixed" for round(q x population) clients without replacement.
      q: Sampling rate.
      population: Number of clients that may be drawn.

    Raises:
      InvalidEvent: The sampling is unknown, or the noise is of several families.
      SizeNotPublic: Clients add noise to a draw whose size reveals who takes part.
    """
    size = round(q * population)
    if sampling not in ("poisson", "fixed") or (sampling == "fixed" and size < 1):
        raise InvalidEvent(
            f"Expected sampling 'poisson' or 'fixed' with at least one client, got {sampling!r} with"
            f" q={q:g}. Charge a draw whose law is not known with sampling_rate=1.0."
        )
    if any(release.noise_party == "clients" for release in releases):
        require_public_size(relation, sampling, q, population)
    everyone = takes_everyone(sampling, q, population)
    rate = 1.0 if everyone else q
    if any(release.noise_kind == "skellam" for release in releases):
        noise = _skellam(releases)
        if sampling == "fixed" and not everyone:
            return ((FixedSizeSkellam(population, size, noise), 1),)
        return ((dataclasses.replace(noise, q=rate), 1),)
    z = effective_noise_multiplier(releases, relation, charged=True)
    if sampling == "fixed" and not everyone:
        return ((FixedSizeGaussian(population, size, z), 1),)
    return ((GaussianTerm(z, rate), 1),)


def _skellam(releases: Sequence[Release]) -> SkellamTerm:
    """One leaf for all groups, with the least noise and the largest norms of each group."""
    groups: dict[str, SkellamTerm] = {}
    for release in releases:
        if release.noise_kind != "skellam" or release.l1_sensitivity is None:
            raise InvalidEvent(
                "Expected noise of one family on one draw, got Skellam noise beside"
                f" {release.noise_kind!r} in release {release.name!r}."
            )
        variance = release.noise_std**2 * (1 - _SLACK)
        leaf = SkellamTerm(variance, release.sensitivity, release.l1_sensitivity)
        other = groups.get(release.clipped_with, leaf)
        groups[release.clipped_with] = SkellamTerm(
            min(leaf.variance, other.variance), max(leaf.l2, other.l2), max(leaf.l1, other.l1)
        )
    if len(groups) == 1:
        return next(iter(groups.values()))
    return joint_skellam([(leaf, 1) for leaf in groups.values()])
