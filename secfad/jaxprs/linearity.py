"""Linearity: which results of a traced function are linear in some of its inputs.

Linear means over the real numbers: the real part of a complex value is linear, and yet a complex
factor cannot be taken out of it.

A forward pass over the equations with four kinds of values: *constant* (does not depend on the
inputs in question), *zero*, *linear* and *other*. Sound, not complete: what it calls linear is.
"""

import enum
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from secfad.jaxprs.equations import COND, LINEAR_SOLVE, SCAN, WHILE, as_call
from secfad.primitives import COMMUNICATION


class Kind(enum.IntEnum):
    """How a value depends on the inputs in question; the larger the less is known."""

    ZERO = 0
    CONSTANT = 1
    LINEAR = 2
    OTHER = 3


# Linear in all operands together.
_SUMS = frozenset(
    {
        *("add", "sub", "add_any", "neg", "concatenate", "pad", "reshape"),
        *("broadcast_in_dim", "squeeze", "expand_dims", "transpose", "reduce_sum", "slice", "rev"),
        *("copy", "copy_p", "real", "imag", "cumsum", "reduce_window_sum", "stop_gradient"),
        *("split", "stack", "unstack"),
    }
)
# Linear in each of the first two operands, if the other one is constant.
_PRODUCTS = frozenset({"mul", "dot_general", "conv_general_dilated"})
# Linear in all operands but the first together, if that is constant. The second is Equinox's.
_CHOICES = frozenset({"select_n", "select_if_vmap"})
# Linear in the first operand, if the others are constant.
_FIRST = frozenset(
    {
        *("div", "gather", "dynamic_slice", "integer_pow", "reduce_precision"),
        "select_and_scatter_add",
    }
)
# Linear in operands 0 and 2 (scatters) or 0 and 1 (update), if the indices are constant.
_UPDATES = {"scatter-add": (0, 2), "scatter": (0, 2), "dynamic_update_slice": (0, 1)}


def kinds(closed: ClosedJaxpr, inputs: Sequence[Kind]) -> list[Kind]:
    """The kind of every result, given those of the inputs."""
    env: dict[Var, Kind] = dict(zip(closed.jaxpr.invars, inputs))
    for variable, value in zip(closed.jaxpr.constvars, closed.consts):
        env[variable] = _constant(value)
    return _jaxpr(closed.jaxpr, env)


def is_linear(closed: ClosedJaxpr) -> bool:
    """True if every result is certainly linear in all inputs together."""
    return all(
        kind in (Kind.ZERO, Kind.LINEAR)
        for kind in kinds(closed, [Kind.LINEAR] * len(closed.jaxpr.invars))
    )


def equation_kinds(equation: JaxprEqn, given: Sequence[Kind]) -> list[Kind]:
    """The kind of every result of one equation, given those of its operands."""
    return _equation(equation, list(given))


def _constant(value) -> Kind:
    concrete = not isinstance(value, jax.Array)
    return Kind.ZERO if concrete and not np.any(np.asarray(value)) else Kind.CONSTANT


def _jaxpr(jaxpr: Jaxpr, env: dict[Var, Kind]) -> list[Kind]:
    def kind(atom) -> Kind:
        return _constant(atom.val) if isinstance(atom, Literal) else env[atom]

    for equation in jaxpr.eqns:
        env.update(zip(equation.outvars, _equation(equation, [kind(v) for v in equation.invars])))
    return [kind(v) for v in jaxpr.outvars]


def _equation(equation: JaxprEqn, given: list[Kind]) -> list[Kind]:
    count = len(equation.outvars)
    primitive, name = equation.primitive, equation.primitive.name
    if primitive in COMMUNICATION or name in ("optimization_barrier", "device_put"):
        return given
    if primitive is SCAN:
        return _scan(equation, given)
    if primitive is WHILE:
        return _while(equation, given)
    if primitive is COND:
        rows = [kinds(b, given[1:]) for b in equation.params["branches"]]
        joined = [_join(*column) for column in zip(*rows)]
        return joined if given[0] <= Kind.CONSTANT else [Kind.OTHER] * count
    call = as_call(equation)
    if call is not None and primitive is LINEAR_SOLVE:
        matrix, right_hand_side = given[:-count], given[-count:]
        linear = max(matrix, default=Kind.ZERO) <= Kind.CONSTANT
        return [_join(*right_hand_side) if linear else Kind.OTHER] * count
    if call is not None:
        return kinds(call.body, given)
    return [_simple(name, equation, given)] * count


def _simple(name: str, equation: JaxprEqn, given: list[Kind]) -> Kind:
    most = max(given, default=Kind.CONSTANT)
    if name in _SUMS:
        return _join(*given)
    if name in _PRODUCTS:
        return Kind.ZERO if Kind.ZERO in given else _product(*given[:2])
    if most <= Kind.CONSTANT:
        return Kind.CONSTANT
    if name in _CHOICES and given[0] <= Kind.CONSTANT:
        return _join(*given[1:])
    if name == "convert_element_type":
        return given[0] if jnp.issubdtype(equation.params["new_dtype"], np.inexact) else Kind.OTHER
    if name in _FIRST and max(given[1:], default=Kind.ZERO) <= Kind.CONSTANT:
        # A look-up may fill in a number for what is out of bounds; NaN stays NaN.
        special = equation.params.get("y", 1) != 1 or equation.params.get("fill_value")
        return Kind.OTHER if special else given[0]
    if name in _UPDATES:
        moved = _UPDATES[name]
        others = [k for i, k in enumerate(given) if i not in moved]
        if max(others, default=Kind.ZERO) <= Kind.CONSTANT:
            return _join(*(given[i] for i in moved))
    return Kind.OTHER


def _join(*given: Kind) -> Kind:
    """The kind of a sum, or of a choice: linear plus constant is neither."""
    present = set(given) - {Kind.ZERO}
    if not present:
        return Kind.ZERO
    return present.pop() if len(present) == 1 else Kind.OTHER


def _product(first: Kind, second: Kind) -> Kind:
    if Kind.OTHER in (first, second) or first is second is Kind.LINEAR:
        return Kind.OTHER
    return max(first, second)


def _scan(equation: JaxprEqn, given: list[Kind]) -> list[Kind]:
    params = equation.params
    first, split = params["num_consts"], params["num_consts"] + params["num_carry"]
    carry = given[first:split]
    while True:
        out = kinds(params["jaxpr"], [*given[:first], *carry, *given[split:]])
        joined = [_join(a, b) for a, b in zip(carry, out)]
        if joined == carry:
            return out
        carry = joined


def _while(equation: JaxprEqn, given: list[Kind]) -> list[Kind]:
    params = equation.params
    first = params["cond_nconsts"]
    start = first + params["body_nconsts"]
    carry = given[start:]
    while True:
        out = kinds(params["body_jaxpr"], [*given[first:start], *carry])
        joined = [_join(a, b) for a, b in zip(carry, out)]
        if joined == carry:
            break
        carry = joined
    # How often it runs must not depend on what it is linear in.
    (going_on,) = kinds(params["cond_jaxpr"], [*given[:first], *carry])
    return carry if going_on <= Kind.CONSTANT else [Kind.OTHER] * len(carry)
