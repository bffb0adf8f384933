"""Loops: the limit of a counted one, and the carries that change from iteration to iteration.

A `while` loop has a static limit if one carry starts at a constant, grows by a positive constant in
every iteration, and is compared with a constant in the condition or in one of its conjuncts. Every
other loop has none.

Each iteration of a loop over the axis of clients is one client. A carry that the body returns
unchanged is the same constant for all clients. A carry that changes from row to row reveals how many
clients came before, so every value that depends on it depends on the position of the client. The
dependences are read from the body, through its calls, branches and loops.

>>> import jax
>>> body = jax.make_jaxpr(lambda kept, count, row: (kept, count + 1, row * kept))(1.0, 0, 2.0)
>>> changing_carries(body.jaxpr, constants=0, carries=2)
[False, True]
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from audits.transfer import registry
from secfad.inner import DEPENDENCE, Jaxpr, JaxprEqn, Literal, Var, equations

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
    return [bool(m) for m in DEPENDENCE.results(jaxpr, flags)[len(carries) :]]


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


@dataclasses.dataclass(frozen=True)
class Bound:
    """At most `iterations`; exactly that many if the counter alone decides."""

    iterations: int
    exact: bool


def loop_bound(equation: JaxprEqn) -> Bound | None:
    """The static bound of a `while` equation, or None."""
    loop = equations.viewed(equation, equations.While)
    test, body = loop.predicate.jaxpr, loop.body.jaxpr
    conditions = _conjuncts(test)
    for position, start in enumerate(loop.carry):
        counter = test.invars[len(loop.predicate_consts) + position]
        step = _increment(body, len(loop.body_consts) + position, position)
        if not isinstance(start, Literal) or step is None:
            continue
        for condition in conditions:
            limit = _limit(condition, counter)
            if limit is not None and limit + step <= _largest(counter):
                count = math.ceil((limit - float(start.val)) / step)
                return Bound(max(count, 0), exact=len(conditions) == 1)
    return None


def _largest(counter: Var) -> float:
    """The largest number of a counter's dtype; a counter that wraps around has no limit."""
    dtype: Any = counter.aval.dtype  # type: ignore[attr-defined]
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else -math.inf


def _definitions(jaxpr: Jaxpr) -> dict[Var, JaxprEqn]:
    return {v: e for e in jaxpr.eqns for v in e.outvars}


def _conjuncts(test: Jaxpr) -> list[JaxprEqn | None]:
    """The conjuncts of the condition; None for one that no equation of the condition computes."""
    made = _definitions(test)
    pending: list[Any] = [test.outvars[0]]
    found: list[JaxprEqn | None] = []
    while pending:
        atom = pending.pop()
        equation = made.get(atom) if isinstance(atom, Var) else None
        if equation is not None and equation.primitive.name in ("and", "convert_element_type"):
            pending.extend(equation.invars)
        else:
            found.append(equation)
    return found


def _limit(condition: JaxprEqn | None, counter: Var) -> float | None:
    """The exclusive upper limit of an integer counter from a comparison."""
    name = "" if condition is None else condition.primitive.name
    if condition is None or name not in ("lt", "le", "gt", "ge"):
        return None
    left, right = condition.invars
    if name in ("gt", "ge"):
        left, right = right, left
    if left is not counter or not isinstance(right, Literal):
        return None
    return float(right.val) + (1.0 if name in ("le", "ge") else 0.0)


def _increment(body: Jaxpr, incoming: int, outgoing: int) -> float | None:
    """The positive integer constant that one iteration adds to a carry."""
    out = body.outvars[outgoing]
    equation = _definitions(body).get(out) if isinstance(out, Var) else None
    if equation is None or equation.primitive.name != "add":
        return None
    left, right = equation.invars
    if isinstance(left, Literal):
        left, right = right, left
    if left is not body.invars[incoming] or not isinstance(right, Literal):
        return None
    value = np.asarray(right.val)
    return float(value) if value.dtype.kind in "iu" and value > 0 else None
