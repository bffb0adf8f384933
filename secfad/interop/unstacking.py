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

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn
from secfad.errors import TranslationError
from secfad.interop.axes import ELEMENTWISE, RULES, Refused, one_row
from secfad.interop.control import control
from secfad.interop.stacking import (
    MARKERS,
    Spread,
    Stacked,
    add_axis_p,
    axis_of,
    bare,
    refused,
    remove_axis_p,
    stacked_at,
    whole,
)
from secfad.jaxprs.equations import CUSTOM_RULES, JIT, Inside, as_call, view
from secfad.jaxprs.evaluation import Evaluator
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
        """One row of an ordinary result, where all of them are certainly equal."""
        if equation.primitive.name == "broadcast_in_dim":
            params = one_row(equation.params, self.size)
            if params is not None:
                return _jax.evaluate(equation.replace(params=params), [whole(values[0])])
        if equation.primitive.name in ELEMENTWISE and any(isinstance(x, Spread) for x in values):
            rows = [x.own if isinstance(x, Spread) else x for x in values]
            if all(isinstance(x, Spread) or jnp.ndim(x) == 0 for x in values):
                return _jax.evaluate(equation, rows)
        return None

    def _stacked(self, equation: JaxprEqn, values: list[Any]) -> list[Any]:
        primitive = equation.primitive
        if primitive in COMMUNICATION:
            raise refused(equation, "expected a server value, got a value at the clients")
        if primitive in CUSTOM_RULES:
            raise refused(
                equation, "has its own derivative rule around clients' values. Call it in map_fn"
            )
        if primitive.name in ELEMENTWISE:
            return self._entrywise(equation, values)
        rule = RULES.get(primitive.name)
        if rule is None:
            raise refused(
                equation,
                "may mix the values of clients; outside of drjax.map_fn only arithmetic entry by entry "
                "is translated. Do it inside drjax.map_fn",
            )
        try:
            shape = equation.invars[0].aval.shape  # type: ignore[attr-defined]
            params, axis = rule(equation.params, values[0].axis, shape)
        except Refused as reason:
            raise refused(equation, str(reason)) from None
        own = _jax.evaluate(equation.replace(params=params), [values[0].own])
        return [Stacked(x, axis) for x in own]

    def _entrywise(self, equation: JaxprEqn, values: list[Any]) -> list[Any]:
        axis = next(x.axis for x in values if isinstance(x, Stacked))

        def own(value: Any) -> Any:
            if isinstance(value, Stacked | Spread):
                return stacked_at(value, axis, equation)
            if jnp.ndim(value) == 0:
                return value
            if jnp.shape(value)[axis] == 1:
                return jnp.squeeze(value, axis)
            return stacked_at(value, axis, equation)

        return [Stacked(x, axis) for x in _jax.evaluate(equation, [own(x) for x in values])]
