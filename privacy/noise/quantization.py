"""Quantization: rounds clipped floats to integers with a bounded norm.

Rounding a vector of norm C on a grid of `scale` steps per unit can raise its norm by as much as
sqrt(d) steps. The noise must be calibrated to the norm *after* rounding. This module therefore
rounds randomly, checks the integer norm, and draws again if it exceeds a bound D2 that most draws
satisfy:

    D2^2 = min{ s^2 C^2 + d/4 + sqrt(2 ln(1/beta)) (s C + sqrt(d)/2),  (s C + sqrt(d))^2 }

A draw passes with probability at least 1 - beta. A client always sends a norm of at most D2: after
64 draws the vector is shrunk toward zero without randomness.

>>> round(integer_norm_bound(1.0, 100.0, 10_000), 2)
112.47

Sources: Kairouz, Liu, Steinke (2021), definition 3 and proposition 23.
"""

import math
from fractions import Fraction

import numpy as np

from privacy.budgets import open_unit, positive_count, positive_number
from privacy.errors import InvalidEvent
from privacy.noise.samplers import Stream

ATTEMPTS = 64
_CHUNK = 1 << 21
_LARGEST = 2.0**62


def integer_norm_bound(
    clip_norm: float, scale: float, dimension: int, beta: float = math.exp(-0.5)
) -> float:
    """D2: an L2 bound in grid steps that a rounded vector satisfies with probability 1 - beta.

    Args:
      clip_norm: L2 bound C of the float vector.
      scale: Grid steps per unit, s.
      dimension: Entries d of the vector.
      beta: Share of draws that may have to be repeated.

    Source: Kairouz, Liu, Steinke (2021), equation (4).
    """
    reach = positive_number(clip_norm, "clip_norm") * positive_number(scale, "scale")
    side = math.sqrt(positive_count(dimension, "dimension"))
    spread = math.sqrt(2 * math.log(1 / open_unit(beta, "beta")))
    likely = reach**2 + side**2 / 4 + spread * (reach + side / 2)
    return math.sqrt(min(likely, (reach + side) ** 2)) * (1 + 1e-15)


def integer_l1_bound(norm_bound: float, dimension: int) -> float:
    """An L1 bound of integer vectors with this L2 bound: min(sqrt(d) D2, D2^2).

    An integer is at most its square, so the sum of magnitudes is at most the sum of squares.
    """
    bound = positive_number(norm_bound, "norm_bound")
    return min(math.sqrt(positive_count(dimension, "dimension")) * bound, bound**2)


def round_within(x: np.ndarray, scale: float, bound: float, stream: Stream) -> np.ndarray:
    """Rounds scale * x at random to integers, each vector with an L2 norm of at most bound.

    Guarantees:
      Every vector along the last axis has an integer norm of at most bound, computed in integers.
      The rounding is unbiased, except for draws that are repeated because of the bound.

    Args:
      x: Finite float64, vectors along the last axis, clipped so that scale * norm <= bound.
      scale: Grid steps per unit.
      bound: Integer norm bound, from `integer_norm_bound`.
      stream: Random bits for the rounding.

    Raises:
      InvalidEvent: x is not finite, or too large for 64-bit integers.

    Source: Kairouz, Liu, Steinke (2021), algorithm 1.
    """
    values = np.asarray(x, dtype=np.float64) * positive_number(scale, "scale")
    if not np.all(np.abs(values) < _LARGEST):
        raise InvalidEvent(
            "Expected finite values below 2^62 grid steps, got NaN, an infinity or more."
            " Replace a client's non-finite update by zeros before it is rounded."
        )
    limit = math.floor(Fraction(positive_number(bound, "bound")) ** 2)
    rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
    out = np.empty(rows.shape, dtype=np.int64)
    step = max(1, _CHUNK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        out[start : start + step] = _round_rows(rows[start : start + step], limit, stream)
    return out.reshape(values.shape)


def _round_rows(rows: np.ndarray, limit: int, stream: Stream) -> np.ndarray:
    out = np.zeros(rows.shape, dtype=np.int64)
    todo = np.arange(len(rows))
    for _ in range(ATTEMPTS):
        if todo.size == 0:
            return out
        floors = np.floor(rows[todo])
        up = stream.uniform(floors.shape) < rows[todo] - floors
        drawn = (floors + up).astype(np.int64)
        fits = _fits(drawn, limit)
        out[todo[fits]] = drawn[fits]
        todo = todo[~fits]
    for row in todo:
        out[row] = _shrunk(rows[row], limit)
    return out


def _fits(integers: np.ndarray, limit: int) -> np.ndarray:
    """Whether the squared norm of each row is at most limit, without overflow."""
    largest = max(abs(int(integers.max(initial=0))), abs(int(integers.min(initial=0))))
    if largest**2 * max(1, integers.shape[1]) < 2**63:
        return np.sum(integers * integers, axis=1) <= min(limit, 2**63 - 1)
    exact = integers.astype(object)
    return np.sum(exact * exact, axis=1) <= limit


def _shrunk(row: np.ndarray, limit: int) -> np.ndarray:
    """The row scaled into the ball if it was outside, and rounded toward zero."""
    norm = math.hypot(*row)
    factor = min(1.0, math.sqrt(limit) / norm) if norm else 1.0
    for _ in range(ATTEMPTS):
        integers = np.trunc(row * factor).astype(np.int64)
        if _fits(integers[None], limit)[0]:
            return integers
        factor *= 1 - 1e-12
    return np.zeros(row.shape, dtype=np.int64)
