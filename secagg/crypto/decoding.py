"""Decoding: wrong shares of many owners are found and mended at once.

The shares of one owner are a Reed-Solomon word: values of a polynomial of degree below t at the
share points. Its syndromes are zero if no share is wrong and depend on the wrong ones alone
otherwise; the shortest recurrence that they obey has the wrong points as its roots. All owners go
through the same steps together, each with its own wrong points, so that liars cannot make one
owner cost more than another.

>>> words = np.array([[[7], [9], [11], [13], [99]]])  # 5 + 2 x at 1..4, and a wrong share at 5
>>> mended, found = mend((1, 2, 3, 4, 5), words, threshold=2)
>>> mended[0, :, 0], found
(array([ 7,  9, 11, 13, 15]), array([ True]))

Sources: Massey (1969) for the shortest recurrence; Forney (1965) for the size of the errors.
"""

import hashlib

import numpy as np

from secagg.crypto import field
from secagg.crypto.field import PRIME

CHUNK_ELEMENTS = 1 << 22


def mend(
    points: tuple[int, ...], words: np.ndarray, threshold: int
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces wrong shares by right ones wherever few enough are wrong.

    Guarantees:
      A word of m shares of which at most ⌊(m - t)/2⌋ are wrong becomes the values of the one
      polynomial of degree below t that is so close to it, but with a probability of about
      width / PRIME over a hash of all words. O(owners · m²) operations, whatever is wrong.

    Args:
      points: Share points, distinct; the same for all owners. A share at 0 is taken to be right.
      words: [owners, points, width] shares.
      threshold: t.

    Returns:
      The words, and for each owner whether its word was found. Other words are as they were.
    """
    reach = (len(points) - threshold) // 2
    mended, found = words.copy(), np.zeros(len(words), dtype=bool)
    if reach == 0 or not len(words):
        return mended, found
    code = _Code(points, threshold)
    # No sender can choose errors that cancel in this combination of the columns.
    factor = int.from_bytes(hashlib.sha256(words.tobytes()).digest()[:8], "little") % PRIME
    step = max(CHUNK_ELEMENTS // (len(points) * words.shape[2]), 1)
    for start in range(0, len(words), step):
        part = slice(start, start + step)
        found[part] = code.mend(mended[part], factor, reach)
    return mended, found


class _Code:
    """The words of one list of points: what decoding needs to know of it once."""

    def __init__(self, points: tuple[int, ...], threshold: int):
        self.points = np.array(points, dtype=np.int64)
        differences = (self.points[:, None] - self.points[None, :]) % PRIME
        np.fill_diagonal(differences, 1)
        self.scales = field.product(differences)
        powers = field.vandermonde(self.points, len(points) - threshold)
        self.checks = field.inverse(self.scales)[:, None] * powers % PRIME
        self.inverses = field.inverse(self.points)

    def mend(self, words: np.ndarray, factor: int, reach: int) -> np.ndarray:
        """Mends words in place, and says which were found."""
        owners, count, width = words.shape
        flat = words.transpose(0, 2, 1).reshape(owners * width, count)
        syndromes = field.matmul(flat, self.checks).reshape(owners, width, -1)
        mix = field.vandermonde(np.array([factor]), width)[0]
        mixed = (syndromes * mix[:, None] % PRIME).sum(axis=1) % PRIME
        locators, lengths = shortest_recurrences(mixed, reach)
        powers = field.vandermonde(self.inverses, reach + 1).T
        wrong = field.matmul(locators, powers) == 0
        found = (lengths <= reach) & (wrong.sum(axis=1) == lengths)
        wrong &= found[:, None]
        errors = self._errors(syndromes[:, :, :reach], locators, powers, wrong)
        rows, places = np.nonzero(wrong)
        words[rows, places] = (words[rows, places] - errors) % PRIME
        return found

    def _errors(self, syndromes, locators, powers, wrong) -> np.ndarray:
        """How far every wrong share is off, [wrong shares, width]."""
        owners, width, reach = syndromes.shape
        evaluators = np.zeros_like(syndromes)
        for low in range(reach):
            terms = locators[:, low, None, None] * syndromes[:, :, : reach - low]
            evaluators[:, :, low:] = (evaluators[:, :, low:] + terms) % PRIME
        flat = evaluators.reshape(owners * width, reach)
        values = field.matmul(flat, powers[:reach]).reshape(owners, width, -1)
        slopes = locators[:, 1:] * np.arange(1, reach + 1) % PRIME
        slopes = field.matmul(slopes, powers[:reach])
        rows, places = np.nonzero(wrong)
        scale = field.inverse(slopes[rows, places]) * self.scales[places] % PRIME
        scale = scale * (PRIME - self.points[places]) % PRIME
        return values[rows, :, places] * scale[:, None] % PRIME


def shortest_recurrences(sequences: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """The shortest linear recurrence of every row, by the Berlekamp-Massey algorithm.

    Args:
      sequences: [rows, terms] field elements.
      reach: Greatest length of interest.

    Returns:
      Coefficients [rows, reach + 1], the first 1, and lengths; only where the length is at most
      `reach` do the coefficients mean anything.
    """
    rows, terms = sequences.shape
    current = np.zeros((rows, reach + 1), dtype=np.int64)
    current[:, 0] = 1
    earlier, scale = current.copy(), np.ones(rows, dtype=np.int64)
    lengths = np.zeros(rows, dtype=np.int64)
    for term in range(terms):
        taps = min(term, reach) + 1
        window = sequences[:, term - taps + 1 : term + 1][:, ::-1]
        excess = (current[:, :taps] * window % PRIME).sum(axis=1) % PRIME
        earlier = np.roll(earlier, 1, axis=1)
        earlier[:, 0] = 0
        longer = (excess != 0) & (2 * lengths <= term)
        before = current
        current = (current - (excess * scale % PRIME)[:, None] * earlier) % PRIME
        earlier[longer], scale[longer] = before[longer], field.inverse(excess[longer])
        lengths[longer] = term + 1 - lengths[longer]
    return current, lengths
