"""Shamir secret sharing over GF(2**31 - 1), with repair of wrong shares.

A secret of bytes becomes a few field elements, each the constant term of its own random
polynomial of degree t - 1; holder number j gets the values at j. Any t shares give the secret,
t - 1 say nothing. All owners of a cohort are shared in one matrix product.

Interpolation cannot see that a share is wrong, so `recover` takes a check (the protocol has a
commitment to every secret) and, if it fails, decodes the shares as a Reed-Solomon word. It too
takes all owners at once, so that a liar costs the server no more than a second interpolation.

>>> shares = split(np.array([[7, 8]]), threshold=2, holders=3, stream=SecureStream())[0]
>>> recover({2: shares[1], 3: shares[2]}, 2, lambda secret: True).secret
array([7, 8])

Sources: Shamir (1979); the repair is in `decoding`.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from secagg.crypto import decoding, field
from secagg.crypto.field import PRIME
from secagg.crypto.streams import SecureStream

EXHAUSTIVE = 1000
SEARCHED_AT_ONCE = 256


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
    """Rebuilds one secret although some shares may be wrong; see `recover_all`.

    Args:
      shares: Share values by point, at least `threshold`.
      threshold: t.
      check: Whether a candidate is the committed secret.
    """
    points = tuple(sorted(shares))
    table = np.stack([shares[point] for point in points])[None]
    return next(recover_all(points, table, threshold, lambda _, secret: check(secret)))


def recover_all(
    points: tuple[int, ...],
    table: np.ndarray,
    threshold: int,
    check: Callable[[int, np.ndarray], bool],
) -> Iterator[Recovered]:
    """Rebuilds the secrets of many owners although some shares may be wrong, in order.

    Guarantees:
      A secret is given only if `check` accepts it. With m shares it is found whenever at most
      ⌊(m - t)/2⌋ are wrong, or one is wrong and m > t; and whenever t are right if there are at
      most EXHAUSTIVE choices of t among m. If at most ⌊(m - t + 1)/2⌋ are wrong, `wrong` is
      exactly these; points are never named on the word of fewer than that majority.

    Args:
      points: Share points, the same for all owners, at least `threshold`.
      table: [owners, points, elements] shares.
      threshold: t.
      check: Whether a candidate is the committed secret of the owner in this row.
    """
    secrets, agree = combine(points, table, threshold)
    found = {
        row: Recovered(secrets[row])
        for row in range(len(table))
        if agree[row] and check(row, secrets[row])
    }
    doubtful = [row for row in range(len(table)) if row not in found]
    found |= _mended(points, table, doubtful, threshold, check)
    for row in range(len(table)):
        yield found.get(row) or _searched(
            points, table[row], threshold, secrets[row], partial(check, row)
        )


def _mended(points, table, doubtful: list[int], threshold: int, check) -> dict[int, Recovered]:
    """The owners whose shares are close to one polynomial, with the committed secret."""
    if not doubtful:
        return {}
    words, close = decoding.mend(points, table[doubtful], threshold)
    secrets, agree = combine(points, words, threshold)
    found = {}
    for place, row in enumerate(doubtful):
        if close[place] and agree[place] and check(row, secrets[place]):
            wrong = (words[place] != table[row]).any(axis=1)
            found[row] = Recovered(secrets[place], tuple(np.array(points)[wrong].tolist()))
    return found


def _searched(points, shares: np.ndarray, threshold: int, first: np.ndarray, check) -> Recovered:
    """The secret that some t shares give and the check accepts, beyond what decoding reaches.

    `first` is what the first t shares give.

    The secret is one more share that is right, at 0, so wrong ones are named if the word is close
    to a polynomial with that share. Two polynomials with one secret agree at t - 2 further points
    at most, so nobody is named by fewer than a majority; below it, liars could frame the honest.
    """
    for secrets in itertools.chain([first[None]], _candidates(points, shares, threshold)):
        for secret in secrets:
            if check(secret):
                word = np.concatenate([secret[None], shares])[None]
                whole, close = decoding.mend((0, *points), word, threshold)
                wrong = (whole[0, 1:] != shares).any(axis=1) & close[0]
                return Recovered(secret, tuple(np.array(points)[wrong].tolist()))
    return Recovered(None)


def _candidates(points: tuple[int, ...], shares: np.ndarray, threshold: int):
    """What choices of t shares give, if there are few: [choices, elements] at a time."""
    surplus = len(points) - threshold
    if surplus > 1 and math.comb(len(points), surplus) > EXHAUSTIVE:
        return
    grid = np.array(points, dtype=np.int64)
    weights = field.lagrange(grid, np.array([0]))
    choices = itertools.combinations(range(len(points)), surplus)
    while left_out := list(itertools.islice(choices, SEARCHED_AT_ONCE)):
        chosen = np.repeat(weights, len(left_out), axis=0)
        for places in np.array(left_out, dtype=np.int64).reshape(len(left_out), surplus).T:
            gone = grid[places][:, None]
            chosen = chosen * ((grid - gone) * field.inverse(PRIME - gone) % PRIME) % PRIME
        yield field.matmul(chosen, shares)
