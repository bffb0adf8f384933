"""Composition of privacy losses by a tilted Fourier transform, with error bounds added.

The sum S of all losses determines delta(eps) = E[(1 - exp(eps - S))+]. A plain Fourier transform
computes the law of S with an error of about 1e-13 of its peak. This is negligible for a delta of
1e-5 and too large for 1e-13. So the laws are first tilted, p(l) exp(theta l) / M(theta), with theta
such that the peak of the tilted sum is at the requested delta. An error that is small relative to
the peak is then small relative to delta.

All errors are added to delta, so the result is a bound for every theta and window: rounding errors
of the transforms; mass above the window, by Chernoff's bound; truncated mass. Mass that wraps
around into the window is counted twice.

Sources: Koskela, Jaelkoe, Honkela (2020) for the transform; Gopi, Lee, Wutschitz (2021) for windows; Zhu,
Dong, Wang (2022) for delta from moments; docs/decisions/0038-tilted-composition.md.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from privacy.accounting.loss_distributions import Losses, losses, on_grid
from privacy.accounting.terms import GaussianTerm, Laplace

Parts = Sequence[tuple[GaussianTerm | Laplace, int]]

_ACCURACY = 1e-5  # relative error of epsilon due to the grid
_MAX_POINTS = 1 << 19
_MAX_EDGES = 1 << 18
_MIN_POINTS = 1 << 12
_CUT = 1e-7  # relative error of delta due to truncation and wrapping
_UNIT = 2.0**-53
_TILTS = np.geomspace(1e-6, 1e12, 73)


def composed_epsilon(parts: Parts, direction: str, delta: float) -> float:
    """Epsilon of a composition at delta, for one direction; infinite if it cannot be computed.

    Guarantees:
      Never below the true value of the composition of the pairs.
    """
    plan = _Moments.of(parts, direction, _CUT * delta / sum(n for _, n in parts))
    theta, log_delta = _rising(lambda t: math.log(delta) - plan.log_tail(t)), math.log(delta)
    found = _Curve.make(parts, direction, plan, theta, log_delta).epsilon(delta)
    # If large losses are rare, the tilted law has two peaks, and the saddle point is at neither.
    better = _rising(lambda t: plan.at(t)[1] - found) if math.isfinite(found) else theta
    if plan.exponent(better, found) < plan.exponent(theta, found) - 0.5:
        again = _Curve.make(parts, direction, plan, better, log_delta).epsilon(delta)
        found = min(found, again)
    return found


def composed_delta(parts: Parts, direction: str, epsilon: float) -> float:
    """Delta of a composition at epsilon, for one direction; at most 1.

    Guarantees:
      Never below the true value of the composition of the pairs.
    """
    count = sum(n for _, n in parts)
    plan = _Moments.of(parts, direction, 1e-290)
    theta = _rising(lambda t: plan.at(t)[1] - epsilon)
    tail = max(plan.log_tail(theta), math.log(1e-280))
    plan = _Moments.of(parts, direction, _CUT * math.exp(tail) / count)
    return min(1.0, _Curve.make(parts, direction, plan, theta, tail).delta(epsilon))


def stays_within(parts: Parts, direction: str, epsilon: float, delta: float) -> bool:
    """Whether Chernoff's bound alone proves that a composition is (epsilon, delta) in one
    direction.

    Source: E(1 - exp(eps - S))+ <= max_x (1 - exp(-x)) exp(-t x) times M(t) exp(-t eps), at any t.
    """
    plan = _Moments.of(parts, direction, _CUT * delta / sum(n for _, n in parts))
    theta = _rising(lambda t: plan.at(t)[1] - epsilon)
    if theta == 0:
        return False
    worst = -theta * math.log1p(1 / theta) - math.log1p(theta)
    return plan.exponent(theta, epsilon) + worst < math.log(delta) - 1e-3


def _rising(fun: Callable[[float], float]) -> float:
    """Approximate zero of an increasing function; 0 if it starts above zero."""
    low, high = 1e-6, 1e12
    if fun(low) >= 0:
        return 0.0
    for _ in range(48):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fun(middle) >= 0 else (middle, high)
    return low


@dataclass(frozen=True)
class _Moments:
    """Cumulant generating function K of the sum, by quadrature without a grid.

    Attributes:
      parts: The losses of each mechanism that have a mass, and its count.
      tail: Probability that was cut off of each mechanism.
      range: Of the losses of one mechanism, at most; also of those whose mass is 0 in a float.
    """

    parts: tuple[tuple[Losses, int], ...]
    tail: float
    range: float

    @classmethod
    def of(cls, parts: Parts, direction: str, tail: float) -> "_Moments":
        found, widest = [], 0.0
        for leaf, count in parts:
            law = losses(leaf, direction, tail, None)
            widest = max(widest, float(law.values.max() - law.values.min()))
            seen = law.masses > 0  # far out a mass may be too small for a float
            found.append((Losses(law.values[seen], law.masses[seen], law.infinity), count))
        return cls(tuple(found), tail, widest)

    def at(self, theta: float) -> tuple[float, float, float]:
        """K, and its first and second derivative."""
        total = np.zeros(3)
        for part, count in self.parts:
            exponent = theta * part.values
            top = float(exponent.max())
            weights = part.masses * np.exp(exponent - top)
            whole = float(weights.sum())
            mean = float(weights @ part.values) / whole
            spread = float(weights @ (part.values - mean) ** 2) / whole
            total += count * np.array([top + math.log(whole), mean, spread])
        return float(total[0]), float(total[1]), float(total[2])

    def exponent(self, theta: float, epsilon: float) -> float:
        """Of Chernoff's bound on the probability that the sum is at least epsilon."""
        return self.at(theta)[0] - theta * epsilon

    def log_tail(self, theta: float) -> float:
        """About log delta at epsilon = K'(theta): a saddle point."""
        k, mean, spread = self.at(theta)
        return k - theta * mean - math.log1p(theta * (1 + theta) * math.sqrt(2 * math.pi * spread))


@dataclass(frozen=True)
class _Curve:
    """Delta at every epsilon, good near the epsilon that theta was chosen for.

    Attributes:
      points: Values of the sum, increasing.
      upper: At each, an upper bound of the mass of P from there on.
      lower: The same of Q, from below, times exp(pivot).
      pivot: Keeps `lower` in the range of floats.
      rest: What is added to every delta.
    """

    points: np.ndarray
    upper: np.ndarray
    lower: np.ndarray
    pivot: float
    rest: float

    @classmethod
    def make(
        cls, parts: Parts, direction: str, plan: _Moments, theta: float, log_delta: float
    ) -> "_Curve":
        """Chooses window and grid, and composes the losses."""
        low, high, step = _window(plan, theta, log_delta)
        _, mean, variance = plan.at(theta)
        count = sum(n for _, n in parts)
        scale = max(mean, math.sqrt(variance))
        grid = math.sqrt(12 * _ACCURACY * scale / ((1 + theta) * count))
        grid = min(grid, (high - low) / _MIN_POINTS)
        grid = max(grid, (high - low) / (_MAX_POINTS - 2), plan.range / _MAX_EDGES)
        size = 1 << math.ceil(math.log2(max((high - low) / grid + 2, _MIN_POINTS)))
        laws = []
        for leaf, n in parts:
            law = losses(leaf, direction, plan.tail, grid)
            laws.append((*on_grid(law, grid), law.infinity, n))
        return _composed(laws, grid, size, theta, math.floor(low / grid), step)

    def delta(self, epsilon: float) -> float:
        """Delta at one epsilon."""
        if epsilon < self.points[0]:
            return 1.0
        j = int(np.searchsorted(self.points, epsilon, side="right"))
        if j == len(self.points):
            return self.rest
        other = math.exp(min(epsilon - self.pivot, 700.0)) * float(self.lower[j])
        return self.rest + max(0.0, float(self.upper[j]) - other)

    def epsilon(self, delta: float) -> float:
        """The least epsilon, at least 0, at which delta is enough."""
        left = delta - self.rest
        growth = np.exp(np.minimum(self.points - self.pivot, 700.0))
        enough = np.flatnonzero(self.upper - growth * self.lower <= left)
        if left <= 0 or not len(enough):
            return math.inf
        j = int(enough[0])
        least = float(self.points[j])
        if j > 0 and self.upper[j] > left and self.lower[j] > 0:
            between = self.pivot + math.log((self.upper[j] - left) / self.lower[j])
            least = min(least, max(between, float(self.points[j - 1])))
        return max(0.0, least)


def _window(plan: _Moments, theta: float, log_delta: float) -> tuple[float, float, float]:
    """Where the tilted sum lies, up to a negligible mass, and the step of Chernoff's upper bound."""
    k, mean, _ = plan.at(theta)
    negligible = math.log(_CUT) + min(0.0, log_delta - (k - theta * mean)) - 5.0
    above = [(plan.at(theta + s)[0] - k - negligible) / s for s in _TILTS]
    below = [(negligible - plan.at(theta - s)[0] + k) / s for s in _TILTS]
    best = int(np.argmin(above))
    return max(below), above[best], float(_TILTS[best])


Law = tuple[int, np.ndarray, float, int]


def _composed(
    laws: Sequence[Law], grid: float, size: int, theta: float, start: int, step: float
) -> _Curve:
    """The composition in the window of `size` points from `start` on, with its errors."""
    log_bound, relative = np.zeros(size // 2 + 1), np.zeros(size // 2 + 1)
    # Every butterfly errs by a few units of the L1 norm, which is 1.
    unit = 4 * _UNIT * math.log2(size)
    transforms, shift, log_moment, log_steep, infinity = [], 0, 0.0, 0.0, 0.0
    for first, law, lost, count in laws:
        index = first + np.arange(len(law))
        tilted, moment = _tilted(law, index, theta * grid)
        centre = round(float(tilted @ index))
        transform = np.fft.rfft(np.bincount((index - centre) % size, tilted, size))
        transforms.append((transform, count))
        size_of = np.abs(transform) + unit
        log_bound += count * np.log(size_of)
        relative += count * unit / size_of
        shift += count * centre
        # Rounding errors of the moment, and of the masses.
        log_moment += count * (moment + 4 * _UNIT * (4 + abs(moment)))
        log_steep += count * _tilted(law, index, (theta + step) * grid)[1]
        infinity += count * lost
    # All else is below the errors of what is seen, or has a factor without a logarithm.
    seen = (log_bound > -100.0) & np.all([part != 0 for part, _ in transforms], axis=0)
    transform = np.zeros(size // 2 + 1, dtype=np.complex128)
    powers = [count * np.log(part[seen]) for part, count in transforms]
    transform[seen] = np.exp(np.sum(powers, axis=0))
    error = np.exp(log_bound) * (relative + ~seen) + unit * np.abs(transform)
    # In mass of the tilted law, at each point: twice, for the half of the spectrum not computed.
    allowance = 2 * float(error.sum()) / size
    tilted = np.fft.irfft(transform, size)
    tilted = np.roll(tilted, (shift - start) % size)
    points = (start + np.arange(size)) * grid
    above = math.exp(min(0.0, log_steep - (theta + step) * (start + size) * grid))
    return _curve(points, np.maximum(tilted, 0) + allowance, theta, log_moment, infinity + above)


def _tilted(law: np.ndarray, index: np.ndarray, slope: float) -> tuple[np.ndarray, float]:
    """The law times exp(slope x index), made to sum to 1, and the log of what it summed to."""
    exponent = slope * index
    top = float(exponent[law > 0].max())
    weights = law * np.exp(np.minimum(exponent - top, 0.0))
    whole = float(weights.sum())
    return weights / whole, top + math.log(whole)


def _curve(
    points: np.ndarray, tilted: np.ndarray, theta: float, log_moment: float, rest: float
) -> _Curve:
    """Removes the tilt; omits points far below the peak, where the result has no precision."""
    exponent = log_moment - theta * points
    keep = exponent < 50.0
    if not keep.any():
        return _Curve(points[-1:], np.ones(1), np.zeros(1), 0.0, rest)
    points, masses = points[keep], (tilted[keep] * np.exp(exponent[keep])) * (1 + 2.0**-36)
    pivot = float(points[np.argmax(tilted[keep])])
    slack = 2 * len(points) * _UNIT  # of a running sum of positive numbers
    # These are too small for a float; omit them instead of replacing them by larger ones.
    seen = points - pivot <= 600.0
    others = np.where(seen, masses * np.exp(-np.clip(points - pivot, -600.0, 600.0)), 0.0)
    upper = np.cumsum(masses[::-1])[::-1] * (1 + slack)
    lower = np.cumsum(others[::-1])[::-1] * (1 - slack)
    return _Curve(points, upper, lower, pivot, rest)
