"""The field GF(2**31 - 1): exact matrix products through float64 BLAS.

A product of two 31-bit numbers does not fit a float64, but a product of two 16-bit halves does,
with room for 2**20 of them to be summed. Four BLAS products and a recombination give an exact
matrix product mod p at the speed of the BLAS.

>>> matmul(np.array([[PRIME - 1, 2]]), np.array([[PRIME - 1], [3]]))
array([[7]])

Sources: docs/secagg-spec.md, section "Secret sharing".
"""

import numpy as np

PRIME = 2**31 - 1
ELEMENT_BITS = 30
MAX_INNER = 1 << 20
ONE_THREAD = 1 << 18
"""Multiplications up to which OpenBLAS uses one thread."""
WIDTH = 64


def matmul(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Matrix product of int64 matrices of field elements.

    Rows and columns go in pieces that the BLAS works on with one thread: for products of this size
    waking its threads costs more than they gain, and twenty times more on a busy machine. A piece
    keeps WIDTH columns, because narrower ones do not use the BLAS well.
    """
    assert left.shape[1] <= MAX_INNER
    halves = (left & 0xFFFF).astype(np.float64), (left >> 16).astype(np.float64)
    width = max(ONE_THREAD // max(left.size, 1), WIDTH)
    pieces = [
        _matmul_piece(*halves, right[:, start : start + width])
        for start in range(0, right.shape[1], width)
    ]
    return np.concatenate(pieces, axis=1) if len(pieces) > 1 else pieces[0]


def _matmul_piece(low_l: np.ndarray, high_l: np.ndarray, right: np.ndarray) -> np.ndarray:
    low_r, high_r = (right & 0xFFFF).astype(np.float64), (right >> 16).astype(np.float64)
    high = _rows_at_a_time(high_l, high_r).astype(np.int64) % PRIME
    middle = _rows_at_a_time(high_l, low_r) + _rows_at_a_time(low_l, high_r)
    low = _rows_at_a_time(low_l, low_r).astype(np.int64) % PRIME
    # 2**32 = 2 and 2**16 < p, so every term below stays under 2**48.
    return (2 * high + (middle.astype(np.int64) % PRIME << 16) + low) % PRIME


def _rows_at_a_time(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    step = max(ONE_THREAD // max(right.size, 1), 1)
    if len(left) <= step:
        return left @ right
    result = np.empty((len(left), right.shape[1]))
    for start in range(0, len(left), step):
        np.matmul(left[start : start + step], right, out=result[start : start + step])
    return result


def power(base: np.ndarray, exponent: int) -> np.ndarray:
    """Elementwise power mod p."""
    result, factor = np.ones_like(base), base % PRIME
    while exponent:
        if exponent & 1:
            result = result * factor % PRIME
        factor = factor * factor % PRIME
        exponent >>= 1
    return result


def inverse(values: np.ndarray) -> np.ndarray:
    """Elementwise inverse of non-zero elements."""
    return power(values, PRIME - 2)


def vandermonde(points: np.ndarray, degree_bound: int) -> np.ndarray:
    """Powers 0..degree_bound-1 of each point, one row per point."""
    rows = np.ones((len(points), degree_bound), dtype=np.int64)
    for column in range(1, degree_bound):
        rows[:, column] = rows[:, column - 1] * points % PRIME
    return rows


def lagrange(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights W with f(targets) = W f(points) for every f of degree below len(points).

    Args:
      points: Distinct field elements.
      targets: Field elements that are not among the points.
    """
    differences = (points[:, None] - points[None, :]) % PRIME
    np.fill_diagonal(differences, 1)
    gaps = (targets[:, None] - points[None, :]) % PRIME
    denominators = product(differences)
    numerators = product(gaps)
    return numerators[:, None] * inverse(gaps * denominators[None, :] % PRIME) % PRIME


def product(values: np.ndarray) -> np.ndarray:
    """Products of the rows."""
    while values.shape[1] > 1:
        half, odd = divmod(values.shape[1], 2)
        folded = values[:, :half] * values[:, half : 2 * half] % PRIME
        values = np.concatenate([folded, values[:, 2 * half :]], axis=1) if odd else folded
    return values[:, 0] if values.shape[1] else np.ones(len(values), dtype=np.int64)


def from_bytes(secrets: np.ndarray) -> np.ndarray:
    """Rows of secret bytes to rows of field elements, 30 bits each."""
    bits = np.unpackbits(secrets, axis=1, bitorder="little")
    count = elements(secrets.shape[1])
    padded = np.zeros((len(secrets), count * ELEMENT_BITS), dtype=np.int64)
    padded[:, : bits.shape[1]] = bits
    weights = np.int64(1) << np.arange(ELEMENT_BITS, dtype=np.int64)
    return padded.reshape(len(secrets), count, ELEMENT_BITS) @ weights


def to_bytes(values: np.ndarray, size: int) -> list[bytes | None]:
    """The inverse of `from_bytes` per row; None for a row that no secret of that size gives."""
    bits = (values[:, :, None] >> np.arange(ELEMENT_BITS + 1, dtype=np.int64)) & 1
    flat = bits[:, :, :ELEMENT_BITS].reshape(len(values), -1).astype(np.uint8)
    excess = np.concatenate([bits[:, :, ELEMENT_BITS], flat[:, 8 * size :]], axis=1)
    packed = np.packbits(flat[:, : 8 * size], axis=1, bitorder="little")
    return [None if extra.any() else row.tobytes() for row, extra in zip(packed, excess)]


def elements(size: int) -> int:
    """Field elements that hold `size` bytes."""
    return -(-8 * size // ELEMENT_BITS)
