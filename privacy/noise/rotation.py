"""Rotation: a random orthonormal map, shared by a round, that spreads a vector over its coordinates.

If a client's vector has all its norm in one coordinate, the ring must hold many times the norm.
After random signs and a Hadamard transform, R = H diag(signs) / sqrt(m), every coordinate is a sum
of independent signs: for every vector, its tail is that of a Gaussian of deviation norm / sqrt(m).
Norms do not change, so the privacy loss of a client does not change either.

>>> turned = Rotation(3, b"a public seed of the round")
>>> turned.forward(np.array([[3.0, 0.0, 4.0]])).shape
(1, 4)
>>> bool(np.allclose(turned.backward(turned.forward(np.array([[3.0, 0.0, 4.0]]))[0]), [3, 0, 4]))
True

Sources: Ailon & Chazelle (2009); Kairouz, Liu, Steinke (2021), section 4.1 and lemma 26.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from privacy.budgets import positive_count

_FACTOR = 64


@dataclass(frozen=True)
class Rotation:
    """Random signs and a Hadamard transform of vectors of one length, padded to a power of two.

    Guarantees:
      Orthonormal up to the rounding of float64. Over the seed, every coordinate of a rotated vector is
      sub-Gaussian with deviation norm / sqrt(padded), for a vector that was not chosen from the seed.

    Attributes:
      size: Entries of a vector.
      seed: Public bytes, the same for all clients of a round and fresh for every round.
    """

    size: int
    seed: bytes

    @property
    def padded(self) -> int:
        """Entries of a rotated vector: the least power of two that holds `size`."""
        return padded_size(self.size)

    def forward(self, rows: np.ndarray) -> np.ndarray:
        """Rotates float64 vectors, [clients, size] to [clients, padded]."""
        spread = np.zeros((len(rows), self.padded))
        spread[:, : self.size] = rows
        spread *= self._signs()
        return _hadamard(spread)

    def backward(self, vector: np.ndarray) -> np.ndarray:
        """The inverse of `forward`, for one vector; padding is dropped."""
        return (_hadamard(np.asarray(vector, np.float64)[None])[0] * self._signs())[: self.size]

    def _signs(self) -> np.ndarray:
        octets = hashlib.shake_256(b"secfad rotation" + self.seed).digest(-(-self.padded // 8))
        bits = np.unpackbits(np.frombuffer(octets, np.uint8), count=self.padded)
        return 1.0 - 2.0 * bits


def padded_size(size: int) -> int:
    """The least power of two that is at least size."""
    return 1 << (positive_count(size, "a vector's size") - 1).bit_length()


def _hadamard(rows: np.ndarray) -> np.ndarray:
    """Orthonormal Hadamard transform of each row: a Kronecker product, one small factor at a time."""
    width, right = rows.shape[1], 1
    while right < width:
        factor = min(_FACTOR, width // right)
        cells = rows.reshape(-1, factor, right) if right > 1 else rows.reshape(-1, factor)
        turned = _factor(factor) @ cells if right > 1 else cells @ _factor(factor)
        rows, right = turned.reshape(rows.shape), right * factor
    return rows


def _factor(size: int) -> np.ndarray:
    """The orthonormal Hadamard matrix of a power of two; symmetric."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(size)
