"""Rules for single equations over an axis of clients: what each primitive does to that axis.

A rule gets a `Case`, an equation and the position at which each operand has the axis of clients, and
answers with the equation of one client. `Kept`: stacked results are the rows of the clients' results.
`Summed`: the results are sums of the clients' results. Everything else it refuses, with a kind.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from secfad._jax import KEY_GENERATORS, JaxprEqn
from secfad.jaxprs.origins import is_key_generator

Kind = Literal[
    "reduces",  # a maximum, a product, ... over clients: no sum
    "orders",  # sorts clients, or goes from one to the next
    "picks",  # takes, moves or overwrites single clients
    "merges",  # joins the axis of clients with another one
    "mixes",  # a result of one client depends on the value of another
    "fills",  # adds rows that are no clients
    "repeats",  # gives the value of one client to several
    "depends_on_position",  # a client's result depends on where it stands
    "unknown",  # no rule for this primitive, or for these parameters
]


class Refused(Exception):
    """An equation neither treats every client alike and apart, nor sums over clients.

    Attributes:
      kind: What it does instead.
    """

    def __init__(self, kind: Kind, message: str):
        super().__init__(message)
        self.kind: Kind = kind


@dataclasses.dataclass(frozen=True)
class _Outcome:
    params: Mapping[str, Any]
    takes: Mapping[int, int | None]


@dataclasses.dataclass(frozen=True)
class Kept(_Outcome):
    """Every client computes its row of the results by an equation of its own.

    Attributes:
      params: Of one client's equation.
      takes: Operands of one client's equation, by index, each with the axis of which it is one row. An
        operand without an axis of clients may be among them: then its rows must be equal, or
        the result depends on the client's position. None: it is used as it is.
      axes: The position of the axis of clients in each result; None where all clients have one result.
      unit: The axes of `takes` and `axes` stay in one client's equation, with length 1.
    """

    axes: tuple[int | None, ...]
    unit: bool = False


@dataclasses.dataclass(frozen=True)
class Summed(_Outcome):
    """The results are sums over clients of those of an equation of its own; `Kept` has the fields."""

    unit: bool = False


@dataclasses.dataclass(frozen=True)
class Replicated(_Outcome):
    """No operand has an axis of clients; `axis` of the result, if any, has one equal row per client.

    If there is such an axis, `params` and `takes` are of the equation of one row.
    """

    axis: int | None


@dataclasses.dataclass(frozen=True)
class Case:
    """An equation, and where its operands have the axis of clients (None: nowhere)."""

    equation: JaxprEqn
    axes: tuple[int | None, ...]
    size: int

    @property
    def params(self) -> Mapping[str, Any]:
        """Those of the equation over stacked values."""
        return self.equation.params

    def shape(self, operand: int) -> tuple[int, ...]:
        """Of an operand, with the axis of clients."""
        return self.equation.invars[operand].aval.shape  # type: ignore[attr-defined]

    def out(self, result: int = 0) -> tuple[int, ...]:
        """The shape of a result, with the axis of clients."""
        return self.equation.outvars[result].aval.shape  # type: ignore[attr-defined]

    def common(self) -> int:
        """The position that all operands with an axis of clients share."""
        positions = {axis for axis in self.axes if axis is not None}
        if len(positions) > 1:
            raise Refused("mixes", "combines values of different clients")
        return positions.pop()

    def kept(self, before: int, after: int, **params: Any) -> Kept:
        """The axis moves from one position in all operands but scalars to one in all results."""
        scalar = [not self.shape(i) for i in range(len(self.axes))]
        takes = {i: None if scalar[i] else before for i in range(len(self.axes))}
        results = range(len(self.equation.outvars))
        if any(self.out(i)[after] != self.size for i in results):
            raise Refused("repeats", "repeats one client")
        return Kept({**self.params, **params}, takes, tuple(after for _ in results))


Rule = Callable[[Case], Kept | Summed]


def without(entries: Sequence[Any], axis: int) -> tuple:
    """A sequence with one entry per axis, without that of the clients."""
    return tuple(entry for i, entry in enumerate(entries) if i != axis)


def shifted(axes: Sequence[int], gone: int | None) -> tuple[int, ...]:
    """The remaining axes of a sequence, numbered as they are when one of all axes is gone."""
    if gone is None:
        return tuple(axes)
    return tuple(a - (a > gone) for a in axes if a != gone)


def leading(*cores: int | Callable[[Case], int]) -> Rule:
    """The rule of a primitive that works alike on all entries of the leading axes of its operands.

    Args:
      cores: How many trailing axes of each operand are worked on together; the last is for all others.
    """

    def rule(case: Case) -> Kept:
        axis = case.common()
        for i in range(len(case.axes)):
            core = cores[min(i, len(cores) - 1)]
            used = core if isinstance(core, int) else core(case)
            if case.shape(i) and axis >= len(case.shape(i)) - used:
                raise Refused("mixes", "combines values of different clients")
        return case.kept(axis, axis)

    return rule


entrywise = leading(0)


def each(case: Case) -> Kept:
    """Every operand is its own result."""
    if any(device is not None for device in case.params.get("devices", ())):
        raise Refused("unknown", "moves values to a certain device")
    return Kept(case.params, dict(enumerate(case.axes)), case.axes)


def along(name: str, kind: Kind, reason: str) -> Rule:
    """The rule of work along the axes that a parameter names; by default along the last one."""

    def rule(case: Case) -> Kept:
        axis = case.common()
        worked = case.params.get(name, len(case.shape(0)) - 1)
        several = tuple(worked) if isinstance(worked, tuple | list) else (worked,)
        if axis in several:
            raise Refused(kind, reason)
        new = shifted(several, axis)
        params = {name: new if isinstance(worked, tuple | list) else new[0]}
        return case.kept(axis, axis, **(params if name in case.params else {}))

    return rule


def reduced(case: Case) -> Kept:
    """Reductions other than sums."""
    axis, axes = case.common(), case.params["axes"]
    if axis in axes:
        raise Refused("reduces", "reduces the axis of clients")
    return case.kept(axis, _moved(axis, axes), axes=shifted(axes, axis))


def reduce_sum(case: Case) -> Kept | Summed:
    """The axis of clients may be among those that are summed over."""
    axis, axes = case.common(), case.params["axes"]
    if axis in axes:
        return Summed({**case.params, "axes": shifted(axes, axis)}, {0: axis})
    return reduced(case)


def _moved(axis: int, gone: Sequence[int]) -> int:
    return axis - len([a for a in gone if a < axis])


def squeeze(case: Case) -> Kept:
    """Axes of length 1 disappear; not that of a single client."""
    axis, gone = case.common(), case.params["dimensions"]
    if axis in gone:
        raise Refused("picks", "picks a single client")
    return case.kept(axis, _moved(axis, gone), dimensions=shifted(gone, axis))


def transpose(case: Case) -> Kept:
    """The axis moves with the others."""
    axis, order = case.common(), case.params["permutation"]
    return case.kept(axis, order.index(axis), permutation=shifted(order, axis))


def broadcast_in_dim(case: Case) -> Kept:
    """The axis may move, and not be stretched."""
    axis = case.common()
    shape, places = case.params["shape"], case.params["broadcast_dimensions"]
    after = places[axis]
    own = shifted(without(places, axis), after)
    return case.kept(axis, after, shape=without(shape, after), broadcast_dimensions=own)


def reshape(case: Case) -> Kept:
    """The axis stays if in row-major order as many entries are before it and it has its length."""
    axis, sizes = case.common(), case.params["new_sizes"]
    before = math.prod(case.shape(0)[:axis])
    places = [
        k for k, size in enumerate(sizes) if size == case.size and math.prod(sizes[:k]) == before
    ]
    if not places or case.params.get("dimensions") is not None:
        raise Refused("merges", "merges the axis of clients with others")
    return case.kept(axis, places[0], new_sizes=without(sizes, places[0]))


def slice_(case: Case) -> Kept:
    """All clients must be taken, in their order."""
    axis, params = case.common(), case.params
    lists = {name: params[name] for name in ("start_indices", "limit_indices", "strides")}
    strides = lists["strides"]
    taken = (lists["start_indices"][axis], lists["limit_indices"][axis])
    if taken != (0, case.size) or (strides is not None and strides[axis] != 1):
        raise Refused("picks", "picks some of the clients")
    own = {name: x if x is None else without(x, axis) for name, x in lists.items()}
    return case.kept(axis, axis, **own)


def dynamic_slice(case: Case) -> Kept:
    """JAX clamps the start of a slice that takes all clients to 0, so one client's has no such start."""
    axis, sizes = case.common(), case.params["slice_sizes"]
    if sizes[axis] != case.size:
        raise Refused("picks", "picks some of the clients")
    return _without_start(case.kept(axis, axis, slice_sizes=without(sizes, axis)), axis + 1)


def dynamic_update_slice(case: Case) -> Kept:
    """All clients must be written, and then none of the start is used."""
    axis = case.common()
    if case.shape(0)[axis] != case.shape(1)[axis]:
        if case.axes[0] is None:
            raise Refused("fills", "writes the clients into a longer axis")
        raise Refused("picks", "overwrites some of the clients")
    return _without_start(case.kept(axis, axis), axis + 2)


def _without_start(kept: Kept, operand: int) -> Kept:
    takes = {i: axis for i, axis in kept.takes.items() if i != operand}
    return dataclasses.replace(kept, takes=takes)


def pad(case: Case) -> Kept:
    """Nothing may be added to the axis or cut from it."""
    axis, config = case.common(), case.params["padding_config"]
    low, high, between = config[axis]
    if low < 0 or high < 0:
        raise Refused("picks", "picks some of the clients")
    if (low, high, between) != (0, 0, 0):
        raise Refused("fills", "adds rows that are no clients")
    return case.kept(axis, axis, padding_config=without(config, axis))


def stack(case: Case) -> Kept:
    """Values become entries along a new axis."""
    axis, new = case.common(), case.params["axis"]
    return case.kept(axis, axis + (axis >= new), axis=new - (new > axis))


def unstack(case: Case) -> Kept:
    """Entries along an axis become values."""
    axis, gone = case.common(), case.params["axis"]
    if axis == gone:
        raise Refused("picks", "picks single clients")
    return case.kept(axis, axis - (axis > gone), axis=gone - (gone > axis))


def tile(case: Case) -> Kept:
    """Copies are made of the other axes."""
    axis, times = case.common(), case.params["reps"]
    return case.kept(axis, axis, reps=without(times, axis))


def bitcast(case: Case) -> Kept:
    """Wider entries are made of those along the last axis, and narrower ones along a new one."""
    axis = case.common()
    if axis >= len(case.out()):
        raise Refused("merges", "merges the axis of clients with others")
    return case.kept(axis, axis)


# What leaves an axis as it is, for each parameter of a primitive with windows.
_NO_WINDOW = {
    "window_dimensions": 1,
    "window_strides": 1,
    "padding": (0, 0),
    "base_dilation": 1,
}


def has_windows(params: Mapping[str, Any], axis: int) -> bool:
    """Whether windows along an axis hold several of its entries, skip some or add to them."""
    return any(name in params and params[name][axis] != entry for name, entry in _NO_WINDOW.items())


def window(case: Case) -> Kept:
    """Windows must be one client long."""
    axis, names = case.common(), (*_NO_WINDOW, "window_dilation")
    if has_windows(case.params, axis):
        raise Refused("mixes", "has windows over several clients")
    own = {name: without(case.params[name], axis) for name in names if name in case.params}
    return case.kept(axis, axis, **own)


def _generator(case: Case) -> Any:
    """The random generator of an equation: of its new keys, or of its keys."""
    found = case.params.get("impl") or case.equation.invars[0].aval.dtype._impl  # type: ignore[attr-defined]
    if not is_key_generator(found):
        raise Refused("unknown", f"draws from a random generator {found.name!r} that is not JAX's")
    return found


THREEFRY, RBG, UNSAFE_RBG = KEY_GENERATORS


def random(*apart: Any, rule: Rule = entrywise) -> Rule:
    """The rule of what a random generator computes from keys.

    Only the generators `apart` compute it for each key apart: for a batch of keys, others use the first.
    """

    def checked(case: Case) -> Kept | Summed:
        if not any(_generator(case) is generator for generator in apart):
            raise Refused("mixes", "draws for several clients from the key of one")
        return rule(case)

    return checked


def random_gamma(case: Case) -> Kept:
    """The keys are for the leading axes of the parameter; each is split for the other axes."""
    axis = case.common()
    if axis >= len(case.shape(0)):
        raise Refused("depends_on_position", "draws for each client from another part of a key")
    return case.kept(axis, axis)


def random_wrap(case: Case) -> Kept | Summed:
    """The trailing axes are the words of a key."""
    return leading(len(_generator(case).key_shape))(case)
