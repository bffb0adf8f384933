"""Terms: the elementary mechanisms of a composition, with counts.

The order of a fixed composition does not matter, so a composition is a multiset, and equal
multisets are equal values. Releases on one sampled cohort compose *inside* the sampling: a Poisson
sample of Gaussians with noise multipliers z_i is a Poisson sample of one Gaussian with z = (sum
z_i^-2)^(-1/2). The likelihood ratio of the composition depends on the outputs only through one
weighted sum, which is that Gaussian; so this is an equality, not a bound.

>>> joint_noise_multiplier([(2.0, 4)])
1.0
>>> make_terms([(GaussianTerm(1.0), 2), (GaussianTerm(1.0), 3)])
((GaussianTerm(noise_multiplier=1.0, q=1.0), 5),)

Sources: Dong, Roth, Su (2022), section 2 and corollary 3.3; dp_accounting's event classes.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from privacy.errors import InvalidEvent

MAX_COUNT = 10**12


@dataclass(frozen=True)
class GaussianTerm:
    """A Gaussian sum over a Poisson sample with rate q (q = 1: full participation)."""

    noise_multiplier: float
    q: float = 1.0


@dataclass(frozen=True)
class Laplace:
    """A Laplace sum over a Poisson sample; noise_multiplier is scale over L1 clip norm."""

    noise_multiplier: float
    q: float = 1.0


@dataclass(frozen=True)
class ZCdp:
    """Any mechanism with Renyi divergence at most xi + rho a at every order a, on a sample."""

    rho: float
    xi: float = 0.0
    q: float = 1.0


@dataclass(frozen=True)
class FixedSizeGaussian:
    """A Gaussian sum over sample_size clients drawn without replacement from dataset_size."""

    dataset_size: int
    sample_size: int
    noise_multiplier: float


@dataclass(frozen=True)
class TruncatedGaussian:
    """A Gaussian sum over a Poisson sample of which at most truncated_batch_size are kept."""

    dataset_size: int
    q: float
    truncated_batch_size: int
    noise_multiplier: float


@dataclass(frozen=True)
class MixtureOfGaussians:
    """A Gaussian sum to which one client contributes sensitivities[i] with probability probs[i].

    On data with the client the output is sum_i probs[i] N(sensitivities[i], standard_deviation^2).
    """

    standard_deviation: float
    sensitivities: tuple[float, ...]
    sampling_probs: tuple[float, ...]


@dataclass(frozen=True)
class Tree:
    """One epoch of tree aggregation over a number of steps."""

    noise_multiplier: float
    steps: int


@dataclass(frozen=True)
class DistributedDiscreteGaussian:
    """Each of `clients` adds discrete Gaussian noise of local_sigma grid steps per coordinate."""

    clients: int
    local_sigma: float
    l2: float
    l1: float
    dim: int


@dataclass(frozen=True)
class SkellamTerm:
    """Skellam noise of the given total variance, in squared grid steps, over a Poisson sample."""

    variance: float
    l2: float
    l1: float
    q: float = 1.0


@dataclass(frozen=True)
class FixedSizeSkellam:
    """Skellam noise over sample_size clients drawn without replacement from dataset_size.

    The norms of `noise` are the largest change of the integers of one cohort if *any* client is
    replaced by any other: the bound also compares the target with the members that it replaces.
    """

    dataset_size: int
    sample_size: int
    noise: SkellamTerm


@dataclass(frozen=True)
class RepeatAndSelect:
    """A search that runs `terms` a random number of times and keeps the best."""

    terms: "Terms"
    mean: float
    shape: float


@dataclass(frozen=True)
class NonPrivate:
    """A release without any guarantee; its epsilon is infinite."""


Leaf = (
    GaussianTerm
    | Laplace
    | ZCdp
    | FixedSizeGaussian
    | TruncatedGaussian
    | MixtureOfGaussians
    | Tree
    | DistributedDiscreteGaussian
    | SkellamTerm
    | FixedSizeSkellam
    | RepeatAndSelect
    | NonPrivate
)
Terms = tuple[tuple[Leaf, int], ...]


def joint_noise_multiplier(multipliers: Sequence[tuple[float, int]]) -> float:
    """The one Gaussian that is equivalent to Gaussians (z, count) on the same clients: (sum
    n/z^2)^(-1/2).
    """
    inverse = math.sqrt(
        math.fsum(count / z**2 if z > 1e-150 else math.inf for z, count in multipliers)
    )
    if inverse == 0 or not math.isfinite(inverse):
        raise InvalidEvent(
            f"Expected noise multipliers whose joint value is a float, got {list(multipliers)!r}."
            " Use values between 1e-6 and 1e12."
        )
    return 1.0 / inverse


def joint_skellam(parts: Sequence[tuple[SkellamTerm, int]]) -> SkellamTerm:
    """One Skellam mechanism that costs at least what the parts (leaf, count) on the same clients do.

    With v the least variance, l2^2 = v sum D2^2 / v_i and l1 = v sum D1 / v_i: in the divergence of
    `renyi.short_divergence` the first term is then the sum of the parts', and the second, a
    minimum of two, is at least the sum of theirs, at every order, because 1 / v_i^2 <= 1 / (v v_i).
    """
    least = min(leaf.variance for leaf, _ in parts)
    squares = math.fsum(count * leaf.l2**2 / leaf.variance for leaf, count in parts)
    l1 = math.fsum(count * leaf.l1 / leaf.variance for leaf, count in parts)
    return SkellamTerm(least, math.sqrt(least * squares), least * l1)


def make_terms(pairs: Sequence[tuple[Leaf, int]]) -> Terms:
    """Merges equal leaves and sorts them, so that equal multisets are equal values."""
    counts: Counter[Leaf] = Counter()
    for leaf, count in pairs:
        counts[leaf] += count
        if counts[leaf] > MAX_COUNT:
            raise InvalidEvent(f"Expected at most {MAX_COUNT} releases, got {counts[leaf]}.")
    return tuple(sorted(counts.items(), key=lambda item: repr(item[0])))
