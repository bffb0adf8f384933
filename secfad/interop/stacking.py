"""Stacked values: what a program over a leading axis of clients holds, and markers in its trace.

`remove_axis` marks where all clients' values are looked at as one client's, `add_axis` the way back.
Both are linear and each is the other's transpose, so a trace may be differentiated before the axis is
taken away by `unstacking`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from secfad import _jax
from secfad._jax import JaxprEqn
from secfad._jax_interpreters import axis_markers
from secfad.errors import TranslationError

remove_axis_p, add_axis_p = axis_markers("remove_client_axis", "add_client_axis")
MARKERS = frozenset({remove_axis_p, add_axis_p})


def remove_axis(value: Any, size: int) -> jax.Array:
    """Marks that a stacked value, shape `(size, ...)`, is looked at as one client's."""
    return remove_axis_p.bind(jnp.asarray(value), size=size)


def add_axis(value: Any, size: int) -> jax.Array:
    """Marks that one client's value is looked at as all clients', shape `(size, ...)`."""
    return add_axis_p.bind(jnp.asarray(value), size=size)


@dataclasses.dataclass(frozen=True)
class Stacked:
    """A value of all clients: what one client holds, and where the axis of clients would be."""

    own: Any
    axis: int


@dataclasses.dataclass(frozen=True)
class Spread:
    """An ordinary array of equal rows, such as zeros; each client may hold one of the rows."""

    whole: Any
    own: Any


def whole(value: Any) -> Any:
    """A value that is not stacked, as the ordinary array that it is."""
    return value.whole if isinstance(value, Spread) else value


def axis_of(value: Any) -> int | None:
    """Where the axis of clients of a value would be; None if it is not stacked."""
    return value.axis if isinstance(value, Stacked) else None


def bare(value: Any) -> Any:
    """The array behind a value: one client's, or the ordinary one."""
    return value.own if isinstance(value, Stacked) else whole(value)


def dressed(value: Any, axis: int | None) -> Any:
    """A `bare` value with its axis of clients."""
    return value if axis is None else Stacked(value, axis)


def is_row(value: Any, axis: int | None) -> bool:
    """Whether `row` can take a value apart: one that is not stacked, or stacked there."""
    if isinstance(value, Stacked) or axis is None:
        return axis_of(value) == axis
    return (isinstance(value, Spread) and axis == 0) or jnp.shape(whole(value))[axis] == 1


def row(value: Any, axis: int | None) -> Any:
    """One of the rows of a value along an axis; without an axis the value as it is."""
    if isinstance(value, Stacked) or axis is None:
        return bare(value)
    if isinstance(value, Spread) and axis == 0:
        return value.own
    return jnp.squeeze(whole(value), axis)


def stacked_at(value: Any, axis: int | None, equation: JaxprEqn) -> Any:
    """The array behind a value that must be stacked at this axis, or not at all."""
    if axis_of(value) == axis:
        return bare(value)
    if axis == 0 and isinstance(value, Spread):
        return value.own
    raise refused(
        equation,
        "expected one value at the clients throughout, got an ordinary array or another order of axes "
        "in its place. Use drjax.broadcast for what clients get from the server",
    )


def refused(equation: JaxprEqn, reason: str) -> TranslationError:
    """The error for an equation that has no translation."""
    return TranslationError(f"`{equation.primitive.name}` {reason}.", line=_jax.user_line(equation))
