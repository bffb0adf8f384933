"""Masks: from a 16-byte key to a vector mod 2**b, added to an accumulator.

A client hides its vector by adding one self mask and one signed mask per neighbour; in the sum,
neighbours' masks cancel. This module only derives mask keys and expands them. Raw AES-128-CTR
keystream words are uniform in the ring because 2**b divides the word's modulus. Blocks are the
outer loop and streams the inner one, so that the accumulator stays in the cache: each stream is
opened once and carries its own counter.

>>> total = np.zeros(5, dtype=np.uint32)
>>> accumulate(total, [(bytes(16), 1), (bytes(16), -1)])
>>> total
array([0, 0, 0, 0, 0], dtype=uint32)

Sources: Bonawitz et al. (2017), the masking step of figure 4; docs/secagg-spec.md, "Masks".
"""

from collections.abc import Iterable

import numpy as np

from secagg.crypto import primitives
from secagg.crypto.context import Purpose, label

BLOCK_BYTES = 1 << 19
_ZEROS = np.zeros(BLOCK_BYTES, dtype=np.uint8)


def pair_key(agreed: bytes, context: bytes, one: int, other: int) -> bytes:
    """The mask key of two neighbours, from their agreed secret; the same for both."""
    low, high = min(one, other), max(one, other)
    return primitives.derive(
        agreed, label(Purpose.PAIR_MASK, context, low, high), primitives.SEED_BYTES
    )


def self_key(seed: bytes, context: bytes, owner: int) -> bytes:
    """The key of a client's self mask."""
    return primitives.derive(seed, label(Purpose.SELF_MASK, context, owner), primitives.SEED_BYTES)


def pair_sign(owner: int, other: int) -> int:
    """The sign with which `owner` adds the mask shared with `other`: the higher index adds."""
    return 1 if owner > other else -1


def accumulate(
    total: np.ndarray, keys: Iterable[tuple[bytes, int]], *, first_word: int = 0
) -> None:
    """Adds signed masks to a vector of words in place.

    Guarantees:
      To anyone without the key a mask is computationally indistinguishable from uniform; the
      result does not depend on the block size, nor on how a vector is cut into pieces.

    Args:
      total: Contiguous uint32 or uint64 vector, left unreduced.
      keys: Mask keys of 16 bytes and signs.
      first_word: Position of `total[0]` in the whole vector, a multiple of 4.
    """
    size = total.itemsize
    first_block = first_word * size // primitives.BLOCK_BYTES
    streams = [(primitives.keystream(key, first_block), sign) for key, sign in keys]
    octets = np.empty(min(BLOCK_BYTES, total.nbytes), dtype=np.uint8)
    step = BLOCK_BYTES // size
    for start in range(0, len(total), step):
        part = total[start : start + step]
        raw = octets[: part.nbytes]
        zeros, words = _ZEROS[: part.nbytes], raw.view(total.dtype)
        for stream, sign in streams:
            stream.update_into(zeros, raw)
            (np.add if sign > 0 else np.subtract)(part, words, out=part)
