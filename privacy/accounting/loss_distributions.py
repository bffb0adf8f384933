"""Privacy losses of one mechanism: their support, their probabilities, and their law on a grid.

The privacy loss of a pair (P, Q) is L = log dP/dQ under P. For Gaussian and Laplace sums, sampled
or not, it is an explicit monotone function of one number x, so an integral over x with positive
terms gives every probability to a relative error near that of a float, however small it is. A
composition at a tiny delta needs this precision, which differences of distribution functions lose.

A loss between two grid points is shared among them so that its mass under P and under Q is kept:
the law on the grid dominates the true one, and differs from it by the square of the grid step.

Sources: Zhu, Dong, Wang (2022), theorem 11, for the pairs; Doroshenko et al. (2022), algorithm 1, for
the grid ("connect the dots"); docs/decisions/0038-tilted-composition.md.
"""

import math
from dataclasses import dataclass

import numpy as np

from privacy.accounting.terms import GaussianTerm, Laplace
from privacy.relations import Relation

REMOVE, ADD, REPLACE = "remove", "add", "replace"
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
_PANELS = 8  # per standard deviation: four nodes on a panel then err by 1e-15
_FARTHEST = 37.0  # standard deviations; the mass beyond is the smallest float


@dataclass(frozen=True)
class Losses:
    """A law of privacy losses, as weighted points.

    Attributes:
      values: The points.
      masses: Their probabilities under P.
      infinity: Probability of an infinite loss, including the truncated probability.
    """

    values: np.ndarray
    masses: np.ndarray
    infinity: float


def directions(relation: Relation) -> tuple[str, ...]:
    """The pairs to compose, each separately; the larger delta counts."""
    return (REPLACE,) if relation is Relation.REPLACE_ONE else (REMOVE, ADD)


def losses(leaf: GaussianTerm | Laplace, direction: str, tail: float, grid: float | None) -> Losses:
    """The losses of one mechanism.

    Args:
      leaf: A Gaussian, or a Laplace sum that is not on a sample under "replace".
      direction: "remove", "add" or "replace".
      tail: Probability that may be truncated; it then counts as an infinite loss.
      grid: Points that no panel of the integral crosses; None for no grid.
    """
    if isinstance(leaf, Laplace):
        return _laplace(leaf, direction, grid)
    z, q = leaf.noise_multiplier, leaf.q
    far = min(_FARTHEST, math.sqrt(2 * max(1.0, -math.log(max(tail, 1e-300)))))
    low, high = -far * z - (1 if direction == REPLACE else 0), 1 + far * z
    centres = (-1, 0, 1) if direction == REPLACE else (0, 1)
    apart = 2 * far * z < 1  # then there is almost no mass between the centres
    spans = [(c - far * z, c + far * z) for c in centres] if apart else [(low, high)]
    x, width = _panelled(_breaks(leaf, direction, spans, grid))
    value = _loss(x, z, q)
    if direction == REPLACE:
        value = value - _loss(-x, z, q)
    share = 0.0 if direction == ADD else q  # of N(1, z^2) in P
    density = (1 - share) * np.exp(-((x / z) ** 2) / 2)
    if share:
        density += share * np.exp(-(((x - 1) / z) ** 2) / 2)
    masses = density * (width / (z * math.sqrt(2 * math.pi)))
    outside = (1 - share) * (_beyond(-low / z) + _beyond(high / z))
    if share:
        outside += share * (_beyond((1 - low) / z) + _beyond((high - 1) / z))
    outside = 2 * _beyond(far) if apart else outside
    value = -value if direction == ADD else value
    masses *= (1 - outside) / masses.sum()
    return Losses(value, masses, outside)


def on_grid(parts: Losses, grid: float) -> tuple[int, np.ndarray]:
    """The dominating law on integer multiples of a grid step: the first multiple, and the masses."""
    below = np.floor(parts.values / grid)
    rest = parts.values - below * grid
    upper = parts.masses * (np.expm1(-rest) / math.expm1(-grid))
    first = int(below.min())
    index = (below - first).astype(np.int64)
    size = int(index.max()) + 2
    law = np.bincount(index, parts.masses - upper, size) + np.bincount(index + 1, upper, size)
    return first, np.maximum(law, 0.0)


def _loss(x: np.ndarray, z: float, q: float) -> np.ndarray:
    """Log of ((1 - q) N(0, z^2) + q N(1, z^2)) over N(0, z^2) at x."""
    return _mixed((x - 0.5) / z**2, q)


def _mixed(exponent: np.ndarray, q: float) -> np.ndarray:
    """The loss on a sample, log(1 - q + q exp(exponent)), from the loss `exponent` with full
    participation.
    """
    if q == 1:
        return exponent
    value = np.log1p(q * np.expm1(np.minimum(exponent, 700.0)))
    if exponent.max() > 700.0:
        far = math.log(q) + exponent + np.log1p((1 - q) / q * np.exp(-np.maximum(exponent, 700.0)))
        value = np.where(exponent > 700.0, far, value)
    return value


def _breaks(
    leaf: GaussianTerm, direction: str, spans: list[tuple[float, float]], grid: float | None
) -> np.ndarray:
    """Points between which density and loss are smooth and the loss stays between grid points.

    Between two spans there is one panel, for any distance in standard deviations.
    """
    z, q = leaf.noise_multiplier, leaf.q
    low, high = spans[0][0], spans[-1][1]
    breaks = [np.linspace(a, b, math.ceil((b - a) / z * _PANELS) + 1) for a, b in spans]
    if q < 1:  # where the client's part becomes relevant, over a length of z^2
        turn = z**2 * (math.log1p(-q) - math.log(q)) + 0.5 + z**2 * np.linspace(-40, 40, 161)
        breaks += [turn, -turn] if direction == REPLACE else [turn]
    if grid is not None:
        ends = _loss(np.array([low, high]), z, q)
        if direction == REPLACE:
            ends = ends - _loss(-np.array([low, high]), z, q)
        first, last = math.ceil(ends[0] / grid), math.floor(ends[1] / grid)
        edges = np.arange(first, last + 1) * grid
        invert = _inverse_replace if direction == REPLACE else _inverse
        breaks.append(invert(edges, z, q))
    points = np.concatenate(breaks)
    points = points[(points > low) & (points < high)]
    return np.concatenate([[low], np.sort(points), [high]])


def _inverse(value: np.ndarray, z: float, q: float) -> np.ndarray:
    """The point where `_loss` takes a value; minus infinity for a value that it never takes."""
    return z**2 * _unmixed(value, q) + 0.5


def _unmixed(value: np.ndarray, q: float) -> np.ndarray:
    """The exponent for which `_mixed` gives a value; minus infinity for a value that it never
    gives.
    """
    if q == 1:
        return value
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.log(np.maximum(np.expm1(np.minimum(value, 30.0)) + q, 0.0))
        far = value + np.log1p((q - 1) * np.exp(-np.maximum(value, 30.0)))
    return np.where(value > 30, far, near) - math.log(q)


def _inverse_replace(value: np.ndarray, z: float, q: float) -> np.ndarray:
    """The point where the difference of the losses at x and at -x takes a value: a quadratic in
    exp(x / z^2).
    """
    if q == 1:
        return z**2 * value / 2
    half = np.abs(value) / 2
    with np.errstate(divide="ignore"):
        log_sinh = half + np.log(-np.expm1(-2 * half)) - math.log(2)
        height = math.log1p(-q) - math.log(q) + 0.5 / z**2 + log_sinh
    angle = np.where(height > 20, height + math.log(2), np.arcsinh(np.exp(np.minimum(height, 20))))
    return z**2 * (value / 2 + np.sign(value) * angle)


def _panelled(breaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of the Gauss-Legendre rule on every panel, and their weights."""
    middle, half = (breaks[1:] + breaks[:-1]) / 2, (breaks[1:] - breaks[:-1]) / 2
    x = (middle[:, None] + half[:, None] * _NODES).ravel()
    return x, (half[:, None] * _WEIGHTS).ravel()


def _beyond(distance: float) -> float:
    return math.erfc(distance / math.sqrt(2)) / 2


def _laplace(leaf: Laplace, direction: str, grid: float | None) -> Losses:
    """Between the two centres the loss is linear; outside it is constant on each side."""
    b, q = leaf.noise_multiplier, leaf.q
    if direction == REPLACE:  # only with q = 1: centres 2 apart
        b, direction = b / 2, REMOVE

    def loss(x: np.ndarray) -> np.ndarray:
        return _mixed((2 * x - 1) / b, q)

    breaks = [np.linspace(0.0, 1.0, math.ceil(1 / b * _PANELS) + 1)]
    if grid is not None:
        ends = loss(np.array([0.0, 1.0]))
        edges = np.arange(math.ceil(ends[0] / grid), math.floor(ends[1] / grid) + 1) * grid
        at = (b * _unmixed(edges, q) + 1) / 2
        breaks.append(at[(at > 0) & (at < 1)])
    x, width = _panelled(np.sort(np.concatenate(breaks)))
    share = 0.0 if direction == ADD else q
    inner = ((1 - share) * np.exp(-x / b) + share * np.exp((x - 1) / b)) * width / (2 * b)
    left = ((1 - share) + share * math.exp(-1 / b)) / 2
    right = ((1 - share) * math.exp(-1 / b) + share) / 2
    value = np.concatenate([loss(np.array([0.0])), loss(x), loss(np.array([1.0]))])
    masses = np.concatenate([[left], inner, [right]])
    return Losses(-value if direction == ADD else value, masses / masses.sum(), 0.0)
