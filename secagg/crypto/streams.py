"""A stream of cryptographically random numbers, for samplers and stochastic rounding.

AES-128-CTR keyed with a seed from the operating system: as good as asking the operating system
for every byte, and fast enough for millions of samples. A stream with a given seed repeats
itself and says so in `deterministic`; it is for tests and for shares derived from a secret seed.

>>> stream = SecureStream(b"an example seed!")
>>> stream.deterministic, stream.uint64(2).dtype
(True, dtype('uint64'))
>>> bool((SecureStream().uniform(1000) < 1).all())
True

Sources: NIST SP 800-38A (CTR); RFC 5869 (the seed is stretched with HKDF).
"""

import os
from collections.abc import Callable

import numpy as np

from secagg.crypto import forks, primitives
from secagg.crypto.context import Purpose, label

Entropy = Callable[[int], bytes]
BLOCK = 1 << 18
_ZEROS = np.zeros(BLOCK, dtype=np.uint8)


class SecureStream(primitives.Secret):
    """Random bytes and numbers from AES-CTR.

    Guarantees:
      Without the seed the output is computationally indistinguishable from uniform. A stream
      seeded by the operating system is reseeded in a forked child, which so never repeats its
      parent; process ids say nothing about it, as they repeat between PID namespaces.

    Args:
      seed: At least 16 secret bytes; None takes them from the operating system.
    """

    __slots__ = ("_cipher", "_generation", "deterministic")

    def __init__(self, seed: bytes | None = None):
        if seed is not None and len(seed) < primitives.SEED_BYTES:
            raise ValueError(
                f"Expected a seed of at least {primitives.SEED_BYTES} bytes, got {len(seed)}. "
                "Pass None to seed from the operating system."
            )
        self.deterministic = seed is not None
        self._rekey(os.urandom(32) if seed is None else seed)

    def _rekey(self, seed: bytes) -> None:
        key = primitives.derive(seed, label(Purpose.STREAM, b""), primitives.SEED_BYTES)
        self._cipher = primitives.keystream(key)
        self._generation = forks.generation()

    def fill(self, out: np.ndarray) -> np.ndarray:
        """Overwrites a contiguous array with random bytes and returns it."""
        self._rekey_if_forked()
        flat = out.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, BLOCK):
            part = flat[start : start + BLOCK]
            self._cipher.update_into(_ZEROS[: part.size], part)
        return out

    def cover(self, words: np.ndarray, out: np.ndarray) -> None:
        """Overwrites a contiguous array with words XOR random bytes, uniform whatever the words.

        The same work as `fill`: the cipher reads the words in place of zeros.
        """
        self._rekey_if_forked()
        plain = np.ascontiguousarray(words).view(np.uint8)
        self._cipher.update_into(plain, out.view(np.uint8))

    def _rekey_if_forked(self) -> None:
        if not self.deterministic and self._generation != forks.generation():
            self._rekey(os.urandom(32))

    def bytes(self, count: int) -> bytes:
        """The next `count` bytes."""
        return self.fill(np.empty(count, dtype=np.uint8)).tobytes()

    def uint32(self, size: int | tuple[int, ...]) -> np.ndarray:
        """Uniform 32-bit words."""
        return self.fill(np.empty(size, dtype="<u4"))

    def uint64(self, size: int | tuple[int, ...]) -> np.ndarray:
        """Uniform 64-bit words."""
        return self.fill(np.empty(size, dtype="<u8"))

    def uniform(self, size: int | tuple[int, ...]) -> np.ndarray:
        """Uniform float64 in [0, 1), multiples of 2**-53."""
        return (self.uint64(size) >> np.uint64(11)) * 2.0**-53


Randomness = SecureStream | Entropy | None


def as_stream(source: Randomness) -> SecureStream:
    """A stream as it is; a callable gives the seed of a new one; None means the system's."""
    if isinstance(source, SecureStream):
        return source
    return SecureStream(None if source is None else source(primitives.KEY_BYTES))
