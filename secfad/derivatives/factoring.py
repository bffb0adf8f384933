"""Factoring: a server scalar that merely scales what clients add up is applied at the server.

Reverse mode of a scalar loss sends its cotangent c to the clients, who multiply by it and add up:
sum_i c g_i. The g_i do not depend on c, and c sum_i g_i is the same number. So that clients need not
wait for c, which may depend on the sum of the loss itself, nor receive it, a broadcast cotangent of
shape () is replaced by one and the sums are scaled afterwards, if every message that depends on it
is linear in it. The gradient of a scalar loss then needs one contact, with the messages of the loss.

Only cotangents are factored out: what the user's own program sends stays as it was written. Reverse
mode of a program of one contact always does this. For a program of several, "reverse" is the
paper's, contact for contact, and "factored" is reverse mode with factoring.

Source: linearity of `sum`; Rush, Charles, Garrett (JMLR 2024), section 2, Eq. 7.
"""

import functools
import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from secfad.jaxprs.equations import CONTROL_FLOW
from secfad.jaxprs.inside import communicates, variables, with_bodies
from secfad.jaxprs.linearity import Kind, equation_kinds, is_narrow
from secfad.jaxprs.rewriting import renamed
from secfad.primitives import COTANGENT, broadcast_p, sum_p
from secfad.programs.normalization import normalise


def factored(fun: Callable, specs: Sequence[Any]) -> tuple[ClosedJaxpr, Any]:
    """Traces a function, as `make_jaxpr` does, and moves scalar cotangents from clients to the server."""
    source, tree = _jax.make_jaxpr(fun, specs)
    normal = normalise(source, erase_rules=False)
    return ClosedJaxpr(factor_scalars(normal.jaxpr), normal.consts), tree


def factor_scalars(jaxpr: Jaxpr) -> Jaxpr:
    """Moves scalar cotangents from the messages of the clients to the sums of them.

    Args:
      jaxpr: A program without dead equations, whose communication stands at the top level or
        directly inside control flow.
    """
    equations = [
        with_bodies(e, factor_scalars) if e.primitive in CONTROL_FLOW and communicates(e) else e
        for e in jaxpr.eqns
    ]
    candidates = [
        (operand, result)
        for equation in equations
        if equation.primitive is broadcast_p and equation.params["name"].endswith(COTANGENT)
        for operand, result in zip(equation.invars, equation.outvars)
        if _may_move(result) and not _is_one(operand)
    ]
    if candidates:
        equations = _Factoring(jaxpr, equations).factored(candidates)
    return _jax.new_jaxpr(jaxpr.invars, jaxpr.outvars, equations, jaxpr.constvars)


class _Factoring:
    """The equations of one program, and who reads each variable."""

    def __init__(self, jaxpr: Jaxpr, equations: Sequence[JaxprEqn]):
        self.equations = list(equations)
        self.results = {*variables(jaxpr.outvars)}
        self.readers: dict[Var, list[int]] = {}
        # What scatters of a transposed lookup start from: linear plus zero is linear.
        self.zeros = {
            e.outvars[0]: Kind.ZERO
            for e in equations
            if e.primitive.name == "broadcast_in_dim" and _kind(e.invars[0], {}) is Kind.ZERO
        }
        for index, equation in enumerate(equations):
            for variable in variables(equation.invars):
                self.readers.setdefault(variable, []).append(index)

    def factored(self, candidates: Iterable[tuple[Any, Var]]) -> list[JaxprEqn]:
        """The equations with as many scalars factored out as possible."""
        ones: dict[Var, Literal] = {}
        scales: dict[Var, list[Any]] = {}
        for scalar, received in candidates:
            scaled = self._scaled_by(received)
            if scaled is not None:
                ones[received] = Literal(np.ones((), received.aval.dtype), received.aval)  # type: ignore[union-attr]
                for result in scaled:
                    scales.setdefault(result, []).append(scalar)
        done: list[JaxprEqn] = []
        for equation in self.equations:
            invars = [ones.get(v, v) if isinstance(v, Var) else v for v in equation.invars]
            equation = equation.replace(invars=invars)
            done += _rescaled(equation, scales) if equation.primitive is sum_p else [equation]
        return done

    def _scaled_by(self, received: Var) -> list[Var] | None:
        """The sums that are linear in a client's copy of a scalar; None if not all uses are."""
        env = self.zeros | {received: Kind.LINEAR}
        waiting = list(dict.fromkeys(self.readers.get(received, ())))
        heapq.heapify(waiting)
        seen, scaled = set(waiting), []
        while waiting:
            equation = self.equations[heapq.heappop(waiting)]
            given = [_kind(v, env) for v in equation.invars]
            out = equation_kinds(equation, given)
            moving = [v for v, kind in zip(equation.outvars, out) if kind is Kind.LINEAR]
            if Kind.OTHER in out or any(map(is_narrow, moving)):
                return None
            if equation.primitive is sum_p:
                scaled += moving
                continue
            if communicates(equation) or not self.results.isdisjoint(moving):
                return None
            env.update(zip(equation.outvars, out))
            for index in (i for v in moving for i in self.readers.get(v, ())):
                if index not in seen:
                    seen.add(index)
                    heapq.heappush(waiting, index)
        return scaled


def _may_move(received: Any) -> bool:
    """True for real scalars of a large range."""
    spec = _jax.spec(received.aval)
    real = jnp.issubdtype(spec.dtype, jnp.floating)
    return spec.shape == () and real and not is_narrow(received)


def _is_one(atom: Any) -> bool:
    return isinstance(atom, Literal) and bool(np.all(atom.val == 1))


def _kind(atom: Any, env: dict[Var, Kind]) -> Kind:
    if isinstance(atom, Literal):
        return Kind.CONSTANT if np.any(atom.val) else Kind.ZERO
    return env.get(atom, Kind.CONSTANT)


def _rescaled(equation: JaxprEqn, scales: dict[Var, list[Any]]) -> list[JaxprEqn]:
    """A sum, and the products of its results with the scalars that were factored out of them."""
    outvars = [Var(v.aval) if v in scales else v for v in equation.outvars]
    done = [equation.replace(outvars=outvars)]
    for unscaled, result in zip(outvars, equation.outvars):
        factors = scales.get(result, [])
        if factors:
            done += _product(unscaled, factors, result, equation)
    return done


@functools.lru_cache(maxsize=256)
def _multiplication(specs: tuple[jax.ShapeDtypeStruct, ...]) -> ClosedJaxpr:
    """The program that multiplies a value by scalars."""

    def multiply(value, *scalars):
        dtype = value.dtype
        for scalar in scalars:
            value = value * scalar
        return value.astype(dtype)

    return _jax.make_jaxpr(multiply, specs)[0]


def _product(unscaled: Var, factors: Sequence[Any], result: Var, equation: JaxprEqn) -> list:
    operands = (unscaled, *factors)
    body = _multiplication(tuple(_jax.spec(v.aval) for v in operands))
    fresh = renamed(body, operands).jaxpr
    last = {fresh.outvars[0]: result}
    return [
        inner.replace(
            outvars=[last.get(v, v) for v in inner.outvars], source_info=equation.source_info
        )
        for inner in fresh.eqns
    ]
