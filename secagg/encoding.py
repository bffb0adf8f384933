"""Encoding: real numbers to ring elements and back, centred fixed point.

A value x becomes x·scale, rounded up or down at random so that the mean is exact, and then its
residue mod 2**b. The sum of the residues, read as a signed number, is the sum of the integers as
long as no wrap can happen; that is checked once, when the encoding is made, for the worst case of
every client at the bound. There is no offset, so decoding needs no count of survivors.

>>> encoding = Encoding(clip=1.0, scale=1000.0, clients=10)
>>> ring_sum = encoding.encode(np.array([0.5, -0.25])) + encoding.encode(np.array([0.5, -0.5]))
>>> encoding.decode(ring_sum)
array([ 1.  , -0.75])

Sources: docs/secagg-spec.md, section "Encoding".
"""

import math
from dataclasses import dataclass

import numpy as np

from secagg.crypto import ring
from secagg.crypto.streams import Randomness, SecureStream, as_stream
from secagg.errors import EncodingError, ParameterError

BLOCK = 1 << 14


@dataclass(frozen=True)
class Encoding:
    """Centred fixed-point encoding into the integers mod 2**modulus_bits.

    Guarantees:
      `decode` of a sum of at most `clients` encoded vectors is the exact sum of the rounded
      values: |sum| <= clients·⌈clip·scale⌉ <= 2**(modulus_bits - 1) - 1. Rounding is unbiased,
      to 2**-32 of an integer, with variance at most 1/(4·scale**2) per entry.

    Attributes:
      clip: Values must lie in [-clip, clip].
      scale: Integers per unit.
      clients: Greatest number of vectors in a sum.
      modulus_bits: b of the ring.
    """

    clip: float
    scale: float
    clients: int
    modulus_bits: int = 32

    def __post_init__(self):
        self._check_ranges()
        self._check_no_wrap()
        _positive(self._greatest_sum / self.scale, "clients * ceil(clip * scale) / scale")

    def _check_ranges(self) -> None:
        for name in ("clip", "scale"):
            object.__setattr__(self, name, _positive(getattr(self, name), name))
        for name, high in (("clients", 1 << 32), ("modulus_bits", 64)):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= high:
                raise ParameterError(
                    f"Expected {name} to be an integer from 1 to {high}, got {value!r}."
                )
        _positive(self.clip * self.scale, "clip * scale")
        _positive(self.scale * 2.0**32, "scale * 2**32")  # a factor of `_round_narrow`

    def _check_no_wrap(self) -> None:
        worst = self._greatest_sum
        needed = worst.bit_length() + 1
        if needed > self.modulus_bits:
            remedy = (
                f"Use modulus_bits={needed}" if needed <= 64 else "No ring up to 2**64 is enough"
            )
            raise ParameterError(
                f"Expected clients * ceil(clip * scale) = {self.clients} * "
                f"{self.greatest_integer} = {worst} to be at most 2**{self.modulus_bits - 1} - 1, "
                f"so that no sum can wrap. {remedy}, or lower clip, scale or clients."
            )

    @property
    def greatest_integer(self) -> int:
        """⌈clip·scale⌉, the greatest absolute value of one client's integers."""
        return math.ceil(self.clip * self.scale)

    @property
    def _greatest_sum(self) -> int:
        return self.clients * self.greatest_integer

    def encode(self, values: np.ndarray, entropy: Randomness = None) -> np.ndarray:
        """Encodes a real array, flattened, to a ring vector.

        Raises:
          EncodingError: The values are not real numbers, not finite, or outside the clip.
        """
        stream = as_stream(entropy)
        flat = _real_vector(values)
        result = np.empty(flat.size, dtype=ring.word(self.modulus_bits))
        size = min(BLOCK, flat.size)  # block by block, in the cache
        reals, integers = np.empty(size), np.empty(size, dtype=np.int64)
        draws = np.empty(size, dtype="<u4")
        narrow = self.greatest_integer < 1 << 30
        for start in range(0, flat.size, BLOCK):
            stop = min(start + BLOCK, flat.size)
            part, whole = reals[: stop - start], integers[: stop - start]
            part[:] = flat[start:stop]
            self._check_values(part, start)
            if narrow:
                self._round_narrow(part, whole, stream.fill(draws[: stop - start]))
            else:
                self._round_wide(part, whole, stream)
            np.copyto(result[start:stop], whole, casting="unsafe")
        return ring.reduce(result, self.modulus_bits)

    def _check_values(self, part: np.ndarray, start: int) -> None:
        if part.max() <= self.clip and part.min() >= -self.clip:  # false for NaN
            return
        infinite = ~np.isfinite(part)
        bad = int(np.argmax(infinite if infinite.any() else np.abs(part) > self.clip))
        where = f"got {part[bad]} at entry {start + bad}"
        if infinite.any():
            raise EncodingError(
                f"Expected finite values, {where}. Nothing was encoded; find the step that made it."
            )
        raise EncodingError(
            f"Expected values in [-{self.clip}, {self.clip}], {where}. Clip them before encoding."
        )

    def _round_narrow(self, part: np.ndarray, whole: np.ndarray, draws: np.ndarray) -> None:
        """floor(y + u) in fixed point with 32 fractional bits; y fits in the other 32."""
        part *= self.scale * 2.0**32
        np.copyto(whole, part, casting="unsafe")
        whole += draws
        whole >>= 32

    def _round_wide(self, part: np.ndarray, whole: np.ndarray, stream: SecureStream) -> None:
        part *= self.scale
        floor = np.floor(part)
        part -= floor
        np.add(floor, stream.uniform(part.size) < part, out=whole, casting="unsafe")

    def decode(self, total: np.ndarray) -> np.ndarray:
        """A sum of ring vectors, reduced or not, as real numbers: centred integers over the scale.

        Raises:
          EncodingError: `total` is not an array of integers.
        """
        array = np.asarray(total)
        if array.dtype.kind not in "iu":
            raise EncodingError(f"Expected a ring vector of integers, got dtype {array.dtype}.")
        return ring.centred(array, self.modulus_bits) / self.scale

    def check(self, clients: int, modulus_bits: int) -> None:
        """Checks that the no-wrap bound covers a round.

        Raises:
          ParameterError: The round has more clients than planned, or another ring.
        """
        if clients > self.clients or modulus_bits != self.modulus_bits:
            raise ParameterError(
                f"Expected at most {self.clients} clients on a ring of {self.modulus_bits} bits, "
                f"got {clients} clients and {modulus_bits} bits. "
                f"Make Encoding(clients={clients}, modulus_bits={modulus_bits}, ...)."
            )


def _positive(value: object, name: str) -> float:
    """A positive finite float, or a `ParameterError` about `name`."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ParameterError(
            f"Expected {name} to be positive and finite, got {value!r}. "
            "Choose the unit of the values so that clip and scale are of moderate size."
        )
    return number


def _real_vector(values: np.ndarray) -> np.ndarray:
    """A flat real array; integers up to 2**53 count as real."""
    flat = np.asarray(values).reshape(-1)
    if flat.dtype.kind == "f" or flat.dtype.name == "bfloat16":
        return flat
    if flat.dtype.kind in "iu":
        if flat.size and max(abs(int(flat.max())), abs(int(flat.min()))) > 1 << 53:
            raise EncodingError(
                "Expected integers that float64 holds exactly, up to 2**53, got larger ones."
            )
        return flat
    raise EncodingError(
        f"Expected real numbers, got dtype {flat.dtype}. Convert them to float64 knowingly."
    )
