"""Unstacking: from a trace over a leading axis of clients to the program of one client.

Between the markers of `stacking`, code is one client's already and is taken as it is. What a program
does to stacked values outside is followed as long as it treats every client alike and apart: arithmetic
entry by entry, rearranging or reducing the other axes, control flow around it. Everything else is
refused with the user's line: what looks at several clients is no broadcast and no sum.

>>> import jax, jax.numpy as jnp
>>> from secfad.interop.stacking import add_axis, remove_axis
>>> trace = jax.make_jaxpr(lambda x: remove_axis(2 * add_axis(x, 8) + 1.0, 8))
>>> float(unstack(trace(1.0), [jnp.float32(3)], 8)[0])
7.0
"""

from collections.abc import Mapping, Sequence
from typing import Any

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn
from secfad.errors import TranslationError
from secfad.interop.axes import effect, one_client
from secfad.interop.axis_rules import Kind, Refused, Replicated, Summed
from secfad.interop.control import control
from secfad.interop.stacking import (
    MARKERS,
    Spread,
    Stacked,
    add_axis_p,
    axis_of,
    bare,
    dressed,
    is_row,
    refused,
    remove_axis_p,
    row,
    stacked_at,
    whole,
)
from secfad.jaxprs.equations import CUSTOM_RULES, JIT, as_call, view
from secfad.jaxprs.evaluation import Evaluator
from secfad.jaxprs.inside import Inside
from secfad.primitives import COMMUNICATION


def unstack(
    closed: ClosedJaxpr, values: Sequence[Any], size: int, stacked: list[bool] | None = None
) -> list[Any]:
    """Evaluates a trace without its axis of clients.

    Args:
      closed: The trace, for `size` clients.
      values: Of its inputs, none stacked.
      size: Length of the axis of clients.
      stacked: If given, is filled with whether each result is stacked.

    Returns:
      The results; a stacked result as one client holds it.

    Raises:
      TranslationError: An equation mixes, picks or tells apart clients; names the user's line.
    """
    results = _Reader(size).run(closed, values)
    if any(axis_of(x) for x in results):
        raise TranslationError(
            "Expected results at the clients with the clients in front, got them behind another axis. "
            "Move the axis with jnp.moveaxis, or return what drjax.map_fn gives."
        )
    if stacked is not None:
        stacked[:] = [isinstance(x, Stacked) for x in results]
    return [bare(x) for x in results]


# What to do instead, for each kind of refusal.
_REMEDIES: Mapping[Kind, str] = {
    "reduces": "Only drjax.reduce_sum, reduce_mean and reduce_weighted_mean add up clients; nothing else "
    "can cross to the server",
    "orders": "Bisect for an order statistic by sums, for instance",
    "picks": "Let clients opt out by weights of zero",
    "merges": "Rearrange what each client has inside drjax.map_fn",
    "mixes": "Do it inside drjax.map_fn, and exchange information by sums",
    "fills": "All clients take part; let some opt out by weights of zero",
    "repeats": "Use drjax.broadcast for what all clients should have",
    "depends_on_position": "Make what differs between clients an argument placed at the clients",
    "unknown": "Outside of drjax.map_fn only what is known to keep clients apart is translated. Do it "
    "inside drjax.map_fn",
}

_is_marked = Inside(lambda equation: equation.primitive in MARKERS)


class _Reader(Evaluator):
    """Evaluates equations over stacked, spread and ordinary values."""

    def __init__(self, size: int):
        self.size = size

    def equation(self, equation: JaxprEqn, values: list[Any]) -> list[Any]:
        """The results of one equation, stacked where they differ between clients."""
        primitive = equation.primitive
        if primitive is add_axis_p:
            if isinstance(values[0], Stacked):
                raise refused(equation, "at one client uses the values of all of them")
            return [Stacked(whole(values[0]), 0)]
        if primitive is remove_axis_p:
            return [self._entering(equation, values[0])]
        stacked = any(isinstance(x, Stacked) for x in values)
        followed = stacked or _is_marked(equation)
        if primitive in JIT and (followed or any(isinstance(x, Spread) for x in values)):
            return self._inline(equation, values)
        if not followed:
            return self._ordinary(equation, values)
        with _jax.at_line(equation):
            results = control(self.run, view(equation), values)
        return self._stacked(equation, values) if results is None else results

    def _inline(self, equation: JaxprEqn, values: list[Any]) -> list[Any]:
        call = as_call(equation)
        assert call is not None
        try:
            return self.run(call.body, values)
        except TranslationError as error:
            if error.line:
                raise
            # A function of JAX's own has no line of the user's inside.
            raise TranslationError(str(error), line=_jax.user_line(equation)) from None

    def _entering(self, equation: JaxprEqn, value: Any) -> Any:
        if axis_of(value) == 0 or isinstance(value, Spread):
            return value.own
        where = "one whose axis of clients was moved" if axis_of(value) else "another array"
        raise TranslationError(
            f"Expected a value at the clients for `map_fn` or a reduction, got {where}. Wrap a server "
            "value in drjax.broadcast; make clients' data an argument placed at the clients.",
            line=_jax.user_line(equation),
        )

    def _ordinary(self, equation: JaxprEqn, values: list[Any]) -> list[Any]:
        results = _jax.evaluate(equation, [whole(x) for x in values])
        own = self._row(equation, values)
        return results if own is None else [Spread(*pair) for pair in zip(results, own)]

    def _row(self, equation: JaxprEqn, values: list[Any]) -> list[Any] | None:
        """One row of ordinary results, where all of them are certainly equal."""
        axes = [0 if isinstance(x, Spread) else None for x in values]
        try:
            found = effect(equation, axes, self.size)
        except Refused:
            return None
        if isinstance(found, Summed):
            return None
        after = (found.axis,) if isinstance(found, Replicated) else found.axes
        pairs = found.takes.items()
        if set(after) != {0} or not all(is_row(values[i], axis) for i, axis in pairs):
            return None
        return one_client(found, equation, [row(values[i], axis) for i, axis in pairs])

    def _stacked(self, equation: JaxprEqn, values: list[Any]) -> list[Any]:
        primitive = equation.primitive
        if primitive in COMMUNICATION:
            raise refused(equation, "expected a server value, got a value at the clients")
        if primitive in CUSTOM_RULES:
            raise refused(
                equation, "has its own derivative rule around clients' values. Call it in map_fn"
            )
        try:
            found = effect(equation, [axis_of(x) for x in values], self.size)
        except Refused as reason:
            raise refused(equation, f"{reason}. {_REMEDIES[reason.kind]}") from None
        assert not isinstance(found, Replicated)
        if isinstance(found, Summed):
            raise refused(equation, f"reduces the axis of clients. {_REMEDIES['reduces']}")
        own = [self._own(equation, values[i], axis) for i, axis in found.takes.items()]
        results = one_client(found, equation, own)
        return [dressed(x, axis) for x, axis in zip(results, found.axes)]

    def _own(self, equation: JaxprEqn, value: Any, axis: int | None) -> Any:
        if not isinstance(value, Stacked) and is_row(value, axis):
            return row(value, axis)
        return stacked_at(value, axis, equation)
