"""Constants that stay as they were: a program holds copies of the arrays that its function captured.

A captured NumPy array remains its owner's. Written to after the program was certified, it would change
what runs, and not the digest that the certificate is bound to. JAX's own arrays cannot be written to.

Source: docs/decisions/0002-structural-digest.md.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Literal


def with_own_constants(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The same program with copies, not to be written to, of all NumPy arrays in it."""
    return ClosedJaxpr(_program(closed.jaxpr), [_own(c) for c in closed.consts])


def _program(jaxpr: Jaxpr) -> Jaxpr:
    equations = [_equation(equation) for equation in jaxpr.eqns]
    results = [_atom(v) for v in jaxpr.outvars]
    if _same([*equations, *results], [*jaxpr.eqns, *jaxpr.outvars]):
        return jaxpr
    return jaxpr.replace(eqns=equations, outvars=results)


def _same(new: Iterable, old: Iterable) -> bool:
    return all(a is b for a, b in zip(new, old))


def _equation(equation: JaxprEqn) -> JaxprEqn:
    inputs = [_atom(v) for v in equation.invars]
    params = {key: _parameter(value) for key, value in equation.params.items()}
    if _same([*inputs, *params.values()], [*equation.invars, *equation.params.values()]):
        return equation
    return equation.replace(invars=inputs, params=params)


def _parameter(value: Any) -> Any:
    """A parameter with owned constants; the object itself if there are none in it."""
    match value:
        case ClosedJaxpr():
            fresh = with_own_constants(value)
            same = _same([fresh.jaxpr, *fresh.consts], [value.jaxpr, *value.consts])
            return value if same else fresh
        case Jaxpr():
            return _program(value)
        case tuple() if type(value) is tuple:
            items = tuple(_parameter(item) for item in value)
            return value if _same(items, value) else items
        case np.ndarray():
            return _own(value)
    return value


def _atom(atom: Any) -> Any:
    if not isinstance(atom, Literal):
        return atom
    value = _own(atom.val)
    return atom if value is atom.val else Literal(value, atom.aval)


def _own(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        copy = value.copy()
        copy.flags.writeable = False
        return copy
    wrapped = getattr(value, "val", None)  # how JAX before 0.9 keeps a captured array
    return type(value)(_own(wrapped), value.weak_type) if isinstance(wrapped, np.ndarray) else value
