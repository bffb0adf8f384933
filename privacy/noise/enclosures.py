"""Enclosures: integer bounds of irrational probabilities, refined when a draw needs it.

A sampler is exact if it compares uniform random bits with the true probability. Probabilities such
as exp(-x^2 / 2 sigma^2) are irrational, so they are represented by integer intervals. A draw whose
first 32 bits are inside an interval uses more bits and a narrower interval until it is decided.
This module uses no floats.

>>> low, high = exp_interval(Fraction(1), 40)
>>> low <= 0.36787944117144233 * 2**40 <= high
True
>>> high - low
3

Sources: Knuth & Yao (1976) for lazy comparison; Canonne, Kamath, Steinke (2020), section 5.
"""

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

WORD = 32
_GUARD = 64


class Words(Protocol):
    """A source of random bits; see `privacy.noise.samplers.Stream`."""

    def bytes(self, count: int, /) -> bytes:
        """Fresh random bytes."""
        ...


def exp_interval(x: Fraction, bits: int) -> tuple[int, int]:
    """Integers around exp(-x) 2^bits, for x >= 0.

    x is halved until it is below 2^-8, a Taylor sum is taken with 64 guard bits, and the result is
    squared back. The sum has fewer than 2^8 terms that err by at most two units each, and each of
    fewer than 20 squarings at most doubles the error and adds one unit; so less than 2^30 units are
    lost, and one unit on either side of the 64 dropped bits covers them.
    """
    work = bits + _GUARD
    if x > bits + 2:
        return 0, 1
    halvings = max(0, int(x).bit_length() + 8)
    y = int(x * 2**work) >> halvings
    total, term, k = 0, 1 << work, 0
    while term:
        total += -term if k % 2 else term
        k += 1
        term = ((term * y) >> work) // k
    for _ in range(halvings):
        total = (total * total) >> work
    value = total >> _GUARD
    return max(0, value - 1), value + 2


class Law(Protocol):
    """A distribution on 0, 1, 2, ... known up to its total."""

    def weights(self, bits: int) -> tuple[Sequence[int], Sequence[int], int]:
        """Lower and upper bounds of the first weights, and of all others together, times 2^bits."""
        ...


@dataclass(frozen=True)
class BlockLaw:
    """Weights exp(-square x^2) at x = 0, width, 2 width, ..."""

    square: Fraction
    width: int

    def weights(self, bits: int) -> tuple[Sequence[int], Sequence[int], int]:
        """See `Law`. The rest is bounded by a geometric series of the last ratio."""
        low, high, index = [], [], 0
        while not high or high[-1] > 1:
            x = index * self.width
            pair = exp_interval(self.square * x * x, bits)
            low.append(pair[0])
            high.append(pair[1])
            index += 1
        step = self.square * self.width**2 * (2 * index - 1)
        return low, high, high[-1] * (2 + int(1 / step))


@dataclass(frozen=True)
class PoissonLaw:
    """Poisson weights in the order mode, mode + 1, mode - 1, mode + 2, ...; see `outcome`."""

    mean: Fraction

    @property
    def mode(self) -> int:
        """The most likely count."""
        return int(self.mean)

    def outcome(self, index: np.ndarray) -> np.ndarray:
        """The count at a place of the order. A place below zero counts has weight 0."""
        half = (index + 1) // 2
        return self.mode + np.where(index % 2 == 1, half, -half)

    def weights(self, bits: int) -> tuple[Sequence[int], Sequence[int], int]:
        """See `Law`. Each step away from the mode multiplies by a ratio of at most one."""
        mean, values = self.mean, [1 << (bits + _GUARD)]
        up = down = values[0]
        while up >> _GUARD or down >> _GUARD:
            distance = len(values) // 2 + 1
            up = up * mean.numerator // (mean.denominator * (self.mode + distance))
            count = max(0, self.mode - distance + 1)
            down = down * count * mean.denominator // mean.numerator
            values += [up, down]
        steps = len(values) // 2  # each lost at most one unit by rounding down
        ratio = mean / (self.mode + steps + 1)
        low = [value >> _GUARD for value in values]
        high = [((value + steps) >> _GUARD) + 1 for value in values]
        return low, high, 2 * high[-1] * (2 + int(1 / (1 - ratio)))


class Table:
    """Cumulative weights of a law, for a search by the first 32 random bits.

    Attributes:
      floors: For each outcome, the largest integer at most P(<= outcome) 2^32.
      blurred: For each outcome, words below this and at least the previous floor are undecided.
    """

    def __init__(self, law: Law):
        self._law = law
        self._refined = functools.lru_cache(maxsize=2)(self._cumulated)
        floors, ceils = self._cumulated(WORD)
        kept = next((i for i, value in enumerate(floors) if value >= 2**WORD - 2), len(floors) - 1)
        self.floors = np.array(floors[: kept + 1], dtype=np.uint64)
        self.blurred = np.array([0, *ceils[:kept], 2**WORD], dtype=np.uint64)

    def resolve(self, word: int, stream: Words) -> int:
        """The outcome of a uniform number that begins with these 32 bits."""
        bits = WORD
        while True:
            word = word << 64 | int.from_bytes(stream.bytes(8), "little")
            bits += 64
            floors, ceils = self._refined(bits)
            index = bisect.bisect_right(floors, word)
            if index < len(floors) and (index == 0 or word >= ceils[index - 1]):
                return index

    def _cumulated(self, bits: int) -> tuple[list[int], list[int]]:
        low, high, rest = self._law.weights(bits + _GUARD)
        least, most = sum(low), sum(high) + rest
        floors, ceils, below, above = [], [], 0, 0
        for smaller, larger in zip(low, high, strict=True):
            below, above = below + smaller, above + larger
            floors.append((below << bits) // most)
            ceils.append(min(-((-above << bits) // least), 1 << bits))
        return floors, ceils


def below(word: int, probability: Fraction, stream: Words) -> bool:
    """Whether a uniform number that begins with these 32 bits is below a rational probability."""
    bits = WORD
    while True:
        scaled = probability.numerator << bits
        if (word + 1) * probability.denominator <= scaled:
            return True
        if word * probability.denominator >= scaled:
            return False
        word = word << 64 | int.from_bytes(stream.bytes(8), "little")
        bits += 64


def bernoulli_exp(x: Fraction, stream: Words) -> bool:
    """True with probability exp(-x), for any x >= 0, by comparisons with rationals only.

    Source: Canonne, Kamath, Steinke (2020), algorithm 1.
    """
    while x > 1:
        if not _small_exp(Fraction(1), stream):
            return False
        x -= 1
    return _small_exp(x, stream)


def _small_exp(x: Fraction, stream: Words) -> bool:
    k = 1
    while below(int.from_bytes(stream.bytes(4), "little"), x / k, stream):
        k += 1
    return k % 2 == 1
