"""Layout: a tree of arrays in one vector, so that everything of a round travels in one sum.

One secure sum per round, not one per array: separate sums could have different survivors. The
layout is agreed before the round; its canonical bytes belong in the round context, so clients
with other names or shapes are in another round. Trees are nested mappings with string keys, lists
and tuples; of other pytrees, `jax.tree.leaves` is a list.

>>> layout = Layout.of({"model": [np.zeros(2), np.zeros(())], "loss": np.float64(0)})
>>> layout.length, layout.split(np.array([1, 2, 3, 4]))["model"]
(4, [array([2, 3]), array(4)])

Sources: docs/secagg-spec.md, section "Encoding".
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from secagg.crypto.context import framed
from secagg.errors import EncodingError


@dataclass(frozen=True)
class Layout:
    """The shape of an array, or names and layouts of what a tree's node holds.

    Attributes:
      kind: "array", or "mapping", "list" or "tuple".
      shape: Of the array.
      names: Of the entries of a mapping, sorted; the positions in a list or tuple.
      parts: Layouts of the entries.
    """

    kind: str
    shape: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    parts: tuple["Layout", ...] = ()

    @classmethod
    def of(cls, tree: Any) -> "Layout":
        """The layout of an example tree, mappings in the order of their names."""
        kind = _kind(tree)
        if kind == "array":
            return cls(kind, np.shape(tree))
        entries = _entries(tree, kind, "the tree")
        return cls(kind, (), tuple(entries), tuple(cls.of(part) for part in entries.values()))

    @property
    def length(self) -> int:
        """Entries of the joined vector."""
        if self.kind == "array":
            return math.prod(self.shape)
        return sum(part.length for part in self.parts)

    def canonical(self) -> bytes:
        """Bytes that differ whenever structure, a name or a shape differs, for the round context."""
        names = framed(*(name.encode() for name in self.names))
        parts = framed(*(part.canonical() for part in self.parts))
        return framed(self.kind.encode(), str(self.shape).encode(), names, parts)

    def join(self, tree: Any) -> np.ndarray:
        """One float64 vector of all arrays.

        Raises:
          EncodingError: Structure, names or shapes differ, or an array holds NaN or infinity; names it.
        """
        parts = list(self._joined(tree, ""))
        return np.concatenate(parts) if parts else np.zeros(0)

    def split(self, vector: np.ndarray) -> Any:
        """The tree of a joined vector."""
        if vector.shape != (self.length,):
            raise EncodingError(f"Expected {self.length} entries, got shape {vector.shape}.")
        if self.kind == "array":
            return vector.reshape(self.shape)
        ends = np.cumsum([part.length for part in self.parts], dtype=int)
        pieces = np.split(vector, ends[:-1]) if self.parts else []
        values = [part.split(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        if self.kind == "mapping":
            return dict(zip(self.names, values, strict=True))
        return values if self.kind == "list" else tuple(values)

    def _joined(self, tree: Any, path: str) -> Iterator[np.ndarray]:
        here = path or "the tree"
        if _kind(tree) != self.kind:
            raise EncodingError(f"Expected {here!r} as {self.kind}, got {_kind(tree)}.")
        if self.kind == "array":
            yield _flat(tree, self.shape, here)
            return
        entries = _entries(tree, self.kind, here)
        if tuple(entries) != self.names:
            raise EncodingError(
                f"Expected entries named {list(self.names)} in {here!r}, got {list(entries)}."
            )
        for name, part in zip(self.names, self.parts, strict=True):
            yield from part._joined(entries[name], f"{path}/{name}" if path else name)


def _kind(tree: Any) -> str:
    if isinstance(tree, Mapping):
        return "mapping"
    return type(tree).__name__ if type(tree) in (list, tuple) else "array"


def _entries(tree: Any, kind: str, here: str) -> dict[str, Any]:
    if kind != "mapping":
        return {str(position): part for position, part in enumerate(tree)}
    if not all(isinstance(name, str) for name in tree):
        raise EncodingError(f"Expected names as strings in {here!r}, got {list(tree)!r}.")
    return {name: tree[name] for name in sorted(tree)}


def _flat(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.shape != shape or array.dtype.kind not in "fiuV":
        raise EncodingError(
            f"Expected real numbers of shape {shape} in {name!r}, got shape {array.shape} and "
            f"dtype {array.dtype}."
        )
    flat = array.astype(np.float64).reshape(-1)
    if not np.isfinite(flat).all():
        raise EncodingError(
            f"Expected finite values in {name!r}, got {np.count_nonzero(~np.isfinite(flat))} that "
            "are not. Nothing was encoded."
        )
    return flat
