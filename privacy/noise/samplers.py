"""Samplers: vectors of exact integer noise from a cryptographic stream.

Noise for differential privacy must have exactly the charged distribution: a Gaussian rounded from
floats leaks through its low bits. All decisions compare random integers with rational or enclosed
probabilities (`privacy.noise.enclosures`), without floats.

Discrete Gaussian: |x| = block x width + offset, with width a power of two near a 16th of sigma. The
block is found in a table of cumulative weights by 32 random bits, the offset is uniform, and x is
accepted with probability exp(-gamma), gamma rational and below 1/2, by a series of Bernoulli trials;
about 97 of 100 are. In the rare case that 32 bits do not decide a comparison, more bits are drawn.
Skellam noise is the difference of two Poisson counts from such tables.

The stream is an argument without a default, so no weak generator is used by mistake.

>>> class Zeros:
...     def bytes(self, count): return bytes(count)
...     def uint64(self, size): return np.zeros(size, dtype=np.uint64)
...     def uniform(self, size): return np.zeros(size)
>>> discrete_gaussian(4.0, 3, Zeros())
array([0, 0, 0])

Sources: Canonne, Kamath, Steinke (2020), algorithms 1 to 3; Agarwal, Kairouz, Liu (2021) for Skellam;
Mironov (2012) for what float noise leaks.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from privacy.errors import InvalidEvent
from privacy.noise.enclosures import WORD, BlockLaw, PoissonLaw, Table, below, bernoulli_exp

BLOCK = 1 << 15
MAX_SCALE = 1 << 30
MAX_VARIANCE = 1 << 33
_HALF = np.uint64(32)
_MASK = np.uint64(2**32 - 1)


class Stream(Protocol):
    """Random bits that nobody can predict; `secagg.SecureStream` is one."""

    def bytes(self, count: int, /) -> bytes:
        """Fresh random bytes."""
        ...

    def uint64(self, size: int | tuple[int, ...], /) -> np.ndarray:
        """Fresh uniform 64-bit words."""
        ...

    def uniform(self, size: int | tuple[int, ...], /) -> np.ndarray:
        """Fresh uniform float64 in [0, 1); for randomised rounding, never for noise."""
        ...


Scale = int | float | Fraction
Size = int | tuple[int, ...]


def discrete_gaussian(sigma: Scale, size: Size, stream: Stream) -> np.ndarray:
    """Draws integers x with probability proportional to exp(-x^2 / (2 sigma^2)).

    Guarantees:
      Exactly this distribution, for the rational number that sigma is, if the stream is uniform.
      The variance is at most sigma^2, and a release of sensitivity Delta is
      Delta^2 / (2 sigma^2)-zCDP.

    Args:
      sigma: Scale in grid steps, up to 2^30.
      size: Number of draws, or a shape.
      stream: Random bits.

    Raises:
      InvalidEvent: sigma is not a positive number of that size.

    Source: Canonne, Kamath, Steinke (2020), definition 1 and theorem 4.
    """
    return _shaped(size, stream, _gaussian_sampler(_exact(sigma, "sigma", MAX_SCALE)).fill)


def skellam(variance: Scale, size: Size, stream: Stream) -> np.ndarray:
    """Draws differences of two Poisson counts of mean variance / 2, up to a variance of 2^33.

    Guarantees:
      Exactly this distribution; sums of such draws are Skellam with the summed variance.

    Source: Agarwal, Kairouz, Liu (2021), section 3.
    """
    fill = _poisson_sampler(_exact(variance, "variance", MAX_VARIANCE) / 2)

    def difference(count: int, stream: Stream) -> np.ndarray:
        return fill(count, stream) - fill(count, stream)

    return _shaped(size, stream, difference)


def check_noise(kind: str, std: float) -> None:
    """Refuses noise that no sampler of this module supports, before anything depends on it.

    Args:
      kind: "discrete_gaussian" or "skellam".
      std: Standard deviation of one party's noise, in grid steps.

    Raises:
      InvalidEvent: It is too small or too large.
    """
    if kind == "skellam":
        _exact(std**2, "variance", MAX_VARIANCE)
    else:
        _exact(std, "sigma", MAX_SCALE)


def _exact(value: Scale, what: str, limit: int) -> Fraction:
    try:
        exact = None if isinstance(value, bool) else Fraction(value)
    except (TypeError, ValueError, OverflowError):
        exact = None
    if exact is None or not Fraction(1, 1 << 20) <= exact <= limit:
        raise InvalidEvent(
            f"Expected {what} as a number from 2^-20 to 2^{limit.bit_length() - 1} grid steps, got"
            f" {value!r}. Choose another grid or amount of noise or, for noise by clients, more clients."
        )
    return exact


def _shaped(size: Size, stream: Stream, fill: Callable[[int, Stream], np.ndarray]) -> np.ndarray:
    shape = (size,) if isinstance(size, int) else tuple(size)
    out = np.empty(math.prod(shape), dtype=np.int64)
    for start in range(0, out.size, BLOCK):
        part = out[start : start + BLOCK]
        part[:] = fill(part.size, stream)
    return out.reshape(shape)


@functools.lru_cache(maxsize=64)
def _gaussian_sampler(sigma: Fraction) -> "_BlockSampler":
    return _BlockSampler.make(sigma)


@functools.lru_cache(maxsize=16)
def _poisson_sampler(mean: Fraction) -> Callable[[int, Stream], np.ndarray]:
    law = PoissonLaw(mean)
    table = Table(law)

    def fill(count: int, stream: Stream) -> np.ndarray:
        words = stream.uint64((count + 1) // 2).view(np.uint32)[:count].astype(np.uint64)
        return law.outcome(_search(table, words, stream))

    return fill


def _search(table: Table, words: np.ndarray, stream: Stream) -> np.ndarray:
    """The outcome of each 32-bit word, with more bits if needed."""
    index = np.searchsorted(table.floors, words, side="right")
    for place in np.flatnonzero(words < table.blurred[index]):
        index[place] = table.resolve(int(words[place]), stream)
    return index


@dataclass(frozen=True)
class _Gamma:
    """Integer bounds of 2^32 coefficient x number, for a vector of numbers below 2^63."""

    multiplier: int
    drop: int
    shift: int
    slack: int

    @classmethod
    def make(cls, coefficient: Fraction, largest: int) -> "_Gamma":
        """Largest bounds the numbers; coefficient x largest must be below 1."""
        drop = max(0, largest.bit_length() - WORD)
        bits = 31 - (coefficient.numerator.bit_length() - coefficient.denominator.bit_length())
        bits = max(bits, WORD + drop)
        multiplier = int(coefficient * 2**bits)
        shift = bits - WORD - drop
        lost = (largest >> drop) + (multiplier + 1 if drop else 0)
        slack = (lost >> shift) + 2
        return cls(multiplier, drop, shift, slack)

    def floor(self, numbers: np.ndarray) -> np.ndarray:
        """A lower bound; the value is at most this plus slack."""
        kept = numbers >> np.uint64(self.drop)
        return (kept * np.uint64(self.multiplier)) >> np.uint64(self.shift)


@dataclass(frozen=True)
class _BlockSampler:
    """Integers x with weights exp(-square x^2)."""

    square: Fraction
    log_width: int
    table: Table
    gamma: _Gamma

    @classmethod
    def make(cls, sigma: Fraction) -> "_BlockSampler":
        """With standard deviation sigma of the continuous law."""
        square = 1 / (2 * sigma**2)
        log_width = max(0, int(sigma / 16).bit_length() - 1)
        width = 1 << log_width
        table = Table(BlockLaw(square, width))
        largest = 2 * width**2 * (len(table.floors) + 1)
        return cls(square, log_width, table, _Gamma.make(square, largest))

    def fill(self, count: int, stream: Stream) -> np.ndarray:
        """Exactly count draws."""
        parts, missing = [], count
        while missing > 0:
            found = self._candidates(missing + missing // 16 + 16, stream)[:missing]
            parts.append(found)
            missing -= found.size
        return np.concatenate(parts)

    def _candidates(self, count: int, stream: Stream) -> np.ndarray:
        first, second = stream.uint64((2, count))
        block = _search(self.table, first >> _HALF, stream).astype(np.uint64)
        base = block << np.uint64(self.log_width)
        offset = second & np.uint64((1 << self.log_width) - 1)
        negative = (second >> np.uint64(63)).astype(bool)
        keep = self._accepted(block, base, offset, first & _MASK, stream)
        value = (base + offset).astype(np.int64)
        keep &= ~(negative & (value == 0))  # zero would otherwise be counted with both signs
        return np.where(negative, -value, value)[keep]

    def _accepted(
        self,
        block: np.ndarray,
        base: np.ndarray,
        offset: np.ndarray,
        words: np.ndarray,
        stream: Stream,
    ) -> np.ndarray:
        """Each with probability exp(-gamma): trials of gamma / k until one fails; k must be odd."""
        keep = np.ones(block.size, dtype=bool)
        if self.log_width == 0:
            return keep
        floors = self.gamma.floor(offset * ((base << np.uint64(1)) + offset))
        active = np.arange(block.size)
        far = block >= len(self.table.floors)
        k = 1
        while active.size:
            low = floors[active] // np.uint64(k)
            high = (floors[active] + np.uint64(self.gamma.slack)) // np.uint64(k)
            success = words < low
            unclear = (words >= low) & (words <= high) | far[active]
            for place in np.flatnonzero(unclear):
                at = active[place]
                exact = self._exact_gamma(int(base[at]), int(offset[at]))
                if far[at]:
                    keep[at] = bernoulli_exp(exact, stream)
                    success[place] = False
                else:
                    success[place] = below(int(words[place]), exact / k, stream)
            if k % 2 == 0:
                lost = active[~success]
                keep[lost[~far[lost]]] = False
            active = active[success]
            k += 1
            words = stream.uint64(active.size) >> _HALF
        return keep

    def _exact_gamma(self, base: int, offset: int) -> Fraction:
        return self.square * offset * (2 * base + offset)
