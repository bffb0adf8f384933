"""The limit of a counted loop, as the certificate states it.

A `while` loop has one if a carry starts at a constant, grows by a positive constant in every
iteration, and is compared with a constant in the condition or in one of its conjuncts.
"""

import math
from typing import NamedTuple

from audits.proofs.programs import Atom, Body, Constant, Equation

_LARGEST = {f"int{b}": 2 ** (b - 1) - 1 for b in (8, 16, 32, 64)} | {
    f"uint{b}": 2**b - 1 for b in (8, 16, 32, 64)
}


class Limit(NamedTuple):
    """At most `iterations`; exactly that many if the counter alone decides."""

    iterations: int
    exact: bool


def limit_of(loop: Equation) -> Limit | None:
    """The limit of a `while` equation; None if nothing limits it."""
    tested, constants, carry = loop.split("cond_nconsts", "body_nconsts")
    test, body = loop.programs["cond_jaxpr"], loop.programs["body_jaxpr"]
    conditions = _conjuncts(test)
    for position, start in enumerate(carry):
        counter = test.inputs[len(tested) + position]
        step = _increment(body, body.inputs[len(constants) + position], body.results[position])
        if not isinstance(start, Constant) or start.number is None or step is None:
            continue
        for condition in conditions:
            limit = _compared(condition, counter)
            largest = _LARGEST.get(test.aval(counter).dtype, -math.inf)
            if limit is not None and limit + step <= largest:
                count = math.ceil((limit - float(start.number)) / step)
                return Limit(max(count, 0), exact=len(conditions) == 1)
    return None


def _definition(body: Body, atom: Atom) -> Equation | None:
    found = [e for e in body.equations if atom in e.outputs] if isinstance(atom, int) else []
    return found[0] if found else None


def _conjuncts(test: Body) -> list[Equation | None]:
    """The conjuncts of the condition; None for one that no equation of the condition computes."""
    pending, found = [test.results[0]], []
    while pending:
        equation = _definition(test, pending.pop())
        if equation is not None and equation.name in ("and", "convert_element_type"):
            pending.extend(equation.inputs)
        else:
            found.append(equation)
    return found


def _compared(condition: Equation | None, counter: int) -> float | None:
    """The exclusive upper limit of a counter from a comparison."""
    name = "" if condition is None else condition.name
    if condition is None or name not in ("lt", "le", "gt", "ge"):
        return None
    left, right = condition.inputs
    if name in ("gt", "ge"):
        left, right = right, left
    if left != counter or not isinstance(right, Constant) or right.number is None:
        return None
    return float(right.number) + (1.0 if name in ("le", "ge") else 0.0)


def _increment(body: Body, incoming: int, result: Atom) -> float | None:
    """The positive whole constant that one iteration adds to a carry."""
    equation = _definition(body, result)
    if equation is None or equation.name != "add":
        return None
    left, right = equation.inputs
    if isinstance(left, Constant):
        left, right = right, left
    if left != incoming or not isinstance(right, Constant) or right.aval.dtype not in _LARGEST:
        return None
    return float(right.number) if right.number is not None and right.number > 0 else None
