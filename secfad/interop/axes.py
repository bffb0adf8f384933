"""What single equations do to an axis of clients that is taken away.

A rule turns the parameters of an equation over a stacked value into those of the same work on one
client's value, and says where the axis of clients of the result would be. It refuses an equation that
reduces, cuts, merges or fills that axis.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Refused(Exception):
    """An equation does more than treat every client alike and apart; the message says what."""


# Entry by entry: the same on stacked values and on one client's.
ELEMENTWISE = frozenset(
    {
        *("add", "sub", "mul", "div", "rem", "max", "min", "pow", "integer_pow", "neg", "sign"),
        *("abs", "floor", "ceil", "round", "is_finite", "exp", "exp2", "expm1", "log", "log1p"),
        *("sqrt", "rsqrt", "cbrt", "square", "logistic", "tanh", "sin", "cos", "tan", "erf"),
        *("asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "erfc"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor", "select_n", "clamp"),
        *("convert_element_type", "copy", "copy_p", "stop_gradient", "add_any", "real", "imag"),
    }
)

Rule = Callable[[Mapping[str, Any], int, Sequence[int]], tuple[dict[str, Any], int]]


def without(axes: Sequence[Any], axis: int) -> tuple:
    """A sequence with one entry per axis, without that of the clients."""
    return tuple(entry for i, entry in enumerate(axes) if i != axis)


def _shifted(axes: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(a - (a > axis) for a in axes)


def _reduce(params: Mapping[str, Any], axis: int, shape: Sequence[int]) -> tuple[dict, int]:
    axes = params["axes"]
    if axis in axes:
        raise Refused(
            "reduces the axis of clients. Only drjax.reduce_sum, reduce_mean and "
            "reduce_weighted_mean add up clients; nothing else can cross to the server"
        )
    moved = axis - len([a for a in axes if a < axis])
    return {**params, "axes": _shifted(axes, axis)}, moved


def _squeeze(params: Mapping[str, Any], axis: int, shape: Sequence[int]) -> tuple[dict, int]:
    gone = params["dimensions"]
    if axis in gone:
        raise Refused("picks a single client. Sum over the cohort instead")
    moved = axis - len([a for a in gone if a < axis])
    return {**params, "dimensions": _shifted(gone, axis)}, moved


def _transpose(params: Mapping[str, Any], axis: int, shape: Sequence[int]) -> tuple[dict, int]:
    order = params["permutation"]
    return {
        **params,
        "permutation": _shifted(without(order, order.index(axis)), axis),
    }, order.index(axis)


def _broadcast_in_dim(
    params: Mapping[str, Any], axis: int, shape: Sequence[int]
) -> tuple[dict, int]:
    places = params["broadcast_dimensions"]
    moved = places[axis]
    if params["shape"][moved] != shape[axis]:
        raise Refused("repeats one client. Use drjax.broadcast for what all clients should have")
    own = {
        "shape": without(params["shape"], moved),
        "broadcast_dimensions": _shifted(without(places, axis), moved),
    }
    return {**params, **own}, moved


def _reshape(params: Mapping[str, Any], axis: int, shape: Sequence[int]) -> tuple[dict, int]:
    sizes = params["new_sizes"]
    # With the clients in front, the rest is rearranged within each client.
    if axis != 0 or not sizes or sizes[0] != shape[0] or params.get("dimensions") is not None:
        raise Refused("merges the axis of clients with others. Reshape inside drjax.map_fn")
    return {**params, "new_sizes": tuple(sizes[1:])}, 0


def _slice(params: Mapping[str, Any], axis: int, shape: Sequence[int]) -> tuple[dict, int]:
    starts, limits, strides = (
        params["start_indices"],
        params["limit_indices"],
        params["strides"],
    )
    stride = 1 if strides is None else strides[axis]
    if (starts[axis], limits[axis], stride) != (0, shape[axis], 1):
        raise Refused("picks some of the clients. Let clients opt out by weights of zero")
    own = {
        "start_indices": without(starts, axis),
        "limit_indices": without(limits, axis),
        "strides": None if strides is None else without(strides, axis),
    }
    return {**params, **own}, axis


RULES: Mapping[str, Rule] = {
    "squeeze": _squeeze,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "slice": _slice,
    **dict.fromkeys(
        (
            *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
            *("argmax", "argmin"),
        ),
        _reduce,
    ),
}


def one_row(params: Mapping[str, Any], size: int) -> dict[str, Any] | None:
    """For a `broadcast_in_dim` that makes `size` equal rows: the parameters that make one of them."""
    shape, places = params["shape"], params["broadcast_dimensions"]
    if shape[:1] != (size,) or 0 in places:
        return None
    return {**params, "shape": shape[1:], "broadcast_dimensions": tuple(p - 1 for p in places)}
