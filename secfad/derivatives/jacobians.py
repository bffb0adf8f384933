"""Summed local Jacobians: a sum whose derivative travels in the same message.

The sum over clients of c(b), where b was broadcast, becomes a function of b at the server with a
derivative rule of its own: every client sends c(b) and its Jacobian dc/db together. Only blocks that
can be non-zero are sent, each computed in the cheaper direction.

Mixed mode sends the Jacobian of every sum; that of a sum of models by a model is a matrix. Reverse mode
sends cotangents for every sum, each of which may need a further contact with the same clients. Blockwise
mode chooses for each: a loss, or a few metrics, brings its Jacobian along, and a sum with a large
Jacobian is differentiated as it is written. Where the last sums are small and earlier ones are not, that
is one contact less than reverse mode.

A complex value counts as its real and imaginary parts, on a leading axis of two. Over real numbers
every differentiable function has a Jacobian, holomorphic or not, and gradients follow JAX's
conventions, because JAX itself takes the parts.

Source: Rush, Charles, Garrett (JMLR 2024), sections 3.3-3.4 and Table 3.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad import _jax
from secfad.derivatives.slicing import Slice
from secfad.errors import ModeError
from secfad.jaxprs.equations import WHILE, Sum
from secfad.jaxprs.linearity import is_linear
from secfad.primitives import broadcast_p, in_long, sum_p

LARGE_JACOBIAN = 4_000_000
# Under the standard cost model this much upload weighs as much as one contact.
SMALL_BYTES = 250_000
FEW_ROWS = 4
_CUSTOM_VJP = frozenset({_jax.jax_primitives.custom_vjp_call_p})
_LOOPS = frozenset({WHILE})
# What JAX raises where it has no derivative in a direction.
_NO_DERIVATIVE = (TypeError, ValueError, NotImplementedError)


class LargeJacobianWarning(UserWarning):
    """A Jacobian block that every client would send is large; another mode is likely cheaper."""


class NonlinearRuleWarning(UserWarning):
    """A custom rule is not seen to be linear in its cotangent: modes may give different numbers."""


def as_written(local: Slice, step: Sum) -> Callable:
    """The same communication again; normalisation merges the broadcasts with the first ones."""

    def summed(sources: list, constants: list) -> list:
        wires = _received(local, step, sources)
        return _total(step, *_jax.eval_jaxpr(local.jaxpr, (), *wires, *constants))

    return summed


def sum_by_size(name: str, local: Slice, step: Sum) -> Callable:
    """The sum as a function of what was broadcast, with the derivative that suits its size."""
    return sum_with_jacobians(name, local, step) if _is_small(local) else as_written(local, step)


def _is_small(local: Slice) -> bool:
    """Whether the wanted Jacobian of a sum is of at most 250 kB, or has at most four rows."""
    rows, size = 0, 0
    for operand, needs, wanted in zip(local.jaxpr.outvars, local.depends, local.wanted):
        if wanted and any(needs):
            columns = sum(_numbers(v.aval) for v, n in zip(local.jaxpr.invars, needs) if n)
            rows += _numbers(operand.aval)
            number_bytes = jnp.finfo(_jax.spec(operand.aval).dtype).bits // 8
            size += _numbers(operand.aval) * columns * number_bytes
    return rows <= FEW_ROWS or size <= SMALL_BYTES


def _received(local: Slice, step: Sum, sources: list) -> list:
    with _jax.at_line(step.equation):
        return [broadcast_p.bind(s, name=n)[0] for s, n in zip(sources, local.names)]


def _total(step: Sum, *values: Any) -> list:
    with _jax.at_line(step.equation):
        return sum_p.bind(*values, name=step.name)


def sum_with_jacobians(name: str, local: Slice, step: Sum) -> Callable:
    """The sum as a function of what was broadcast, with its derivative from the same message."""
    summed = jax.custom_jvp(as_written(local, step))

    @summed.defjvp
    def derivative(primals, tangents):
        sources, constants = primals
        wires = _received(local, step, sources)
        operands = _jax.eval_jaxpr(local.jaxpr, (), *wires, *constants)
        blocks = _jacobians(name, local, wires, constants, step.name)
        totals = _total(step, *operands, *(in_long(block) for _, _, block in blocks))
        values, jacobians = totals[: len(operands)], totals[len(operands) :]
        moved = [_zero_tangent(v) for v in values]
        for (row, column, _), jacobian in zip(blocks, jacobians):
            tangent = _parts(tangents[0][column])
            product = jnp.tensordot(
                jacobian, tangent, axes=tangent.ndim, precision=jax.lax.Precision.HIGHEST
            )
            moved[row] += _whole(product, values[row].dtype)
        return values, moved

    return summed


def _zero_tangent(value: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        return jnp.zeros_like(value)
    return np.zeros(jnp.shape(value), jax.dtypes.float0)


def _parts(value: Any) -> Any:
    """Real numbers: real and imaginary parts on a leading axis if the value is complex."""
    return jnp.stack([value.real, value.imag]) if jnp.iscomplexobj(value) else value


def _numbers(value: Any) -> int:
    """How many real numbers a value is."""
    return math.prod(value.shape) * (2 if jnp.issubdtype(value.dtype, jnp.complexfloating) else 1)


def _whole(parts: Any, dtype: Any) -> Any:
    """The value of a number type that has these parts."""
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return parts.astype(dtype)
    real = jnp.finfo(dtype).dtype
    return jax.lax.complex(parts[0].astype(real), parts[1].astype(real))


def _jacobians(
    name: str, local: Slice, wires: list, constants: list, message: str
) -> list[tuple[int, int, Any]]:
    """Every non-zero block (operand, source, Jacobian), each in the cheaper direction."""
    blocks = []
    for row, needs in enumerate(local.depends):
        columns = [i for i, need in enumerate(needs) if need]
        if not columns:
            continue
        inputs = [_parts(wires[i]) for i in columns]

        def operand(*chosen, row=row, columns=columns):
            full = list(wires)
            for i, value in zip(columns, chosen):
                full[i] = _whole(value, wires[i].dtype)
            return _parts(_jax.eval_jaxpr(local.jaxpr, (), *full, *constants)[row])

        rows, entries = _numbers(local.jaxpr.outvars[row].aval), sum(map(_numbers, inputs))
        if local.wanted[row]:
            _warn_if_large(name, message, rows, entries)
        jacobian, directions = _taken(name, local, operand, inputs, rows <= entries)
        blocks += [(row, column, block) for column, block in zip(columns, jacobian)]
        back = [i for i, direction in enumerate(directions) if direction is _REVERSE]
        if local.wanted[row] and back and local.contains(_CUSTOM_VJP):
            _warn_if_rule_is_not_linear(name, message, *_by(operand, inputs, back))
    return blocks


_REVERSE, _FORWARD = jax.jacrev, jax.jacfwd


def _by(fun: Callable, inputs: list, chosen: list[int]) -> tuple[Callable, list]:
    """The function of some of its inputs, and these."""

    def of_chosen(*values: Any) -> Any:
        full = list(inputs)
        for i, value in zip(chosen, values):
            full[i] = value
        return fun(*full)

    return of_chosen, [inputs[i] for i in chosen]


def _taken(
    name: str, local: Slice, operand: Callable, inputs: list, is_wide: bool
) -> tuple[list[Any], list[Callable]]:
    """The Jacobian by each input, and the direction in which each was taken.

    Client code may have a derivative in one direction only, which JAX finds out when it takes it:
    what is likely comes first, then the other one, then each input by itself.
    """
    likely = is_wide
    if local.contains(_CUSTOM_VJP) != local.contains(_LOOPS):
        likely = local.contains(_CUSTOM_VJP)
    failures = {}
    for direction in (_REVERSE, _FORWARD) if likely else (_FORWARD, _REVERSE):
        try:
            jacobian = direction(operand, argnums=tuple(range(len(inputs))))(*inputs)
            return list(jacobian), [direction] * len(inputs)
        except _NO_DERIVATIVE as error:
            failures[direction] = error
    if len(inputs) == 1:
        raise ModeError(
            f"JAX has no derivative of the client code of `{name}` in either direction. Reverse: "
            f"{_first_line(failures[_REVERSE])} Forward: {_first_line(failures[_FORWARD])} "
            "Give a custom rule as a custom_jvp, or a loop a fixed number of iterations."
        ) from failures[_REVERSE]
    columns, directions = [], []
    for i in range(len(inputs)):
        column, used = _taken(name, local, *_by(operand, inputs, [i]), is_wide)
        columns, directions = columns + column, directions + used
    return columns, directions


def _first_line(error: Exception) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0].strip()
    return text if text.endswith((".", "!")) else f"{text}."


def _warn_if_large(name: str, message: str, rows: int, columns: int) -> None:
    # The Jacobian of one number is as long as its gradient, which reverse mode sends.
    if rows > 1 and rows * columns > LARGE_JACOBIAN:
        warnings.warn(
            f"Mixed mode of `{name}`: every client sends a Jacobian of {rows} x {columns} = "
            f"{rows * columns:,} numbers with the sum {message!r}. Reverse mode sends {columns:,}; "
            "see secfad.plan.",
            LargeJacobianWarning,
            stacklevel=2,
        )


def _warn_if_rule_is_not_linear(
    name: str, message: str, operand: Callable, inputs: list[Any]
) -> None:
    def pulled_back(cotangent):
        return jax.vjp(operand, *inputs)[1](cotangent)

    shape = jax.eval_shape(operand, *inputs)
    if not is_linear(_jax.make_jaxpr(pulled_back, (shape,))[0]):
        warnings.warn(
            f"`{name}`: client code before the sum {message!r} has a custom_vjp whose backward rule is "
            "not linear in the cotangent, such as a clip, or not seen to be. A Jacobian applies it "
            "to unit cotangents, reverse mode to the cotangents of the program; if it is not linear, "
            "the results differ. Use mode='reverse' if the latter is meant.",
            NonlinearRuleWarning,
            stacklevel=2,
        )
