"""Turns: a choice inside a loop is made anew in every iteration.

JAX's reverse mode moves what does not change in a loop out of it. Of a choice whose index does not
change that would be what its branches compute before their messages: a choice between client values,
made where nothing tells the clients which one. Here a zero that belongs to the iteration is added to
every index inside a `scan`, so that a choice stays whole, and where it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from secfad.jaxprs.equations import COND, SCAN, Inside, bodies, communicates, with_bodies
from secfad.jaxprs.rewriting import renamed


def with_turns(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The program with every communicating choice inside a `scan` bound to its iteration.

    Args:
      closed: A program in which communication stands at the top level or in control flow; see
        `normalization.normalise`.
    """
    return ClosedJaxpr(_with_turn(closed.jaxpr, None, communicates), closed.consts)


def _with_turn(jaxpr: Jaxpr, turn: Var | None, talks: Inside) -> Jaxpr:
    """A program, given the zero of the iteration in which it stands; None outside of loops."""
    equations: list[JaxprEqn] = []
    for equation in jaxpr.eqns:
        if not _chooses(equation, talks):
            equations.append(equation)
            continue
        operands, zero = list(equation.invars), turn
        if equation.primitive is SCAN:
            equations += _zeros(equation.params["length"], turn)
            zero = equations[-1].outvars[0]
        elif turn is not None:
            equations += _equations(lambda i, zero: i + zero.astype(i.dtype), [operands[0], turn])
            operands[0] = equations[-1].outvars[0]
        if zero is not None:
            operands.append(zero)

        def within(body: Jaxpr, inside: bool = zero is not None) -> Jaxpr:
            own = Var(_NUMBER) if inside else None
            fresh = _with_turn(body, own, talks)
            added = [] if own is None else [own]
            invars = [*fresh.invars, *added]
            return _jax.new_jaxpr(invars, fresh.outvars, fresh.eqns, fresh.constvars)

        equations.append(with_bodies(equation.replace(invars=operands), within))
    return _jax.new_jaxpr(jaxpr.invars, jaxpr.outvars, equations, jaxpr.constvars)


def _chooses(equation: JaxprEqn, talks: Inside) -> bool:
    """True for a choice that communicates, and for a scan with one inside."""
    if equation.primitive is COND:
        return talks(equation)
    return equation.primitive is SCAN and any(
        _chooses(inner, talks) for body in bodies(equation) for inner in body.eqns
    )


_NUMBER = _jax.ShapedArray((), np.dtype(np.int32))


def _zeros(length: int, turn: Var | None) -> list[JaxprEqn]:
    """The zeros of a loop, one per iteration: as new as the loop itself."""
    if turn is None:
        return _equations(lambda: jnp.zeros(length, np.int32), [])
    return _equations(lambda zero: jnp.broadcast_to(zero, (length,)), [turn])


def _equations(fun: Callable, operands: Sequence[Any]) -> list[JaxprEqn]:
    """The equations of a function of these atoms; the last one defines its result."""
    closed = _jax.make_jaxpr(fun, [_jax.spec(v.aval) for v in operands])[0]
    return list(renamed(closed, operands).jaxpr.eqns)
