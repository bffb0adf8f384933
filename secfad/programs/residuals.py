"""Branch residuals: one result of a `cond` that holds a server value or a client value.

JAX's reverse mode, used inside a computation, saves what each branch needs for its derivative.
Branches share the slots in which they save, by shape alone, so that a slot may hold a server value if
the first branch was taken and a client value if the second was. Such a slot has no placement. Here
it becomes one slot per branch, each filled by its own branch and read by the same branch of the
derivative's `cond`, which is decided by the same value.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Var


def split_results(
    equation: JaxprEqn, positions: Sequence[int]
) -> tuple[JaxprEqn, dict[Var, list[Var]]]:
    """A cond with one result per branch in place of each of these results.

    Returns:
      The new equation, and for every result that was split its parts, one per branch.
    """
    branches = equation.params["branches"]
    parts = {i: [Var(equation.outvars[i].aval) for _ in branches] for i in positions}
    outvars = _spliced(equation.outvars, parts)
    bodies = tuple(_filling(body, number, parts) for number, body in enumerate(branches))
    split = equation.replace(outvars=outvars, params=equation.params | {"branches": bodies})
    return split, {equation.outvars[i]: row for i, row in parts.items()}


def split_operands(equation: JaxprEqn, parts: Mapping[Var, Sequence[Var]]) -> JaxprEqn:
    """A cond in which every branch reads its own part of each operand that was split."""
    rows = {
        i: list(parts[v])
        for i, v in enumerate(equation.invars)
        if isinstance(v, Var) and v in parts
    }
    bodies = []
    for number, body in enumerate(equation.params["branches"]):
        inner = {}
        for position, row in rows.items():
            own = body.jaxpr.invars[position - 1]
            inner[position - 1] = [own if i == number else Var(own.aval) for i, _ in enumerate(row)]
        jaxpr = body.jaxpr
        invars = _spliced(jaxpr.invars, inner)
        fresh = _jax.new_jaxpr(invars, jaxpr.outvars, jaxpr.eqns, jaxpr.constvars)
        bodies.append(ClosedJaxpr(fresh, body.consts))
    return equation.replace(
        invars=_spliced(equation.invars, rows),
        params=equation.params | {"branches": tuple(bodies)},
    )


def _spliced(items: Sequence, rows: Mapping[int, Sequence]) -> list:
    return [part for i, item in enumerate(items) for part in rows.get(i, [item])]


def _filling(body: ClosedJaxpr, number: int, parts: Mapping[int, Sequence[Var]]) -> ClosedJaxpr:
    """A branch that fills its own part of each split result and leaves the others zero."""
    jaxpr: Jaxpr = body.jaxpr
    equations, rows = list(jaxpr.eqns), {}
    for position, row in parts.items():
        aval = row[0].aval
        zero = _jax.make_jaxpr(lambda a=aval: jnp.zeros(a.shape, a.dtype), ())[0].jaxpr
        equations += zero.eqns
        empty = zero.outvars[0]
        rows[position] = [
            jaxpr.outvars[position] if i == number else empty for i, _ in enumerate(row)
        ]
    outvars = _spliced(jaxpr.outvars, rows)
    fresh = _jax.new_jaxpr(jaxpr.invars, outvars, equations, jaxpr.constvars)
    return ClosedJaxpr(fresh, body.consts)
