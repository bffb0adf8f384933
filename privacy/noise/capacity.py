"""Capacity: the ring that holds a noisy sum of integers without wrapping.

The integers of n clients sum to at most n D2 in a coordinate, where D2 is the L2 bound of one
client's vector. Rotated, a coordinate of the sum is n D2 / sqrt(m) times a sub-Gaussian number,
plus at most 1 for each client's rounding. Noise by clients adds the noise of all n shares; noise by
the server adds its own noise if the sum may wrap. Chernoff's bound limits both tails, for all
coordinates of a round together. A wrap would give a wrong number, never a less private one: the
release is the noisy sum reduced mod 2^b.

>>> ring_bits([Load(clients=100, bound=65536.0, size=1 << 20)])
24
>>> ring_bits([Load(clients=100, bound=65536.0, size=1 << 20, rotated=True)])
17

Sources: Kairouz, Liu, Steinke (2021), sections 4.1 and 4.2; Canonne, Kamath, Steinke (2020), corollary 21,
for discrete Gaussian tails; Agarwal, Kairouz, Liu (2021), section 2, for the moments of Skellam noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from privacy.errors import MechanismError

WRAP_PROBABILITY = 2.0**-40
"""The probability of any wrap in one round; exactly zero without rotation and without noise by
clients.
"""
MAX_BITS = 64


@dataclass(frozen=True)
class Load:
    """The load of one group of jointly clipped sums on the ring.

    Attributes:
      clients: Members of the cohort.
      bound: Largest L2 norm of one client's integers.
      size: Coordinates, padding included.
      rotated: Whether the coordinates are those of rotated vectors.
      noise: Family of the noise that is reduced with the sum, or None.
      share_variance: Variance of that noise over the number of clients, in squared grid steps.
    """

    clients: int
    bound: float
    size: int
    rotated: bool = False
    noise: Literal["discrete_gaussian", "skellam"] | None = None
    share_variance: float = 0.0

    def largest(self, wrap_probability: float) -> float:
        """The bound that any coordinate of the sum exceeds in magnitude with at most this
        probability.
        """
        log_odds = math.log(4 * self.size / wrap_probability)  # half of it to each tail, two sides
        signal = self.clients * math.floor(self.bound)
        if self.rotated:
            deviation = self.clients * self.bound / math.sqrt(self.size)
            signal = min(signal, deviation * math.sqrt(2 * log_odds) + self.clients)
        if self.noise is None:
            return signal
        return signal + _noise_tail(self.noise, self.clients * self.share_variance, log_odds)


def ring_bits(
    loads: Sequence[Load], *, wrap_probability: float = WRAP_PROBABILITY, least: int = 1
) -> int:
    """The least modulus_bits for the sums of one round.

    Guarantees:
      No coordinate of any group wraps, except with at most `wrap_probability`.

    Args:
      loads: The groups of the round.
      wrap_probability: Probability of a wrap in the round as a whole.
      least: The smallest allowed modulus_bits.

    Raises:
      MechanismError: No ring of up to 64 bits is enough.
    """
    largest = max(load.largest(wrap_probability / len(loads)) for load in loads)
    bits = math.ceil(largest).bit_length() + 1
    if bits > MAX_BITS:
        raise MechanismError(
            f"Expected sums and noise that fit a ring of {MAX_BITS} bits, got ones that need "
            f"{bits}. Use a coarser grid, fewer clients or less noise."
        )
    return max(least, bits)


def _noise_tail(family: str, variance: float, log_odds: float) -> float:
    """The x with P(|noise| > x) at most 2 exp(-log_odds)."""
    if family == "discrete_gaussian":
        return math.sqrt(2 * variance * log_odds)
    low, high = 0.0, 1.0
    while variance * _skellam_rate(high / variance) < log_odds:
        low, high = high, 2 * high
    for _ in range(64):
        middle = (low + high) / 2
        enough = variance * _skellam_rate(middle / variance) >= log_odds
        low, high = (low, middle) if enough else (middle, high)
    return high


def _skellam_rate(u: float) -> float:
    """Cramer's rate of Skellam noise of unit variance per step: sup_t (t u - cosh t + 1).

    At its best t = asinh u it is u asinh u - sqrt(1 + u^2) + 1, with the last two terms written so that
    nothing cancels.
    """
    return u * math.asinh(u) - u**2 / (1 + math.sqrt(1 + u**2))
