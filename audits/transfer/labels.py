"""Labels: the placement of a value and the relation of its axes to the clients.

A value is public (a constant of the program), a server value, a client's copy of a broadcast, or a
client's own value. In programs with an axis of clients, each array axis has a tag:

    c  the axis of clients: row i depends on client i only
    r  replicated: all rows are equal
    i  position-dependent public content, such as an iota
    d  data
    m  the axis of clients merged with data axes, clients first
    q  a replicated axis merged with data axes, replicas first

Merged axes appear where a mapped convolution folds clients into features; only reshapes, transposes
and convolutions may touch them.

The axis of clients is followed from the arguments, never found by its size. `depth` counts the
consecutive sums before the value exists. `phase` is the depth of the latest broadcast that reached
the value; it shows which values a client keeps between phases.

>>> join_places([Place.PUBLIC, Place.SERVER])
<Place.SERVER: 1>

Source: the label lattice follows the Volpano-Smith line of information-flow type systems.
"""

import dataclasses
import enum
import hashlib
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

CLIENT_AXIS, REPLICATED, POSITION, DATA = "c", "r", "i", "d"
MERGED, MERGED_COPIES = "m", "q"


class Place(enum.IntEnum):
    """The placement of a value; larger means closer to the client."""

    PUBLIC = 0
    SERVER = 1
    COPY = 2
    CLIENT = 3


class Axis(NamedTuple):
    """Tag of one array axis.

    A replicated axis records its broadcasts; a merged axis records its number of rows.
    """

    tag: str
    sources: frozenset[int] = frozenset()
    rows: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """The abstract value of one variable.

    Attributes:
      place: Its placement.
      axes: One `Axis` per array axis.
      depth: Number of consecutive sums that precede it.
      phase: Depth of the latest broadcast that reached it; -1 if none did.
      slots: The axes along which a client chose where entries stand (`slots`).
      indicator: True if what stands there is constant, as in a one-hot row: only the index shows.
      padded: True if constants stand beside entries of clients.
      drawn: True if a client's random key decides it, and no other value of a client.
      poisoned: True if its cause was reported already.
    """

    place: Place
    axes: tuple[Axis, ...]
    depth: int = 0
    phase: int = -1
    slots: frozenset[int] = frozenset()
    indicator: bool = False
    padded: bool = False
    drawn: bool = False
    poisoned: bool = False

    @property
    def tags(self) -> str:
        """The tags of all axes as a string, such as "cdd"."""
        return "".join([axis.tag for axis in self.axes])

    @property
    def client_axis(self) -> int | None:
        """Position of the axis of clients, if there is one."""
        for position, axis in enumerate(self.axes):
            if axis.tag == CLIENT_AXIS:
                return position
        return None

    @property
    def on_clients(self) -> bool:
        """True for values at the clients, their own or copies of a broadcast."""
        return self.place >= Place.COPY

    def replace(self, **changes) -> "Label":
        """The label with some fields changed."""
        return dataclasses.replace(self, **changes)


def data_axes(rank: int) -> tuple[Axis, ...]:
    """Axes of ordinary data."""
    return (Axis(DATA),) * rank


def replicated_axes(rank: int) -> tuple[Axis, ...]:
    """Axes along which all entries are equal."""
    return (Axis(REPLICATED),) * rank


def public(rank: int = 0) -> Label:
    """A constant whose entries are all equal."""
    return Label(Place.PUBLIC, replicated_axes(rank))


def of_constant(array: np.ndarray, rank: int, declared: Collection[str]) -> Label | None:
    """The label of a captured array, None if it is not public.

    Args:
      array: The array, or the words of a key.
      rank: Of the value.
      declared: Digests of the constants that are declared public.
    """
    uniform = array.size <= 1 or bool(np.all(array == array.flat[0]))
    if array.dtype.names is not None or array.dtype.itemsize == 0 or uniform:
        return public(rank)
    return Label(Place.PUBLIC, data_axes(rank)) if constant_digest(array) in declared else None


def as_numpy(value: Any) -> np.ndarray:
    """A constant as an array; of a key, its words."""
    try:
        return np.asarray(value)
    except TypeError:  # a typed PRNG key has no numpy form
        return np.asarray(jax.random.key_data(value))


def constant_digest(array: np.ndarray) -> str:
    """The digest by which a captured constant is declared public."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def poison(rank: int) -> Label:
    """The label of a value whose cause was reported already."""
    return Label(Place.PUBLIC, data_axes(rank), poisoned=True)


def join_places(places: Iterable[Place]) -> Place:
    """The placement of a value computed from values with these compatible placements."""
    return max(places, default=Place.PUBLIC)


def join_axis(a: Axis, b: Axis) -> Axis:
    """The tag of an axis that may have either tag."""
    if a == b:
        return a
    if a.tag == b.tag and a.rows == b.rows:
        return Axis(a.tag, a.sources | b.sources, a.rows)
    if MERGED in (a.tag, b.tag):
        return Axis(MERGED, rows=-1)
    tags = {a.tag, b.tag}
    if MERGED_COPIES in tags:
        return Axis(DATA)
    if CLIENT_AXIS in tags:
        return Axis(CLIENT_AXIS if tags == {CLIENT_AXIS, REPLICATED} else DATA)
    return Axis(POSITION if DATA not in tags else DATA)


def all_drawn(labels: Iterable[Label]) -> bool:
    """Whether a value that depends on these depends on clients by their random keys alone."""
    own = [label.drawn for label in labels if label.place == Place.CLIENT]
    return bool(own) and all(own)


def join(a: Label, b: Label) -> Label:
    """The least label above both: for loop carries and branches."""
    return Label(
        join_places((a.place, b.place)),
        tuple(join_axis(x, y) for x, y in zip(a.axes, b.axes)),
        max(a.depth, b.depth),
        max(a.phase, b.phase),
        a.slots | b.slots,
        bool(a.slots | b.slots) and all(label.indicator for label in (a, b) if label.slots),
        a.padded or b.padded,
        all_drawn((a, b)),
        a.poisoned or b.poisoned,
    )


def below(a: Label, b: Label) -> bool:
    """Whether `b` is at most as precise as `a`: the order of the lattice."""
    return a.poisoned or join(a, b) == b
