"""Linearity: which results of a traced function are linear in some of its inputs.

Linear means over the real numbers: the real part of a complex value is linear, and yet a complex
factor cannot be taken out of it.

A dataflow analysis with four kinds of values: *constant* (does not depend on the inputs in
question), *zero*, *linear* and *other*. Sound, not complete: what it calls linear is.
"""

import enum
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn
from secfad.jaxprs.dataflow import Dataflow
from secfad.jaxprs.dependence import is_differentiable
from secfad.jaxprs.equations import Atom, Solve


class Kind(enum.IntEnum):
    """How a value depends on the inputs in question; the larger the less is known."""

    ZERO = 0
    CONSTANT = 1
    LINEAR = 2
    OTHER = 3


# Linear in all operands together, whatever their parameters.
SUMS = frozenset(
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


def is_linear(closed: ClosedJaxpr) -> bool:
    """True if every result is certainly linear in all inputs together."""
    found = _KINDS.results(closed, [Kind.LINEAR] * len(closed.jaxpr.invars))
    return all(kind in (Kind.ZERO, Kind.LINEAR) for kind in found)


def equation_kinds(equation: JaxprEqn, given: Sequence[Kind]) -> list[Kind]:
    """The kind of every result of one equation, given those of its operands."""
    return _KINDS.outputs(equation, list(given))


def is_narrow(atom: Atom) -> bool:
    """True for floating-point numbers of less range than float32: a sum may overflow, or a scale."""
    dtype = _jax.spec(atom.aval).dtype
    return is_differentiable(atom) and jnp.finfo(dtype).maxexp < jnp.finfo(jnp.float32).maxexp


class _Kinds(Dataflow[Kind]):
    bottom = Kind.ZERO

    def join(self, first: Kind, second: Kind) -> Kind:
        """The kind of a sum, or of a choice: linear plus constant is neither."""
        return first if second in (first, Kind.ZERO) else second if not first else Kind.OTHER

    def constant(self, value: object) -> Kind:
        concrete = not isinstance(value, jax.Array)
        return Kind.ZERO if concrete and not np.any(np.asarray(value)) else Kind.CONSTANT

    def solve(self, solve: Solve, given: list[Kind]) -> list[Kind]:
        right_hand_side = solve.regions(given)["right"]
        matrix = given[: -len(right_hand_side)]
        linear = max(matrix, default=Kind.ZERO) <= Kind.CONSTANT
        return [self.joined(right_hand_side) if linear else Kind.OTHER] * len(right_hand_side)

    def decided(self, by: Kind, results: list[Kind]) -> list[Kind]:
        # Neither a choice nor how often a loop runs may depend on what the results are linear in.
        return results if by <= Kind.CONSTANT else [Kind.OTHER] * len(results)

    def transfer(self, equation: JaxprEqn, given: list[Kind]) -> list[Kind]:
        if equation.primitive.name in ("optimization_barrier", "device_put"):
            return given
        return [self._simple(equation.primitive.name, equation, given)] * len(equation.outvars)

    def _simple(self, name: str, equation: JaxprEqn, given: list[Kind]) -> Kind:
        most = max(given, default=Kind.CONSTANT)
        if name in SUMS:
            return self.joined(given)
        if name in _PRODUCTS:
            return Kind.ZERO if Kind.ZERO in given else _product(*given[:2])
        if most <= Kind.CONSTANT:
            return Kind.CONSTANT
        if name in _CHOICES and given[0] <= Kind.CONSTANT:
            return self.joined(given[1:])
        if name == "convert_element_type":
            return (
                given[0] if jnp.issubdtype(equation.params["new_dtype"], np.inexact) else Kind.OTHER
            )
        if name in _FIRST and max(given[1:], default=Kind.ZERO) <= Kind.CONSTANT:
            # A look-up may fill in a number for what is out of bounds; NaN stays NaN.
            special = equation.params.get("y", 1) != 1 or equation.params.get("fill_value")
            return Kind.OTHER if special else given[0]
        if name in _UPDATES:
            moved = _UPDATES[name]
            others = [k for i, k in enumerate(given) if i not in moved]
            if max(others, default=Kind.ZERO) <= Kind.CONSTANT:
                return self.joined(given[i] for i in moved)
        return Kind.OTHER


def _product(first: Kind, second: Kind) -> Kind:
    if Kind.OTHER in (first, second) or first is second is Kind.LINEAR:
        return Kind.OTHER
    return max(first, second)


_KINDS = _Kinds()
