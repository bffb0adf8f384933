"""`Fact`: the proved properties of one value, for every client input.

Every part is an over-approximation: an interval contains all entries, a norm bounds the value for
every client, a relation holds for every client. NaN and infinity are separate flags, because a
bound that holds "unless NaN" does not bound a sum. The join of two facts keeps only what both
state.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from audits.bounds.values.amounts import Amount, largest
from audits.bounds.values.keys import NOTHING, Keys, either
from audits.bounds.values.keys import touched as touched_keys
from audits.bounds.values.sets import NONE, Sums, united


class Interval(NamedTuple):
    """Range of all entries, and whether NaN or an infinity may be among them."""

    low: float
    high: float
    nan: bool = False
    inf: bool = False

    @property
    def reach(self) -> float:
        """Largest absolute value but for NaN; infinite if unbounded."""
        reach = max(abs(self.low), abs(self.high))
        return math.inf if math.isnan(reach) else reach

    @property
    def magnitude(self) -> float:
        """Largest absolute value; infinite if unbounded or possibly NaN."""
        return math.inf if self.nan else self.reach

    @property
    def is_zero(self) -> bool:
        """Exactly zero everywhere."""
        return self.low == 0 == self.high and not self.nan

    @property
    def finite(self) -> bool:
        """Neither NaN nor infinite, but possibly without a bound."""
        return not (self.nan or self.inf)


class Member(NamedTuple):
    """A value inside a norm: its summed axes, and the positions of its other axes.

    Attributes:
      value: Number of the value.
      summed: Its axes under the norm.
      kept: Pairs of an axis of the value and the axis of the related value that follows it.
    """

    value: int
    summed: frozenset[int]
    kept: tuple[tuple[int, int], ...]


class Relation(NamedTuple):
    """A fact about a value in terms of the joint norm N of some members.

    kind `square`   the value is at least amount^2 * (N^2 - gap^2)
    kind `norm`     the value squared is at least amount^2 * (N^2 - gap^2)
    kind `scale`    the value x squared times N^2 is at most amount^2 + x^2 * gap^2
    kind `finite`   a flag that is true only if N is finite
    kind `within`   a flag that is true only if N^2 <= amount^2 + gap^2; false also for NaN
    kind `outside`  a flag that is false only if N^2 <= amount^2 + gap^2
    kind `outside unless NaN`  the same, but false for NaN too
    kind `nan`      a flag that is false only if the member is not NaN, entry by entry

    The gap is what underflow can hide: squares below the smallest normal number may be zero, so d
    entries hide a norm of the root of d times that number.

    A flag records the `test` that computed it, so two guards are equal only if their tests are. It
    is `mixed` if another condition also decides it, entry by entry. The `origin` is the number of
    the value that states the norm, however broadcast; of a flag, the one that is compared with a
    positive number.
    """

    kind: str
    members: frozenset[Member]
    amount: Amount = Amount(1.0)
    test: int = -1
    mixed: bool = False
    gap: float = 0.0
    origin: int = -1


class Divisor(NamedTuple):
    """A norm that a value was divided by without a lower limit.

    Attributes:
      origin: The value that states the norm.
      gap: What underflow hides of it, in its own unit.
      finite: The divided value is finite, and the norm is not NaN.
    """

    origin: int
    gap: float
    finite: bool


class Norm(NamedTuple):
    """L2 over `axes` is at most `amount`, for every index of the other axes.

    With a divisor, only where that is far above what underflow hides: a guard must say so.
    """

    axes: frozenset[int]
    amount: Amount
    divisor: Divisor | None = None


class Part(NamedTuple):
    """The value is one of several that were clipped together.

    Attributes:
      group: Number of the joint clip.
      index: Index of the value in the clip.
      unit: Unit of this value inside the joint norm.
      bound: The joint norm, in units.
    """

    group: int
    index: int
    unit: float
    bound: Amount


class Noise(NamedTuple):
    """Gaussian noise.

    Attributes:
      std: Its standard deviation.
      draw: Number of the draw.
      copied: The server draws a copy of the same numbers for every client.
    """

    std: Amount
    draw: int
    copied: bool


class Fact(NamedTuple):
    """All proved properties of a value.

    Attributes:
      number: Equal numbers mean equal values.
      interval: Range of entries.
      norms: L2 bounds.
      proof: The reason why the norms hold: "clip", "recognised clip" or "bounded operation".
      part: Its part in a joint clip.
      relation: Its relation to the norm of other values.
      scaled: Sets of members; the finiteness of all members of one set makes it finite.
      multiple: The value is `multiple[1]` times the value `multiple[0]`.
      amount: Its magnitude, for a number or a server scalar.
      blame: Rule that explains why there is no bound.
      low: Low-precision dtype in which a norm was computed.
      linear: The sums of which it is a linear function, with factors.
      raw: Sums without noise that it depends on.
      divisors: Those among `raw` that it depends on through a denominator.
      direct: It is a noised sum without normalisation.
      noise: It is Gaussian noise.
      draw: The step of a random draw in the computation of a normal number.
      mixed: The noise that the client itself added.
      behind: L2 bounds of the value before that noise. They hold for the sum alone: after any other
        operation the noisy value has no bound.
      keys: Its keys or numbers, and the keys behind it.
    """

    number: int
    interval: Interval
    norms: tuple[Norm, ...] = ()
    proof: str = ""
    part: Part | None = None
    relation: Relation | None = None
    scaled: frozenset[frozenset[Member]] = frozenset()
    multiple: tuple[int, Amount] | None = None
    amount: Amount | None = None
    blame: str = ""
    low: str = ""
    linear: tuple[tuple[int, Amount], ...] = ()
    raw: Sums = NONE
    divisors: Sums = NONE
    direct: bool = False
    noise: Noise | None = None
    draw: Any = None
    mixed: Noise | None = None
    behind: tuple[Norm, ...] = ()
    keys: Keys = NOTHING

    def replace(self, **changes) -> "Fact":
        """The fact with some parts changed."""
        return self._replace(**changes)


def everything(dtype: Any) -> Interval:
    """The range of a dtype."""
    try:
        plain = np.dtype(dtype)
    except TypeError:
        return Interval(-math.inf, math.inf, True, True)
    if plain.kind == "b":
        return Interval(0.0, 1.0)
    if plain.kind in "iu":
        limits = np.iinfo(plain)
        return Interval(float(limits.min), float(limits.max))
    return Interval(-math.inf, math.inf, True, True)


def hull(a: Interval, b: Interval) -> Interval:
    """The smallest interval with both."""
    return Interval(min(a.low, b.low), max(a.high, b.high), a.nan or b.nan, a.inf or b.inf)


def common_norms(a: Fact, b: Fact) -> tuple[Norm, ...]:
    """Norms that hold for either value."""
    found = []
    for mine in a.norms:
        for theirs in b.norms:
            if mine.axes == theirs.axes and mine.divisor == theirs.divisor:
                amount = largest(mine.amount, theirs.amount)
                if amount is not None:
                    found.append(Norm(mine.axes, amount))
    return tuple(found)


def factor_of(fact: Fact) -> Amount | None:
    """The magnitude of a public number or server scalar."""
    interval = fact.interval
    if interval.low == interval.high and interval.finite:
        return Amount(abs(interval.low))
    return fact.amount


def join_facts(number: int, a: Fact, b: Fact) -> Fact:
    """The facts of a value that equals one of two values."""
    return a if a.number == b.number else weaker(number, a, b)


def weaker(number: int, a: Fact, b: Fact) -> Fact:
    """The facts that both state."""
    return Fact(
        number,
        hull(a.interval, b.interval),
        norms=common_norms(a, b),
        proof=a.proof if a.proof == b.proof else "",
        amount=a.amount if a.amount == b.amount else None,
        blame=a.blame or b.blame,
        low=a.low or b.low,
        raw=united(a.raw, b.raw),
        divisors=united(a.divisors, b.divisors),
        direct=a.direct or b.direct,
        keys=either(a.keys, b.keys),
    )


def touched(fact: Fact, others: Iterable[Fact]) -> Fact:
    """A fact whose value also depends on other values."""
    others = list(others)
    raw, divisors = fact.raw, fact.divisors
    for other in others:
        raw, divisors = united(raw, other.raw), united(divisors, other.divisors)
    keys = touched_keys(fact.keys, [other.keys for other in others])
    return fact.replace(raw=raw, divisors=divisors, keys=keys)
