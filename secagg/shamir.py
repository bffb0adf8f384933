"""Shamir secret sharing over GF(2**31 - 1), with repair of wrong shares.

A secret of bytes becomes a few field elements, each the constant term of its own random
polynomial of degree t - 1; holder number j gets the values at j. Any t shares give the secret,
t - 1 say nothing. All owners of a cohort are shared in one matrix product.

Interpolation cannot see that a share is wrong, so `recover` takes a check (the protocol has a
commitment to every secret) and, if it fails, decodes the shares as a Reed-Solomon word.

>>> shares = split(np.array([[7, 8]]), threshold=2, holders=3, stream=SecureStream())[0]
>>> recover({2: shares[1], 3: shares[2]}, 2, lambda secret: True).secret
array([7, 8])

Sources: Shamir (1979); Welch and Berlekamp (1986) for the repair.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from secagg import field
from secagg.field import PRIME
from secagg.streams import SecureStream

EXHAUSTIVE = 1000


def random_elements(stream: SecureStream, count: int) -> np.ndarray:
    """Uniform field elements, by rejection of the one 31-bit word that is not below p."""
    values = (stream.uint32(count) >> np.uint32(1)).astype(np.int64)
    while (rejected := np.flatnonzero(values == PRIME)).size:
        values[rejected] = stream.uint32(rejected.size) >> np.uint32(1)
    return values


def coefficients(secrets: np.ndarray, threshold: int, stream: SecureStream) -> np.ndarray:
    """Random polynomials with the secrets as constant terms, [owners, threshold, elements]."""
    owners, width = secrets.shape
    drawn = random_elements(stream, owners * (threshold - 1) * width)
    return np.concatenate(
        [secrets[:, None, :], drawn.reshape(owners, threshold - 1, width)], axis=1
    )


def evaluate(polynomials: np.ndarray, holders: int) -> np.ndarray:
    """Values at 1..holders: [owners, threshold, elements] to [owners, holders, elements]."""
    owners, threshold, width = polynomials.shape
    powers = field.vandermonde(np.arange(1, holders + 1), threshold)
    flat = polynomials.transpose(1, 0, 2).reshape(threshold, owners * width)
    return field.matmul(powers, flat).reshape(holders, owners, width).transpose(1, 0, 2)


def split(secrets: np.ndarray, *, threshold: int, holders: int, stream: SecureStream) -> np.ndarray:
    """Shares secrets; row i of the result holds owner i's share for each holder.

    Guarantees:
      Any threshold - 1 shares of one owner are uniform and independent of its secret.

    Args:
      secrets: [owners, elements] field elements.
      threshold: Shares that are needed.
      holders: Number of shares; holder j (from 1) gets the value at j.
      stream: Source of the coefficients.
    """
    return evaluate(coefficients(secrets, threshold, stream), holders)


@dataclass(frozen=True)
class Recovered:
    """A secret and the points whose shares contradict it.

    Attributes:
      secret: Field elements, or None if no sharing agrees with the check.
      wrong: Points of wrong shares, increasing.
    """

    secret: np.ndarray | None
    wrong: tuple[int, ...] = ()


@lru_cache(maxsize=4096)
def _weights(points: tuple[int, ...], threshold: int) -> np.ndarray:
    """Weights that give f(0) and f at the surplus points from the first `threshold` points."""
    grid = np.array(points, dtype=np.int64)
    targets = np.concatenate([[0], grid[threshold:]])
    return field.lagrange(grid[:threshold], targets)


def combine(points: tuple[int, ...], shares: np.ndarray, threshold: int):
    """Interpolates many owners at once.

    Args:
      points: Share points, the same for all owners.
      shares: [owners, len(points), elements].
      threshold: Number of points that determine the polynomial.

    Returns:
      Secrets [owners, elements], and for each owner whether all its shares lie on one polynomial.
    """
    owners, count, width = shares.shape
    flat = shares.transpose(1, 0, 2).reshape(count, owners * width)
    values = field.matmul(_weights(points, threshold), flat[:threshold])
    agree = (values[1:] == flat[threshold:]).reshape(count - threshold, owners, width)
    return values[0].reshape(owners, width), agree.all(axis=(0, 2))


def recover(
    shares: Mapping[int, np.ndarray], threshold: int, check: Callable[[np.ndarray], bool]
) -> Recovered:
    """Rebuilds one secret although some shares may be wrong.

    Guarantees:
      A secret is returned only if `check` accepts it. With m shares it is found whenever at most
      ⌊(m - t)/2⌋ are wrong, or one is wrong and m > t; and whenever t are right if there are at
      most EXHAUSTIVE choices of t among m. If at most ⌊(m - t + 1)/2⌋ are wrong, `wrong` is
      exactly these; points are never named on the word of fewer than that majority.

    Args:
      shares: Share values by point, at least `threshold`.
      threshold: t.
      check: Whether a candidate is the committed secret.
    """
    points = tuple(sorted(shares))
    table = np.stack([shares[point] for point in points])
    found = Recovered(None)
    for kept in _candidates(points, table, threshold):
        rows = [points.index(point) for point in kept]
        secret = combine(kept, table[None, rows], threshold)[0][0]
        if check(secret):
            wrong = _contradicting(points, table, kept[:threshold])
            # Two polynomials with one secret share at most t - 2 other points, so this many
            # agreeing shares cannot be had twice. Below it, liars could frame the honest.
            if 2 * (len(points) - len(wrong)) > len(points) + threshold - 2:
                return Recovered(secret, wrong)
            found = Recovered(secret)
    return found


def _candidates(points: Sequence[int], table: np.ndarray, threshold: int):
    """Point sets that may be free of wrong shares, likeliest first."""
    yield tuple(points)
    good = _agreeing(points, table, threshold)
    if good is not None:
        yield good
    if math.comb(len(points), threshold) <= EXHAUSTIVE:
        yield from itertools.combinations(points, threshold)
    elif len(points) > threshold:
        for left_out in points:
            yield tuple(point for point in points if point != left_out)


def _contradicting(points: Sequence[int], table: np.ndarray, basis: tuple[int, ...]):
    rest = [point for point in points if point not in basis]
    if not rest:
        return ()
    weights = field.lagrange(np.array(basis), np.array(rest))
    rows = [points.index(point) for point in basis]
    expected = field.matmul(weights, table[rows])
    wrong = [p for p, row in zip(rest, expected) if (row != table[points.index(p)]).any()]
    return tuple(sorted(wrong))


def _agreeing(points: Sequence[int], table: np.ndarray, threshold: int) -> tuple[int, ...] | None:
    """Berlekamp-Welch on one combination of the columns: the points without error.

    Solves Q(x) = y E(x) with deg E = e monic and deg Q < t + e; E vanishes at the errors. The
    combination is a hash of the shares, so no sender can choose errors that cancel in it.
    """
    errors = (len(points) - threshold) // 2
    if errors == 0:
        return None
    grid = np.array(points, dtype=np.int64)
    factor = int.from_bytes(hashlib.sha256(table.tobytes()).digest()[:8], "little") % PRIME
    mix = field.vandermonde(np.array([factor]), table.shape[1])[0]
    y = field.matmul(table, mix[:, None])[:, 0]
    left = field.vandermonde(grid, threshold + errors)
    right = -y[:, None] * field.vandermonde(grid, errors) % PRIME
    target = y * field.power(grid, errors) % PRIME
    solution = _solve(np.concatenate([left, right], axis=1), target)
    if solution is None:
        return None
    locator = np.append(solution[threshold + errors :], 1)
    at_points = field.matmul(field.vandermonde(grid, errors + 1), locator[:, None])[:, 0]
    good = tuple(point for point, value in zip(points, at_points) if value)
    return good if len(good) >= threshold else None


def _solve(matrix: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """One solution of a linear system over the field, free variables zero; None if there is none."""
    rows = np.concatenate([matrix, target[:, None]], axis=1) % PRIME
    pivots, row = [], 0
    for column in range(matrix.shape[1]):
        candidates = np.flatnonzero(rows[row:, column])
        if not candidates.size:
            continue
        pick = row + candidates[0]
        rows[[row, pick]] = rows[[pick, row]]
        rows[row] = rows[row] * field.inverse(rows[row, column : column + 1]) % PRIME
        others = rows[:, column].copy()
        others[row] = 0
        rows = (rows - others[:, None] * rows[row][None, :]) % PRIME
        pivots.append(column)
        row += 1
        if row == len(rows):
            break
    if rows[row:, -1].any():
        return None
    solution = np.zeros(matrix.shape[1], dtype=np.int64)
    solution[pivots] = rows[: len(pivots), -1]
    return solution
