"""Carries of a loop over the axis of clients: a carry that changes counts the clients.

Each iteration of such a loop is one client. A carry that the body returns unchanged is the same
constant for all clients. A carry that changes from row to row reveals how many clients came before,
so every value that depends on it depends on the position of the client. The dependences are read
from the body, through its calls, branches and loops.

>>> import jax
>>> body = jax.make_jaxpr(lambda kept, count, row: (kept, count + 1, row * kept))(1.0, 0, 2.0)
>>> changing_carries(body.jaxpr, constants=0, carries=2)
[False, True]
"""

from collections.abc import Sequence
from typing import Any

from audits.transfer import registry
from secfad.inner import Jaxpr, JaxprEqn, Literal, dependent_results, equations

# Elementwise operations that do not change their operand.
_COPIES = frozenset({"copy", "stop_gradient"})


def changing_carries(jaxpr: Jaxpr, *, constants: int, carries: int) -> list[bool]:
    """The carries that the body does not return unchanged."""
    origins = passed_on(jaxpr)
    return [origins[k] != constants + k for k in range(carries)]


def counted(jaxpr: Jaxpr, carries: Sequence[bool], *, constants: int) -> list[bool]:
    """The results of the body, after its carries, that depend on the marked carries."""
    behind = len(jaxpr.invars) - constants - len(carries)
    flags = [*[False] * constants, *carries, *[False] * behind]
    return [bool(m) for m in dependent_results(jaxpr, flags)[len(carries) :]]


def passed_on(jaxpr: Jaxpr) -> list[int | None]:
    """For each result of a program the input that it equals; None for any other value."""
    origin: dict[Any, int] = {v: k for k, v in enumerate(jaxpr.invars)}
    for equation in jaxpr.eqns:
        for variable, atom in zip(equation.outvars, _sources(equation)):
            if atom is not None and not isinstance(atom, Literal) and atom in origin:
                origin[variable] = origin[atom]
    return [None if isinstance(v, Literal) else origin.get(v) for v in jaxpr.outvars]


def _sources(equation: JaxprEqn) -> Sequence[Any]:
    """For each result of an equation the operand that it equals; None for any other value."""
    family = registry.family(equation.primitive, style="native")
    if family == "identity" or (family == "elementwise" and equation.primitive.name in _COPIES):
        return equation.invars
    match equations.view(equation):
        case equations.Cond(operands=operands, branches=branches):
            rows = [passed_on(branch.jaxpr) for branch in branches]
            same = [column[0] if len(set(column)) == 1 else None for column in zip(*rows)]
            return [None if k is None else operands[k] for k in same]
        case equations.Call(operands=operands, body=body) if len(operands) == len(
            body.jaxpr.invars
        ):
            return [None if k is None else operands[k] for k in passed_on(body.jaxpr)]
    return [None] * len(equation.outvars)
