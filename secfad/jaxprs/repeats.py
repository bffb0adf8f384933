"""Repeats: operations of one form become calls of one `jit`, whose derivative JAX makes once.

JAX differentiates a program equation by equation, each as if it were the first of its form, but
remembers the derivative of a `jit`. A long program consists of few forms. So an operation that occurs
often is called through a `jit` that JAX puts inline again when it traces: the result is the same
program, made in less time.

>>> import jax, jax.numpy as jnp
>>> program = jax.make_jaxpr(lambda x: jnp.sin(jnp.sin(jnp.sin(x))))(1.0)
>>> called = with_shared_operations(program, often=3)
>>> [e.primitive.name for e in called.eqns], len({id(e.params["jaxpr"]) for e in called.eqns})
(['jit', 'jit', 'jit'], 1)
"""

from collections import Counter
from typing import Any

import jax
import numpy as np

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn, Var
from secfad.jaxprs.equations import VIEWS
from secfad.jaxprs.inside import variables

# Uses from which on a form is worth a program of its own.
OFTEN = 4


def with_shared_operations(closed: ClosedJaxpr, often: int = OFTEN) -> ClosedJaxpr:
    """The program with calls in place of what it computes often; for JAX to differentiate.

    Args:
      closed: The program. Messages, calls and control flow stay as they are.
      often: How many equations of one form there must be.

    Returns:
      The program; under `jax.disable_jit`, where there are no calls to share, the given one.
    """
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        return closed
    forms = [_form(equation) for equation in closed.jaxpr.eqns]
    counts = Counter(forms)
    calls: dict[Any, JaxprEqn] = {}
    equations = []
    for equation, form in zip(closed.jaxpr.eqns, forms):
        if form is not None and counts[form] >= often:
            if form not in calls:
                calls[form] = _inline_call(equation)
            shared = calls[form]
            operands = list(dict.fromkeys(variables(equation.invars)))
            equation = equation.replace(
                primitive=shared.primitive, params=shared.params, invars=operands
            )
        equations.append(equation)
    return ClosedJaxpr(closed.jaxpr.replace(eqns=equations), closed.consts)


def _form(equation: JaxprEqn) -> tuple | None:
    """What two equations have in common that compute the same of their operands; None to share none."""
    if equation.primitive in VIEWS or equation.effects:
        return None
    places: dict[Var, int] = {}
    operands: list[tuple] = []
    for atom in equation.invars:
        if isinstance(atom, Var):
            operands.append((places.setdefault(atom, len(places)), atom.aval))
        else:
            operands.append((np.asarray(atom.val).tobytes(), atom.aval))
    params = tuple((key, _exact(value)) for key, value in equation.params.items())
    form = (equation.primitive, params, tuple(operands), equation.ctx)
    try:
        hash(form)
    except TypeError:  # An array, or an object of somebody's.
        return None
    return form


def _exact(value: Any) -> Any:
    """The parameter, so that only equal ones are equal: not 0.0 and -0.0."""
    if type(value) is tuple:
        return tuple(map(_exact, value))
    return repr(value) if isinstance(value, float | complex) else (type(value), value)


def _inline_call(equation: JaxprEqn) -> JaxprEqn:
    """A `jit` of one equation, over its variables in order, that JAX puts inline when it traces."""
    operands = list(dict.fromkeys(variables(equation.invars)))
    jaxpr = _jax.new_jaxpr(operands, equation.outvars, [_jax.without_line(equation)])
    call = jax.jit(lambda *values: _jax.eval_jaxpr(jaxpr, (), *values))
    (made,) = _jax.make_jaxpr(call, [_jax.spec(v.aval) for v in operands])[0].eqns
    return made.replace(params=made.params | {"inline": True})
