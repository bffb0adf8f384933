"""Static bounds of `while` loops with a counter and a constant limit.

A loop has a static bound if one carry starts at a constant, grows by a positive constant in every
iteration, and is compared with a constant in the condition or in one of its conjuncts. Every other
loop has none.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from secfad.inner import Jaxpr, JaxprEqn, Literal, Var, equations


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
