"""The ring of integers mod 2**b: words that wrap, reduction, and b-bit packing for the wire.

A vector is held in the least machine word of 32 or 64 bits that fits b. Unsigned NumPy words
wrap around by definition, and 2**b divides the word's modulus, so sums may be left unreduced and
cut down once at the end.

>>> pack(np.array([1, 2, 7, 4], dtype=np.uint32), 3).hex()
'd109'
>>> unpack(bytes.fromhex("d109"), length=4, modulus_bits=3)
array([1, 2, 7, 4], dtype=uint32)

Sources: docs/secagg-spec.md, section "Ring".
"""

import numpy as np

from secagg.errors import EncodingError

PACK_BLOCK = 1 << 16


def word(modulus_bits: int) -> np.dtype:
    """The little-endian machine word that holds a ring element."""
    return np.dtype("<u4") if modulus_bits <= 32 else np.dtype("<u8")


def reduce(vector: np.ndarray, modulus_bits: int) -> np.ndarray:
    """Reduces words mod 2**b in place and returns them."""
    if modulus_bits < 8 * vector.itemsize:
        vector &= vector.dtype.type((1 << modulus_bits) - 1)
    return vector


def wrapped(integers: np.ndarray, modulus_bits: int) -> np.ndarray:
    """Signed 64-bit integers as ring elements, mod 2**b; `centred` gives them back if they fit."""
    words = np.ascontiguousarray(integers, dtype=np.int64).view(np.uint64)
    return reduce(words.astype(word(modulus_bits)), modulus_bits)


def centred(words: np.ndarray, modulus_bits: int) -> np.ndarray:
    """Ring words, reduced or not, as the int64 numbers nearest to zero."""
    shift = np.int64(64 - modulus_bits)
    return (words.astype(np.uint64).view(np.int64) << shift) >> shift


def as_elements(vector: np.ndarray, *, length: int, modulus_bits: int) -> np.ndarray:
    """Checks that an array is a ring vector and gives it in the ring's word, without copying
    where possible.

    Raises:
      EncodingError: Not a vector of `length` integers in [0, 2**b).
    """
    array = np.asarray(vector)
    if array.dtype.kind not in "ui" or array.shape != (length,):
        raise EncodingError(
            f"Expected a vector of {length} non-negative integers, got shape {array.shape} and dtype "
            f"{array.dtype}. Encode values with secagg.Encoding first."
        )
    check_reduced(array, modulus_bits)
    return np.ascontiguousarray(array, dtype=word(modulus_bits))


def check_reduced(array: np.ndarray, modulus_bits: int) -> None:
    """Refuses integers outside [0, 2**b)."""
    if array.size == 0 or (array.dtype.kind == "u" and modulus_bits >= 8 * array.itemsize):
        return
    if int(array.min()) < 0 or int(array.max()) >> modulus_bits:
        raise EncodingError(
            f"Expected ring elements in [0, 2**{modulus_bits}), got values outside. "
            "Reduce them, or encode values with secagg.Encoding."
        )


def packed_bytes(length: int, modulus_bits: int) -> int:
    """Bytes of a packed vector."""
    return (length * modulus_bits + 7) // 8


def pack(vector: np.ndarray, modulus_bits: int) -> bytes:
    """Packs reduced elements to b bits each, least significant bit first."""
    if modulus_bits in (32, 64):
        return vector.astype(word(modulus_bits), copy=False).tobytes()
    cells = np.ascontiguousarray(vector, dtype=word(modulus_bits))
    octets = cells.view(np.uint8).reshape(len(cells), cells.itemsize)
    if modulus_bits % 8 == 0:
        return octets[:, : modulus_bits // 8].tobytes()
    parts = []
    for start in range(0, len(cells), PACK_BLOCK):  # a multiple of 8, so parts end on a byte
        bits = np.unpackbits(octets[start : start + PACK_BLOCK], axis=1, bitorder="little")
        parts.append(np.packbits(bits[:, :modulus_bits].ravel(), bitorder="little").tobytes())
    return b"".join(parts)


def unpack(data: bytes, *, length: int, modulus_bits: int) -> np.ndarray:
    """The inverse of `pack`, always reduced.

    Raises:
      EncodingError: Wrong number of bytes, or padding bits that are not zero.
    """
    if len(data) != packed_bytes(length, modulus_bits):
        raise EncodingError(
            f"Expected {packed_bytes(length, modulus_bits)} bytes for {length} elements of "
            f"{modulus_bits} bits, got {len(data)} bytes."
        )
    dtype = word(modulus_bits)
    if modulus_bits in (32, 64):
        return np.frombuffer(data, dtype=dtype)
    raw = np.frombuffer(data, dtype=np.uint8)
    octets = np.zeros((length, dtype.itemsize), dtype=np.uint8)
    if modulus_bits % 8 == 0:
        octets[:, : modulus_bits // 8] = raw.reshape(length, modulus_bits // 8)
        return octets.view(dtype).ravel()
    for start in range(0, length, PACK_BLOCK):
        count = min(PACK_BLOCK, length - start)
        first = start * modulus_bits // 8
        bits = np.unpackbits(
            raw[first : first + packed_bytes(count, modulus_bits)], bitorder="little"
        )
        if bits[count * modulus_bits :].any():
            raise EncodingError("Expected zero padding bits after the last element, got ones.")
        packed = np.packbits(
            bits[: count * modulus_bits].reshape(count, modulus_bits), axis=1, bitorder="little"
        )
        octets[start : start + count, : packed.shape[1]] = packed
    return octets.view(dtype).ravel()
