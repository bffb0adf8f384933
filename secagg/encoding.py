"""Encoding: real numbers to ring elements and back, centred fixed point.

A value x becomes the integer nearest to clip(x)·scale, up or down at random so that the mean is
exact, and then its residue mod 2**b. The sum of the residues, read as a signed number, is the
sum of the integers as long as no wrap can happen; that is checked once, when the encoding is
made, for the worst case of every client at the clip. There is no offset, so decoding needs no
count of survivors.

>>> encoding = Encoding(clip=1.0, scale=1000.0, clients=10)
>>> ring_sum = encoding.encode(np.array([0.5, -0.25])) + encoding.encode(np.array([0.5, -0.5]))
>>> encoding.decode(ring_sum)
array([ 1.  , -0.75])

Sources: docs/secagg-spec.md, section "Encoding"; Kairouz et al. (2021) for the small-ring bound.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np

from secagg.crypto import ring
from secagg.crypto.context import framed
from secagg.crypto.streams import Randomness, SecureStream, as_stream
from secagg.errors import EncodingError, ParameterError

BLOCK = 1 << 14


class Encoded(NamedTuple):
    """A ring vector and how many of its entries the clip changed."""

    vector: np.ndarray
    clipped: int


class WeightedMean(NamedTuple):
    """A decoded mean and the total weight behind it."""

    mean: np.ndarray
    weight: int


@dataclass(frozen=True)
class Encoding:
    """Centred fixed-point encoding into the integers mod 2**modulus_bits.

    Guarantees:
      `decode` of a sum of at most `clients` encoded vectors is the exact sum of the rounded
      values: |sum| <= clients·max_weight·⌈clip·scale⌉ <= 2**(modulus_bits - 1) - 1. Rounding is
      unbiased, to 2**-32 of an integer, with variance at most 1/(4·scale**2) per entry.

    Attributes:
      clip: Values are expected in [-clip, clip].
      scale: Integers per unit.
      clients: Greatest number of vectors in a sum.
      modulus_bits: b of the ring.
      max_weight: Greatest integer weight a client multiplies its integers with.
      on_excess: What to do outside the clip: "error", or "clip" and count.
    """

    clip: float
    scale: float
    clients: int
    modulus_bits: int = 32
    max_weight: int = 1
    on_excess: Literal["error", "clip"] = "error"

    def __post_init__(self):
        self._check_ranges()
        self._check_no_wrap()
        self._check_decodable()

    def _check_ranges(self) -> None:
        for name in ("clip", "scale"):
            object.__setattr__(self, name, _positive(getattr(self, name), name))
        _positive(self.clip * self.scale, "clip * scale")
        # What rounding and decoding multiply the scale by; beyond, they would lose every value.
        _positive(self.scale * 2.0**32, "scale * 2**32")
        for name, high in (("clients", 1 << 32), ("modulus_bits", 64), ("max_weight", 1 << 53)):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= high:
                raise ParameterError(
                    f"Expected {name} to be an integer from 1 to {high}, got {value!r}."
                )
        if self.on_excess not in ("error", "clip"):
            raise ParameterError(f'Expected on_excess "error" or "clip", got {self.on_excess!r}.')

    def _check_no_wrap(self) -> None:
        worst = self.clients * self.max_weight * self.greatest_integer
        needed = worst.bit_length() + 1
        if needed > self.modulus_bits:
            remedy = (
                f"Use modulus_bits={needed}" if needed <= 64 else "No ring up to 2**64 is enough"
            )
            raise ParameterError(
                f"Expected clients * max_weight * ceil(clip * scale) = {self.clients} * "
                f"{self.max_weight} * {self.greatest_integer} = {worst} to be at most "
                f"2**{self.modulus_bits - 1} - 1, so that no sum can wrap. {remedy}, or lower "
                "clip, scale or clients."
            )

    def _check_decodable(self) -> None:
        heaviest = self.clients * self.max_weight
        _positive(self.scale * heaviest, "scale * clients * max_weight")
        worst = heaviest * self.greatest_integer
        _positive(worst / self.scale, "clients * max_weight * ceil(clip * scale) / scale")

    @property
    def greatest_integer(self) -> int:
        """⌈clip·scale⌉, the greatest absolute value of one client's integers."""
        return math.ceil(self.clip * self.scale)

    def canonical(self) -> bytes:
        """Bytes that differ whenever any field differs, for the round context."""
        return framed(*(repr(getattr(self, item.name)).encode() for item in fields(self)))

    def round(self, values: np.ndarray, entropy: Randomness = None) -> Encoded:
        """Clips, scales and rounds at random, giving int64 and the number of clipped entries.

        Raises:
          EncodingError: NaN or infinity; or outside the clip when `on_excess` is "error".
        """
        return self._rounded(values, entropy, np.dtype(np.int64))

    def encode(self, values: np.ndarray, entropy: Randomness = None) -> np.ndarray:
        """Encodes a real array, flattened, to a ring vector; see `round` for the errors."""
        return self.encode_counted(values, entropy).vector

    def encode_counted(self, values: np.ndarray, entropy: Randomness = None) -> Encoded:
        """Like `encode`, with the number of entries that the clip changed."""
        rounded = self._rounded(values, entropy, ring.word(self.modulus_bits))
        return Encoded(ring.reduce(rounded.vector, self.modulus_bits), rounded.clipped)

    def _rounded(self, values: np.ndarray, entropy: Randomness, dtype: np.dtype) -> Encoded:
        """Rounds block by block, in the cache, into words that wrap."""
        stream = as_stream(entropy)
        flat = _real_vector(values)
        result = np.empty(flat.size, dtype=dtype)
        size = min(BLOCK, flat.size)
        reals, integers = np.empty(size), np.empty(size, dtype=np.int64)
        draws = np.empty(size, dtype="<u4")
        narrow = self.greatest_integer < 1 << 30
        clipped = 0
        for start in range(0, flat.size, BLOCK):
            stop = min(start + BLOCK, flat.size)
            part, whole = reals[: stop - start], integers[: stop - start]
            part[:] = flat[start:stop]
            clipped += self._clip(part, start)
            if narrow:
                self._round_narrow(part, whole, stream.fill(draws[: stop - start]))
            else:
                self._round_wide(part, whole, stream)
            np.copyto(result[start:stop], whole, casting="unsafe")
        return Encoded(result, clipped)

    def _clip(self, part: np.ndarray, start: int) -> int:
        if part.max() <= self.clip and part.min() >= -self.clip:  # false for NaN
            return 0
        if not np.isfinite(part).all():
            where = start + int(np.argmax(~np.isfinite(part)))
            raise EncodingError(
                f"Expected finite values, got {part[where - start]} at entry {where}. "
                "Nothing was encoded; find the step that made it."
            )
        outside = int(np.count_nonzero(np.abs(part) > self.clip))
        if self.on_excess == "error":
            where = start + int(np.argmax(np.abs(part) > self.clip))
            raise EncodingError(
                f"Expected values in [-{self.clip}, {self.clip}], got {part[where - start]} at "
                f'entry {where}. Clip before encoding, or use on_excess="clip" to count them.'
            )
        np.clip(part, -self.clip, self.clip, out=part)
        return outside

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

    def encode_integers(self, integers: np.ndarray, *, weight: int = 1) -> np.ndarray:
        """Integers of one client, times its weight, to ring elements.

        Raises:
          EncodingError: Not integers, beyond ⌈clip·scale⌉, or the weight is not an integer from
            0 to max_weight.
        """
        array = np.asarray(integers)
        if array.dtype.kind not in "iu":
            raise EncodingError(
                f"Expected integers, got dtype {array.dtype}. Use encode for real numbers."
            )
        if not isinstance(weight, (int, np.integer)) or not 0 <= weight <= self.max_weight:
            raise EncodingError(
                f"Expected an integer weight from 0 to {self.max_weight}, got {weight!r}. "
                "Set max_weight when the encoding is made."
            )
        bound = self.greatest_integer
        if array.size and (int(array.max()) > bound or int(array.min()) < -bound):
            raise EncodingError(
                f"Expected integers in [-{bound}, {bound}], got some outside. "
                "Clip them, or make the encoding with a larger clip."
            )
        flat = np.ascontiguousarray(array.reshape(-1), dtype=np.int64)
        if weight != 1:
            flat = flat * np.int64(weight)
        return ring.wrapped(flat, self.modulus_bits)

    def decode_integers(self, total: np.ndarray) -> np.ndarray:
        """A ring vector, reduced or not, as centred int64."""
        array = np.asarray(total)
        if array.dtype.kind not in "iu":
            raise EncodingError(f"Expected a ring vector of integers, got dtype {array.dtype}.")
        return ring.centred(array, self.modulus_bits)

    def decode(self, total: np.ndarray) -> np.ndarray:
        """A ring vector as real numbers: the centred integers over the scale."""
        return self.decode_integers(total) / self.scale

    def encode_weighted(
        self, values: np.ndarray, weight: int, entropy: Randomness = None
    ) -> np.ndarray:
        """Weighted values and, as a last entry, the weight: both travel inside the mask."""
        integers = self.round(values, entropy).vector
        words = self.encode_integers(integers, weight=weight)
        return np.append(words, words.dtype.type(weight))

    def decode_weighted(self, total: np.ndarray) -> WeightedMean:
        """The weighted mean from a sum of `encode_weighted` vectors.

        Raises:
          EncodingError: The total weight is zero, so there is no mean.
        """
        integers = self.decode_integers(total)
        weight = int(integers[-1])
        if weight <= 0:
            raise EncodingError(
                f"Expected a positive total weight, got {weight}. "
                "No client contributed; skip this round."
            )
        return WeightedMean(integers[:-1] / (self.scale * weight), weight)

    def straight_through(self, values: np.ndarray) -> np.ndarray:
        """Derivative of the expected decoded value: 1 inside the clip, 0 outside."""
        return (np.abs(values) <= self.clip).astype(np.float64)

    def check(self, clients: int, modulus_bits: int) -> None:
        """Refuses rounds with more clients than planned, or on another ring.

        Raises:
          ParameterError: The no-wrap bound does not cover such a round.
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
                "Expected integers that float64 holds exactly, up to 2**53, got larger ones. "
                "Use encode_integers."
            )
        return flat
    raise EncodingError(
        f"Expected real numbers, got dtype {flat.dtype}. Convert them to float64 knowingly."
    )


def wrap_deviations(length: int, wrap_probability: float) -> float:
    """How many standard deviations of a Gaussian sum half a ring must hold (small-ring mode).

    Guarantees:
      If every entry of the sum has tails no heavier than a Gaussian's of deviation sigma, and half
      the ring is at least this many sigma, then *any* entry of the vector wraps with at most
      `wrap_probability`. (Sub-Gaussian moments alone give a little less: `privacy.noise.capacity`.)

    Args:
      length: Entries of the vector.
      wrap_probability: For the whole vector, not per entry.
    """
    if length < 1 or not 0 < wrap_probability < 1:
        raise ParameterError(
            f"Expected a length of at least 1 and a probability in (0, 1), got {length} and "
            f"{wrap_probability!r}."
        )
    per_tail = wrap_probability / (2 * length)
    low, high = 0.0, 64.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if math.erfc(middle / math.sqrt(2)) / 2 > per_tail else (low, middle)
        )
    return high


def small_ring_bits(deviation: float, *, length: int, wrap_probability: float) -> int:
    """Least modulus_bits for a Gaussian-like sum with the given deviation in ring units."""
    half = wrap_deviations(length, wrap_probability) * deviation
    bits = math.ceil(math.log2(max(half, 1.0))) + 1
    if bits > 64:
        raise ParameterError(f"Expected a ring of at most 64 bits, this sum needs {bits}.")
    return bits
