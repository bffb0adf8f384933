"""Layout: named arrays in one vector, so that everything of a round travels in one sum.

One secure sum per round, not one per array: separate sums could have different survivors. The
layout is agreed before the round; its canonical bytes belong in the round context, so clients
with other names or shapes are in another round.

>>> layout = Layout.of({"bias": np.zeros(2), "loss": np.float64(0)})
>>> layout.length, layout.split(np.array([1, 2, 3]))["loss"]
(3, array(3))

Sources: docs/secagg-spec.md, section "Encoding".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from secagg.context import framed
from secagg.errors import EncodingError


@dataclass(frozen=True)
class Layout:
    """Names and shapes of arrays, in order.

    Attributes:
      leaves: Pairs of name and shape.
    """

    leaves: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Layout":
        """The layout of example arrays, in the order of their names."""
        return cls(tuple((name, np.shape(arrays[name])) for name in sorted(arrays)))

    @property
    def length(self) -> int:
        """Entries of the joined vector."""
        return sum(math.prod(shape) for _, shape in self.leaves)

    def canonical(self) -> bytes:
        """Bytes that differ whenever a name or a shape differs, for the round context."""
        return framed(*(f"{name} {shape}".encode() for name, shape in self.leaves))

    def join(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """One float64 vector of all arrays.

        Raises:
          EncodingError: Names or shapes differ, or an array holds NaN or infinity; names it.
        """
        names = [name for name, _ in self.leaves]
        if sorted(arrays) != sorted(names):
            raise EncodingError(f"Expected arrays named {names}, got {sorted(arrays)}.")
        parts = []
        for name, shape in self.leaves:
            array = np.asarray(arrays[name])
            if array.shape != shape or array.dtype.kind not in "fiuV":
                raise EncodingError(
                    f"Expected real numbers of shape {shape} in {name!r}, got shape "
                    f"{array.shape} and dtype {array.dtype}."
                )
            part = array.astype(np.float64).reshape(-1)
            if not np.isfinite(part).all():
                raise EncodingError(
                    f"Expected finite values in {name!r}, got "
                    f"{np.count_nonzero(~np.isfinite(part))} that are not. Nothing was encoded."
                )
            parts.append(part)
        return np.concatenate(parts) if parts else np.zeros(0)

    def split(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of a joined vector."""
        if vector.shape != (self.length,):
            raise EncodingError(f"Expected {self.length} entries, got shape {vector.shape}.")
        result, at = {}, 0
        for name, shape in self.leaves:
            size = math.prod(shape)
            result[name] = vector[at : at + size].reshape(shape)
            at += size
        return result
