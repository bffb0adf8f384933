"""Following: every message that runs is one that the program shows.

Placement, tables, costs and certificates speak of the broadcasts and sums that a walk through a program
finds. A primitive may hide others, in a function that JAX calls when it maps or compiles the primitive. So
what a walk found is marked before a simulation maps it over clients, and no other message passes; and a
program with a primitive that cannot be looked into is mapped and lowered once when it is traced, on
shapes alone, to see whether any message appears.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn
from secfad._jax_interpreters import client_axis, dce, open_client_axis
from secfad.errors import PlacementError
from secfad.jaxprs.equations import CUSTOM_RULES
from secfad.jaxprs.inside import any_inside, communicates, every_equation, is_opaque, with_bodies
from secfad.primitives import COMMUNICATION, HIDDEN, VISIBLE
from secfad.programs.misplacing import hidden, unknown


def marked(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The program in which every message that a walk finds is marked as visible."""
    return ClosedJaxpr(_marked(closed.jaxpr), closed.consts)


def axis_of(closed: ClosedJaxpr) -> Any:
    """The name of the axis of clients over which to map a program in which messages are marked."""
    return open_client_axis if any_inside(closed.jaxpr, _is_communicating_rule) else client_axis


def _is_communicating_rule(equation: JaxprEqn) -> bool:
    return equation.primitive in CUSTOM_RULES and communicates(equation)


def _marked(jaxpr: Jaxpr) -> Jaxpr:
    if not communicates.in_jaxpr(jaxpr):
        return jaxpr

    def seen(equation: JaxprEqn) -> JaxprEqn:
        if equation.primitive in COMMUNICATION:
            return equation.replace(params=equation.params | {VISIBLE: True})
        return with_bodies(equation, _marked) if communicates(equation) else equation

    return jaxpr.replace(eqns=[seen(equation) for equation in jaxpr.eqns])


def require_followed(closed: ClosedJaxpr, at_clients: Sequence[bool]) -> None:
    """Checks that no primitive that cannot be looked into communicates.

    Args:
      closed: The program, placed.
      at_clients: Which of its inputs are at the clients.

    Raises:
      PlacementError: One communicates.
      TracingError: One cannot be mapped over clients or compiled, so that nobody knows.
    """
    if not any(_opaque(closed.jaxpr)):
        return
    # Engines run what a result needs and no more, such as no tangent that nobody reads.
    live = dce(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    opaque = list(_opaque(live))
    if not opaque:
        return
    count = len(live.invars)
    specs = [_jax.spec(v.aval) for v in (*live.invars, *live.constvars)]
    jaxpr = marked(ClosedJaxpr(live, closed.consts)).jaxpr

    def one_client(*values: Any) -> list[Any]:
        return _jax.eval_jaxpr(jaxpr, values[count:], *values[:count])

    axes = [0 if c else None for c in at_clients] + [None] * len(live.constvars)
    clients = jax.vmap(one_client, axes, axis_name=client_axis, axis_size=2)
    stacked = [
        jax.ShapeDtypeStruct((2, *s.shape), s.dtype) if axis == 0 else s
        for s, axis in zip(specs, axes)
    ]
    try:
        jax.jit(clients).lower(*stacked)
    except PlacementError as error:
        if error.kind == HIDDEN:
            raise hidden(*opaque) from error
        raise
    except Exception as error:
        raise unknown(error, *opaque) from error


def _opaque(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    for equation, caller in every_equation(jaxpr):
        if is_opaque(equation):
            yield _jax.with_line(equation, caller) if caller else equation
