"""Keys: where the entropy of random numbers comes from, and which keys are one key.

Only the secret keys that a caller passes hold entropy. Every other key is derived from one of them,
so a key has a name: the argument, and the steps from it. Splitting and folding give children with
numbers, and two names of one key are one name:

    >>> root = Key.at(Root("argument", "key", "server"))
    >>> root.child("fold", 3) is root.child("fold", 3)
    True
    >>> str(root.child("fold", 3).child(("split", (2,)), 0))
    'key.fold[3].split(2,)[0]'

A value keeps its name only through operations that keep the key: wrapping, unwrapping, moving
entries, splitting, folding. Everything else drops it (`Keys.shown` keeps what the value can still
reveal), and a key made of such a value holds no entropy.

In a loop, a name contains what changes: the number of a child may be a counter of the loop, and a
key that the loop carries is a placeholder until the loop is known. `key_relations` compares names.

Sources: the key discipline of `jax.random`. With partitionable threefry, child i of `split(key, n)`
is `fold_in(key, i)` for every n, and a draw from a key shows the exclusive or of the words of its
children.
"""

import math
import weakref
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

MOST = 4096  # largest number of entries that have names of their own
WORDS = 1 << 32  # fold data and seeds are numbers below this


class Index(NamedTuple):
    """An integer: a constant, one of a range, or a different one in every iteration of a loop.

    Attributes:
      low: The smallest value.
      high: The largest value; a constant has `low == high`.
      loop: The loop whose iterations all have different values; -1 for none.
      stem: What is counted; two numbers with one stem differ by their offsets.
      offset: The constant that was added to it.
    """

    low: int
    high: int
    loop: int = -1
    stem: Hashable = None
    offset: int = 0

    @property
    def constant(self) -> bool:
        """Whether there is one value."""
        return self.low == self.high


def number(value: int) -> Index:
    """A constant."""
    return Index(value, value)


ANY = Index(0, WORDS - 1)


class Edge(NamedTuple):
    """A child of a key.

    Attributes:
      kind: `"entry"` of an argument, `("split", shape)`, `"fold"`, `"seed"`, `("bits", draw)` for a
        key that is folded with drawn bits, or `("word", count)` for one word of the key.
      index: Which child.
    """

    kind: Hashable
    index: Index


class Power(NamedTuple):
    """The steps that a loop repeats on the key it carries.

    Attributes:
      steps: The steps of one iteration.
      loop: The loop.
      last: After the last iteration; otherwise at the start of an iteration.
      fixed: The number of iterations is a constant of the program.
      around: The loops around it.
    """

    steps: tuple["Step", ...]
    loop: int
    last: bool
    fixed: bool
    around: tuple[int, ...]


class Loose(NamedTuple):
    """The key itself or any key derived from it.

    Attributes:
      secret: It was derived by splitting and folding alone, so it keeps its entropy.
    """

    secret: bool


Step = Edge | Power | Loose


class Root(NamedTuple):
    """The start of a name.

    Attributes:
      kind: `"argument"`, `"public"`, `"carry"` (of a loop, at the start of an iteration), `"final"`
        (the same after the loop) or `"choice"` (one of several keys).
      what: Distinguishes roots of one kind; for a choice, the set of keys.
      holder: Who holds the secret: `"server"`, `"client"`, or nobody.
    """

    kind: str
    what: Any
    holder: str = ""


class Key:
    """A key by its name; equal names are one object, as long as their roots are."""

    __slots__ = ("__weakref__", "children", "parent", "root", "step")

    def __init__(self, root: Root, parent: "Key | None" = None, step: Step | None = None):
        self.root, self.parent, self.step = root, parent, step
        self.children: dict[Step, Key] = {}

    @classmethod
    def at(cls, root: Root) -> "Key":
        """The key at a root; equal roots give one object."""
        found = _ROOTS.get(root)
        if found is None:
            found = _ROOTS[root] = cls(root)
        return found

    def then(self, step: Step) -> "Key":
        """The key after one more step."""
        if isinstance(self.step, Loose):
            lost = isinstance(step, Loose) and not step.secret
            return self.parent.then(step) if lost and self.parent else self
        found = self.children.get(step)
        if found is None:
            found = self.children[step] = Key(self.root, self, step)
        return found

    def child(self, kind: Hashable, index: Index | int) -> "Key":
        """Child number `index` of one kind."""
        return self.then(Edge(kind, number(index) if isinstance(index, int) else index))

    def loose(self, secret: bool = False) -> "Key":
        """The key or anything derived from it."""
        return self.then(Loose(secret))

    def word(self) -> int | None:
        """The position of the word that it is; None for a whole key."""
        step = self.step
        named = isinstance(step, Edge) and isinstance(step.kind, tuple) and step.kind[0] == "word"
        return step.index.low if named else None  # type: ignore[union-attr]

    @property
    def whole(self) -> "Key":
        """The key of a word, or the key itself."""
        return self if self.word() is None else self.parent  # type: ignore[return-value]

    def steps(self) -> list[Step]:
        """The steps from the root."""
        found: list[Step] = []
        here: Key | None = self
        while here is not None and here.step is not None:
            found.append(here.step)
            here = here.parent
        return found[::-1]

    def __str__(self) -> str:
        return ".".join([str(self.root.what), *map(_written, self.steps())])

    __repr__ = __str__


def _written(step: Step) -> str:
    if isinstance(step, Loose):
        return "*"
    if isinstance(step, Power):
        return f"({'.'.join(map(_written, step.steps))})^{step.loop}"
    kind = step.kind if isinstance(step.kind, str) else "".join(map(str, step.kind))  # type: ignore[arg-type]
    low, high, loop = step.index[:3]
    return f"{kind}[{low if low == high else f'{low}..{high}' + (f'@{loop}' if loop >= 0 else '')}]"


_ROOTS: "weakref.WeakValueDictionary[Root, Key]" = weakref.WeakValueDictionary()


class Bits(NamedTuple):
    """A number that was drawn: the only draw `draw` from a key."""

    key: Key
    draw: int


Entry = Key | Index | Bits


class Keys(NamedTuple):
    """What a value says about keys.

    Attributes:
      entries: Names of the keys, words, numbers or drawn bits in its entries, in row-major order;
        empty if the prover does not know them.
      family: For large arrays: every entry is another of the children that this name stands for.
      shown: Keys that can be computed from the value, besides those in `entries` and `family`.
      drawn: Keys whose draws entered the value.
    """

    entries: tuple[Entry, ...] = ()
    family: Key | None = None
    shown: frozenset[Key] = frozenset()
    drawn: frozenset[Key] = frozenset()

    @property
    def names(self) -> tuple[Key, ...]:
        """The keys in its entries."""
        return tuple(e for e in self.entries if isinstance(e, Key)) if self.entries else ()

    @property
    def visible(self) -> frozenset[Key]:
        """Keys that can be computed from the value."""
        own = {e.whole for e in self.names} | ({self.family} if self.family else set())
        return self.shown | own if own else self.shown

    def consumed(self) -> tuple[Key, ...]:
        """The keys that a draw from the value may use."""
        if self.entries and isinstance(self.entries[0], Key):
            return self.names
        if self.family is not None:
            return (self.family,)
        return tuple(key.loose() for key in self.shown | self.drawn)


NOTHING = Keys()


def indices(values: Any) -> tuple[Index, ...]:
    """The entries of an integer constant."""
    array = np.asarray(values)
    if array.size > MOST or array.size == 0:
        return ()
    return tuple(number(int(v)) for v in array.ravel().tolist())


def mixed(operands: Iterable[Keys]) -> Keys:
    """A value computed from others in a way that keeps no name."""
    shown: frozenset[Key] = frozenset()
    drawn: frozenset[Key] = frozenset()
    for keys in operands:
        if keys is NOTHING:
            continue
        visible = keys.visible
        shown = visible if not shown else shown | visible if visible else shown
        drawn = keys.drawn if not drawn else drawn | keys.drawn if keys.drawn else drawn
    return unnamed(shown, drawn)


def unnamed(shown: frozenset[Key], drawn: frozenset[Key]) -> Keys:
    """A value without names."""
    return Keys(shown=shown, drawn=drawn) if shown or drawn else NOTHING


def touched(keys: Keys, others: Iterable[Keys]) -> Keys:
    """A value that also depends on others, through a branch or the end of a loop."""
    more = mixed(others)
    if more is NOTHING:
        return keys
    return keys._replace(shown=keys.shown | more.shown, drawn=keys.drawn | more.drawn)


def either(a: Keys, b: Keys) -> Keys:
    """One of two values."""
    if a is b or a == b:
        return a
    entries: tuple[Entry, ...] = ()
    if a.entries and len(a.entries) == len(b.entries):
        entries = tuple(one_of(pair) for pair in zip(a.entries, b.entries))  # type: ignore[assignment]
        if None in entries:
            entries = ()
    shared = _sides(a, b, bool(entries))
    family = a.family if a.family is b.family else None
    return Keys(entries, family, shared.shown, shared.drawn)


def _sides(a: Keys, b: Keys, kept: bool) -> Keys:
    if kept:
        return Keys(shown=a.shown | b.shown, drawn=a.drawn | b.drawn)
    return mixed([a, b])


def one_of(entries: Sequence[Entry]) -> Entry | None:
    """One of several entries, if that has a name."""
    first = entries[0]
    if all(e is first or e == first for e in entries):
        return first
    if not all(isinstance(e, Key) for e in entries):
        return None
    if len({e.word() for e in entries}) > 1:  # type: ignore[union-attr]
        return None
    if first.word() is not None:  # type: ignore[union-attr]
        whole = one_of([e.whole for e in entries])  # type: ignore[union-attr]
        return whole.then(first.step) if isinstance(whole, Key) else None  # type: ignore[union-attr]
    options: set[Key] = set()
    for entry in entries:
        plain = entry.step is None and entry.root.kind == "choice"  # type: ignore[union-attr]
        options |= entry.root.what if plain else {entry}  # type: ignore[union-attr]
    return chosen(frozenset(options))


def chosen(options: frozenset[Key]) -> Key:
    """The key that is one of some keys."""
    if len(options) == 1:
        return next(iter(options))
    return Key.at(Root("choice", options))


def along(column: Sequence[Key], at: Index | None) -> Key:
    """The key at a position of an array: of every position the same, or a function of it.

    Args:
      column: The keys at the positions 0, 1, 2, ...
      at: The position; None for an unknown one.
    """
    first = column[0]
    if all(key is first for key in column):
        return first
    edges = [key.step for key in column if isinstance(key.step, Edge)]
    if len(edges) < len(column) or any(e.kind != edges[0].kind for e in edges):
        return chosen(frozenset(column))
    parents = along([key.parent for key in column], at)  # type: ignore[misc]
    return parents.then(Edge(edges[0].kind, _merged([e.index for e in edges], at)))


def _merged(found: Sequence[Index], at: Index | None) -> Index:
    """The number at a position of an array of numbers."""
    if all(i == found[0] for i in found):
        return found[0]
    low, high = min(i.low for i in found), max(i.high for i in found)
    if at is None or at.loop < 0 or not all(i.constant for i in found):
        return Index(low, high)
    return through([i.low for i in found], at) or Index(low, high)


def through(table: Sequence[int], at: Index) -> Index | None:
    """The number that a table has at a position that a loop counts, if the table has no number
    twice.
    """
    used = table[at.low : at.high + 1]
    if len({v % WORDS for v in used}) < len(used):
        return None
    low, high = min(used), max(used)
    if all(v - used[0] == k for k, v in enumerate(used)):
        shift = used[0] - at.low
        return Index(low, high, at.loop, at.stem, at.offset + shift)
    stem = ("table", at.stem, at.offset, tuple(used), frozenset(used))
    return Index(low, high, at.loop, stem)


def entries_moved(keys: Keys, grid: np.ndarray) -> tuple[Entry, ...]:
    """Entries at the positions that a grid names."""
    if grid.size > MOST:
        return ()
    return tuple(keys.entries[k] for k in grid.ravel().tolist())


def positions(shape: Sequence[int]) -> np.ndarray:
    """The row-major number of every entry."""
    return np.arange(math.prod(shape)).reshape(shape)
