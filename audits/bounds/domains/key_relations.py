"""Which keys are related: one is the other, or is derived from it.

Related keys must not both be used. The comparison walks along two names and says "unrelated" only
where they certainly part: at two different children of one key. Everything else is related.

A loop is compared with itself: its names in one iteration with those in a later one. Counters of
the loop then differ, and the key that it carries has taken at least one more turn.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from audits.bounds.values.keys import Edge, Index, Key, Loose, Power, Root, Step

Loops = frozenset[int]
SAME, LATER, FREE = "same", "later", "free"
ALTERNATIVES = 64  # largest number of names of one key


@dataclasses.dataclass(frozen=True)
class Carry:
    """What a loop does to one key that it carries.

    Attributes:
      start: The names before the loop.
      out: The names at the end of an iteration.
      kept: They are names of the carried key; otherwise of what the carried value shows.
      loop: The loop.
      length: The number of iterations, if it is constant.
      around: The loops around it.
    """

    start: tuple[Key, ...]
    out: tuple[Key, ...]
    kept: bool
    loop: int
    length: int | None
    around: tuple[int, ...]


class Resolver:
    """Replaces the keys that loops carry by names from the arguments."""

    def __init__(self, carries: Mapping[Any, Carry]):
        self.carries = carries
        self._known: dict[tuple[Key, Loops], list[Key]] = {}

    def names(self, key: Key, inside: Loops = frozenset()) -> list[Key]:
        """Every name that a key may have, from arguments or public keys.

        Args:
          key: The key.
          inside: Loops whose carried keys stay as they are.
        """
        if (key, inside) not in self._known:
            found = list(dict.fromkeys(self._names(key, inside)))
            if len(found) > ALTERNATIVES:
                kept = all(_keeps(k) for k in found)
                found = list(dict.fromkeys(_root(k).loose(kept) for k in found))
            self._known[key, inside] = found
        return self._known[key, inside]

    def _names(self, key: Key, inside: Loops) -> list[Key]:
        root, steps = key.root, key.steps()
        if root.kind == "choice":
            starts = [n for option in root.what for n in self.names(option, inside)]
        elif root.kind == "final" or self._carried_outside(root, inside):
            starts = self._carried(root, inside)
        else:
            return [key]
        return [_walked(start, steps) for start in starts]

    def _carried_outside(self, root: Root, inside: Loops) -> bool:
        return root.kind == "carry" and self.carries[root.what].loop not in inside

    def _carried(self, root: Root, inside: Loops) -> list[Key]:
        carry = self.carries[root.what]
        starts = [n for key in carry.start for n in self.names(key, inside)]
        turn = self._turn(root, carry, inside)
        if turn is None:
            return self._any(root.what, inside)
        if not turn or carry.length == 0:
            return starts
        last = root.kind == "final"
        power = Power(turn, carry.loop, last, carry.length is not None, carry.around)
        return [start.then(power) for start in starts]

    def _turn(self, root: Root, carry: Carry, inside: Loops) -> tuple[Step, ...] | None:
        """The steps of one iteration, if it derives the next key from this one by always the same
        steps.
        """
        outs = [n for key in carry.out for n in self.names(key, inside | {carry.loop})]
        if len(outs) != 1 or not carry.kept:
            return None
        # Each iteration has its own numbers, so a repeated step may have any of them.
        steps = tuple(_uncounted(step, carry.loop) for step in outs[0].steps())
        mine = outs[0].root.kind == "carry" and outs[0].root.what == root.what
        return steps if mine and not any(isinstance(s, Loose) for s in steps) else None

    def _any(self, what: Any, inside: Loops) -> list[Key]:
        """Every key that any iteration may start with, and those derived from them."""
        loop = self.carries[what].loop
        seen, waiting, kept = {what}, [what], True
        found: dict[Key, None] = {}
        while waiting:
            carry = self.carries[waiting.pop()]
            kept = kept and carry.kept
            for key in (*carry.start, *carry.out):
                for name in self.names(key, inside | {loop}):
                    kept = kept and _keeps(name)
                    if name.root.kind != "carry" or self.carries[name.root.what].loop != loop:
                        found.update(dict.fromkeys(self.names(name, inside)))
                    elif name.root.what not in seen:
                        seen.add(name.root.what)
                        waiting.append(name.root.what)
        kept = kept and all(_keeps(k) for k in found)
        return [key.loose(kept) for key in found]

    def secret(self, key: Key, holder: str) -> bool:
        """Whether every name of a key holds the entropy of somebody's secret."""
        names = self.names(key)
        return bool(names) and all(n.root.holder == holder and _keeps(n) for n in names)


def _uncounted(step: Step, loop: int) -> Step:
    """A step whose number does not count the iterations of a loop."""
    if isinstance(step, Edge) and step.index.loop == loop:
        return step._replace(index=Index(step.index.low, step.index.high))
    if isinstance(step, Power):
        return step._replace(steps=tuple(_uncounted(s, loop) for s in step.steps))
    return step


def _walked(start: Key, steps: Sequence[Step]) -> Key:
    for step in steps:
        start = start.then(step)
    return start


def _root(key: Key) -> Key:
    while key.parent is not None:
        key = key.parent
    return key


def _keeps(key: Key) -> bool:
    """Whether a name keeps the entropy of its root."""
    return not any(isinstance(step, Loose) and not step.secret for step in key.steps())


# Comparison of two names.


class _Cell:
    """The rest of a name: a step and what follows. Repetitions are circles."""

    __slots__ = ("rest", "step", "unfolded")

    def __init__(self, step: Step, rest: "_Cell | None"):
        self.step, self.rest = step, rest
        self.unfolded: _Cell | None = None

    def turned(self) -> "_Cell":
        """One turn of a repetition, and any number of turns more."""
        if self.unfolded is None:
            power: Any = self.step
            again = self
            if power.loop >= 0:
                again = _Cell(Power(power.steps, -1, False, False, ()), self.rest)
            cell = again
            for step in reversed(power.steps):
                cell = _Cell(step, cell)
            self.unfolded = cell
        return self.unfolded


def _cells(key: Key) -> _Cell | None:
    cell, here = None, key
    while here.parent is not None:
        cell, here = _Cell(here.step, cell), here.parent  # type: ignore[arg-type]
    return cell


def related(a: Key, b: Key, loops: Sequence[int] = (), position: int | None = None) -> bool:
    """Whether two keys may be one, or one may be derived from the other.

    Args:
      a: A name without carried keys.
      b: Another one.
      loops: The loops around the use, from the outside.
      position: Compares `a` in one iteration of the loop at this position with `b` in a later one;
        None compares any iterations.
    """
    if a.root is not b.root:
        return False
    when = _when(loops, position)
    waiting: list[tuple[_Cell | None, _Cell | None]] = [(_cells(a), _cells(b))]
    seen: set[tuple[int, int]] = set()
    keep = []  # cells stay alive, so that their ids stay unique
    while waiting:
        x, y = waiting.pop()
        if x is None or y is None:
            return True
        if (id(x), id(y)) in seen:
            continue
        seen.add((id(x), id(y)))
        keep.append((x, y))
        if isinstance(x.step, Loose) or isinstance(y.step, Loose):
            return True
        if isinstance(x.step, Power) or isinstance(y.step, Power):
            waiting += _powers(x, y, when)
        elif _may_equal(x.step, y.step, when):
            waiting.append((x.rest, y.rest))
    return False


def _when(loops: Sequence[int], position: int | None):
    if position is None:
        return lambda loop: FREE
    places = dict.fromkeys(loops[:position], SAME) | {loops[position]: LATER}
    return lambda loop: places.get(loop, FREE)


def _powers(x: _Cell, y: _Cell, when) -> list[tuple[_Cell | None, _Cell | None]]:
    """Where a comparison with a repetition continues.

    Both names have matched so far, so two repetitions of one loop start from one key. A repetition
    that has turned already is another step, with `loop == -1`.
    """
    a, b = x.step, y.step
    if isinstance(a, Power) and isinstance(b, Power) and a[:2] == b[:2] and a.loop >= 0:
        known = _turns(a, b, when)
        if known is not None:
            return [(x.turned() if known > 0 else x.rest, y.turned() if known < 0 else y.rest)]
    if isinstance(a, Power):
        return [(x.rest, y), (x.turned(), y)]
    return [(x, y.rest), (x, y.turned())]


def _turns(a: Power, b: Power, when) -> int | None:
    """Which of two repetitions of one loop on one key has taken more turns: the first (1), the
    second (-1), none (0), or it is not known.
    """
    if a.last or b.last:
        one_run = a.fixed or all(when(loop) == SAME for loop in a.around)
        return a.last - b.last if one_run else None
    return {SAME: 0, LATER: -1}.get(when(a.loop))


def _may_equal(a: Edge, b: Edge, when) -> bool:
    if a.kind != b.kind:
        return True  # split and fold number the same children
    i, j = a.index, b.index
    if i.high < j.low or j.high < i.low or not _meet(i, j):
        return False
    counted = i.loop >= 0 and i.loop == j.loop and i.stem == j.stem
    if not counted:
        return True
    same = (i.offset - j.offset) % (1 << 32) == 0
    if when(i.loop) == SAME:
        return same
    if when(i.loop) == LATER:
        return not same
    return True


def _meet(i: Index, j: Index) -> bool:
    """Whether two numbers may be equal, if one of them comes from a known table."""
    for one, other in ((i, j), (j, i)):
        values = _values(one)
        if values is not None:
            others = _values(other) or range(other.low, other.high + 1)
            return any(v in others for v in values)
    return True


def _values(index: Index) -> frozenset[int] | None:
    if isinstance(index.stem, tuple) and index.stem[0] == "table" and index.offset == 0:
        return index.stem[-1]
    return None


class Grove:
    """Keys that are compared with others, in a form that finds relatives quickly."""

    def __init__(self, keys: Iterable[tuple[Key, Any]]):
        self._at: dict[Key, list[Any]] = {}
        self._below: dict[Key, list[Any]] = {}
        self._kinds: dict[Key, set[Any]] = {}
        self._members: list[tuple[Key, Any]] = []
        self._wild: list[tuple[Key, Any]] = []
        for key, what in keys:
            self._members.append((key, what))
            if not _plain(key):
                self._wild.append((key, what))
                continue
            self._at.setdefault(key, []).append(what)
            here = key
            while here.parent is not None:
                assert isinstance(here.step, Edge)
                self._kinds.setdefault(here.parent, set()).add(here.step.kind)
                here = here.parent
                self._below.setdefault(here, []).append(what)

    def relatives(self, key: Key) -> list[Any]:
        """What belongs to the keys that are related to one, itself included."""
        if not _plain(key):
            return [what for other, what in self._members if related(key, other)]
        here, found = key, [*self._at.get(key, ()), *self._below.get(key, ())]
        while here.parent is not None:
            kinds = self._kinds.get(here.parent, set())
            if kinds - {here.step.kind}:  # type: ignore[union-attr]
                return [what for other, what in self._members if related(key, other)]
            here = here.parent
            found += self._at.get(here, ())
        return found + [what for other, what in self._wild if related(key, other)]


def _plain(key: Key) -> bool:
    """Whether a name consists of constant steps."""
    return all(isinstance(s, Edge) and s.index.constant for s in key.steps())


def all_unrelated(keys: Sequence[Key]) -> bool:
    """Whether no two keys of an array are related, in one iteration of every loop."""
    grove = Grove((key, k) for k, key in enumerate(keys))
    return all(grove.relatives(key) == [k] for k, key in enumerate(keys))
