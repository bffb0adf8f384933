"""Below the true delta of compositions, from pairs of laws written down here, without the accountant.

One draw is a pair of laws on the line, cut into cells: what tells in which cell an output lies is
post-processing, so that no delta of the cells is above the true one. Two bounds of their composition:

- a contour integral, which is exact for the cells (`contour`; see reference_pld);
- one event, that some draw has a loss above a threshold: P(A) - exp(eps) Q(A) is never above delta. It
  is near the truth where large losses are rare, and there the integral does not settle (`event`).

Sources: Zhu, Dong, Wang (2022) for the integral; Dong, Roth, Su (2022) for post-processing.
"""

import functools
import math

import numpy as np
from scipy import special

_CELLS = 8  # in a standard deviation
_FAR = 13
_T, _TW = np.polynomial.legendre.leggauss(16)


def _normal(cuts, mean, std):
    """Masses of cells, each with its own relative accuracy."""
    low, high = (cuts[:-1] - mean) / std, (cuts[1:] - mean) / std
    right = low > 0
    return np.where(
        right,
        special.ndtr(-low) - special.ndtr(-high),
        special.ndtr(high) - special.ndtr(low),
    )


def _pair(one, other):
    """Losses and probabilities of a pair of laws on cells, and the same with the two swapped."""
    seen = (one > 1e-290) & (other > 1e-290)  # the rest is left out, which lowers delta
    loss = np.log(one[seen]) - np.log(other[seen])
    return (loss, one[seen], other[seen]), (-loss, other[seen], one[seen])


@functools.lru_cache(maxsize=256)
def gaussian(z, q, relation):
    """Both orders of the pair that one client makes in a sample, everyone else sending zero."""
    reach = math.ceil(_FAR * _CELLS)
    cuts = np.arange(-reach, reach + 1) * (z / _CELLS)
    cuts = np.concatenate([[-np.inf], cuts, cuts[cuts > cuts[-1] - 1] + 1, [np.inf]])
    rest, up = _normal(cuts, 0.0, z), _normal(cuts, 1.0, z)
    if relation == "REPLACE_ONE":
        down = _normal(cuts, -1.0, z)
        return _pair((1 - q) * rest + q * up, (1 - q) * rest + q * down)
    return _pair((1 - q) * rest + q * up, rest)


@functools.lru_cache(maxsize=256)
def skellam(variance, q, relation, shift):
    """The same for Skellam noise on one integer coordinate that a client moves by `shift`."""
    reach = math.ceil(_FAR * math.sqrt(variance)) + 2 * shift
    width = max(1, math.floor(math.sqrt(variance) / _CELLS))
    points = np.arange(-reach, reach + 1)
    starts = np.arange(0, len(points), width)

    def law(mean):
        return np.add.reduceat(special.ive(np.abs(points - mean), variance), starts)

    rest, up = law(0), law(shift)
    if relation == "REPLACE_ONE":
        return _pair((1 - q) * rest + q * up, (1 - q) * rest + q * law(-shift))
    return _pair((1 - q) * rest + q * up, rest)


def event(draws, eps):
    """Largest P(A) - exp(eps) Q(A) of the events that some draw has a loss above a threshold."""
    tops = np.concatenate([loss for (loss, _, _), _ in draws])
    levels = np.quantile(tops, np.linspace(0, 1, 200)[:-1])
    log_none, log_none_other = np.zeros(len(levels)), np.zeros(len(levels))
    for (loss, one, other), count in draws:
        order = np.argsort(loss)
        first = np.searchsorted(loss[order], levels, side="right")
        above = np.append(np.cumsum(one[order][::-1])[::-1], 0.0)[first]
        above_other = np.append(np.cumsum(other[order][::-1])[::-1], 0.0)[first]
        log_none += count * np.log1p(-np.minimum(above, 1 - 1e-16))
        log_none_other += count * np.log1p(-np.minimum(above_other, 1 - 1e-16))
    found = -np.expm1(log_none) - math.exp(min(eps, 700.0)) * -np.expm1(log_none_other)
    return max(0.0, float(found.max()))


def contour(draws, eps, panels=60):
    """Delta of the cells at eps > 0; 0 if the integral does not settle."""
    parts = [(loss, one, count) for (loss, one, _), count in draws]

    def cumulant(s):
        total = np.zeros(np.shape(s), complex)
        for loss, mass, count in parts:
            top = float(np.max(np.real(s))) * float(loss.max())
            if top < 300:
                moment = np.expm1(np.multiply.outer(s, loss)) @ mass + (mass.sum() - 1)
                total += count * np.log1p(moment)
            else:
                total += count * (top + np.log(np.exp(np.multiply.outer(s, loss) - top) @ mass))
        return total

    def slope(theta):
        found = -eps - 1 / theta - 1 / (1 + theta)
        for loss, mass, count in parts:
            weights = mass * np.exp(theta * (loss - loss.max()))
            found += count * float(weights @ loss) / float(weights.sum())
        return found

    low, high = 1e-6, 1e9
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    theta = math.sqrt(low * high)
    top = float(cumulant(np.array([theta]))[0].real) - theta * eps
    bend = (slope(theta * 1.001) - slope(theta * 0.999)) / (0.002 * theta)
    width = 1 / math.sqrt(max(bend, 1e-300))
    total, at = 0.0, 0.0
    for _ in range(panels):
        t, w = at + width * (_T + 1) / 2, width * _TW / 2
        s = theta + 1j * t
        values = np.exp(cumulant(s) - s * eps - top) / (s * (s + 1))
        total += float(values.real @ w)
        at += width
        if np.abs(values).max() * at < 1e-7 * abs(total):
            return math.exp(top) * total / math.pi * (1 - 1e-6) if top < 1 else 0.0
    return 0.0


def delta(pairs, eps):
    """At most the true delta at eps of [(both orders of a pair, count), ...].

    The client is in one population or in the other, for all draws alike; the worse counts.
    """
    found = 0.0
    for way in (0, 1):
        draws = [(pair[way], count) for pair, count in pairs]
        found = max(found, event(draws, eps), contour(draws, max(eps, 1e-9)))
    return found
