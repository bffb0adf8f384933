"""Keys and counters through loops.

Inside of a loop, a carried key is a placeholder: the key at the start of an iteration. Its meaning
is known when the body is (`key_relations.Carry`). A carried integer is taken for a counter until
the body shows otherwise.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from audits.bounds.domains.key_relations import Carry
from audits.bounds.domains.key_rules import of_family, on_words
from audits.bounds.values.keys import (
    WORDS,
    Edge,
    Index,
    Key,
    Keys,
    Root,
    either,
    mixed,
    number,
    positions,
    through,
)


class KeyLoop:
    """One loop: its placeholders, and what they mean.

    Attributes:
      loop: Its number.
      length: The number of iterations, if it is constant.
      around: The loops around it.
    """

    def __init__(self, loop: int, length: int | None, around: tuple[int, ...]):
        self.loop, self.length, self.around = loop, length, around
        self._start: list[Keys] = []

    def begin(self, start: Sequence[Keys], avals: Sequence[Any]) -> list[Keys]:
        """The carries of the first pass."""
        self._start = list(start)
        return [
            self._placeholder(k, keys, aval) for k, (keys, aval) in enumerate(zip(start, avals))
        ]

    def _placeholder(self, slot: int, keys: Keys, aval: Any) -> Keys:
        plain = not keys.entries or isinstance(keys.entries[0], Index)
        if plain and _counts(aval):
            return keys._replace(entries=(self._counter(slot, keys, 1, aval.dtype),))
        wholes = _wholes(keys)
        if not wholes:
            return mixed([keys])
        named = [_placed("carry", (self.loop, slot, j)) for j in range(len(wholes))]
        return keys._replace(entries=_like(keys, named))

    def _counter(self, slot: int, start: Keys, step: int, dtype: Any) -> Index:
        """A number that grows by `step` in every iteration."""
        limits = np.iinfo(dtype)
        low, high = int(limits.min), int(limits.max)
        first = start.entries[0] if start.entries else None
        if isinstance(first, Index) and self.length is not None:
            ends = (first.low, first.high, *(e + step * (self.length - 1) for e in first[:2]))
            if low <= min(ends) and max(ends) <= high:
                low, high = min(ends), max(ends)
        return Index(low, high, self.loop, ("carry", slot, step))

    def again(
        self, before: Sequence[Keys], after: Sequence[Keys], avals: Sequence[Any]
    ) -> list[Keys]:
        """The carries of the next pass; the same as before if these hold in every iteration."""
        return [
            self._widened(k, a, b, aval) for k, (a, b, aval) in enumerate(zip(before, after, avals))
        ]

    def _widened(self, slot: int, before: Keys, after: Keys, aval: Any) -> Keys:
        kept = before.entries
        if kept and isinstance(kept[0], Index):
            kept = self._counted(slot, kept[0], after, aval)
        elif [_word(k) for k in kept] != [_word(k) for k in after.entries]:
            kept = ()
        more = mixed([before, after])
        if not kept:
            return more
        return Keys(kept, None, before.shown | after.shown, more.drawn)

    def _counted(self, slot: int, before: Index, after: Keys, aval: Any) -> tuple[Index, ...]:
        """The counter, if the body adds a constant to it."""
        start = self._start[slot]
        found = after.entries[0] if after.entries else None
        if not isinstance(found, Index):
            return ()
        if found == before and before.loop != self.loop:
            return (before,)
        if found.loop != self.loop or found.stem != before.stem or before.loop != self.loop:
            return ()
        step, guessed = found.offset, before.stem[2]  # type: ignore[index]
        if step == 0:
            first = start.entries[0] if start.entries else None
            return (first,) if isinstance(first, Index) else ()
        if step == guessed:
            return (before,)
        small = step % 2 == 1 or (self.length is not None and abs(step) * self.length < WORDS)
        if guessed != 1 or not small:
            return ()
        return (self._counter(slot, start, step, aval.dtype),)

    def meaning(self, carry: Sequence[Keys], out: Sequence[Keys]) -> dict[Any, Carry]:
        """What the placeholders stand for."""
        found = {}
        for slot, (start, now, after) in enumerate(zip(self._start, carry, out)):
            begun = _wholes(start)
            ended = _wholes(after) if now.names and len(now.entries) == len(after.entries) else []
            for j in range(len(begun)):
                if ended:
                    ends, kept = (begun[j],), True
                    outs: tuple[Key, ...] = (ended[j],)
                else:
                    ends, kept = tuple(begun), False
                    outs = tuple(after.visible | after.drawn)
                what = (self.loop, slot, j)
                found[what] = Carry(ends, outs, kept, self.loop, self.length, self.around)
        return found

    def tested(self, slot: int, carry: Keys) -> Keys:
        """A carry as the predicate sees it: before an iteration, or after the last."""
        if not carry.names:
            return mixed([carry])
        last = [_placed("final", (self.loop, slot, j)) for j in range(len(_wholes(carry)))]
        return either(carry, Keys(_like(carry, last)))

    def end(self, slot: int, carry: Keys, out: Keys) -> Keys:
        """A carry after the loop."""
        start = self._start[slot]
        rest = mixed([start, carry, out])
        if not carry.names:
            return rest
        named = [_placed("final", (self.loop, slot, j)) for j in range(len(_wholes(start)))]
        return Keys(_like(carry, named), None, start.shown | carry.shown | out.shown, rest.drawn)

    def row(self, keys: Keys, shape: tuple[int, ...], value: int) -> Keys:
        """The slice of one iteration."""
        length = shape[0]
        at = Index(0, length - 1, self.loop, ("position", length))
        if length == 0:
            return mixed([keys])
        if keys.family is not None:
            return keys._replace(family=of_family(keys.family, shape, value, at))
        if not keys.entries:
            return keys
        columns = positions(shape).reshape(length, -1).T.tolist()
        if keys.names:
            found: list[Any] = [on_words([keys.names[k] for k in c], at) for c in columns]
        elif isinstance(keys.entries[0], Index):
            found = [_function([keys.entries[k] for k in c], at) for c in columns]  # type: ignore[misc]
        else:
            return mixed([keys])
        return keys._replace(entries=tuple(found))


def _counts(aval: Any) -> bool:
    """Whether a carry may be a counter: in fewer bits, it would start again too soon."""
    integer = not aval.shape and getattr(aval.dtype, "kind", "") in ("i", "u")
    return integer and np.iinfo(aval.dtype).bits >= 32


def _placed(kind: str, what: Any) -> Key:
    return Key.at(Root(kind, what))


def _word(entry: Any) -> Any:
    return entry.word() if isinstance(entry, Key) else entry


def stacked(keys: Keys) -> Keys:
    """The results of all iterations."""
    return mixed([keys])


def _function(column: list[Index], at: Index) -> Index:
    low, high = min(i.low for i in column), max(i.high for i in column)
    if low == high or not all(i.constant for i in column):
        return Index(low, high)
    return through([i.low for i in column], at) or Index(low, high)


def _wholes(keys: Keys) -> list[Key]:
    """The keys of a value with keys, or with all words of keys in order; empty for others."""
    names = keys.names
    if not names or names[0].word() is None:
        return list(names) if all(k.word() is None for k in names) else []
    step: Any = names[0].step
    count = step.kind[1]
    found = [k.whole for k in names[::count]]
    return found if names == _like(keys, found) else []  # type: ignore[comparison-overlap]


def _like(keys: Keys, wholes: Sequence[Key]) -> tuple[Key, ...]:
    """Other keys in the form of a value: keys, or their words."""
    first = keys.names[0]
    if first.word() is None:
        return tuple(wholes)
    kind: Any = first.step.kind  # type: ignore[union-attr]
    return tuple(k.then(Edge(kind, number(w))) for k in wholes for w in range(kind[1]))
