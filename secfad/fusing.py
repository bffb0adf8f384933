"""Fusing: what every client computes and sends, as one program for many clients at once.

The program of one client is mapped over a leading axis of clients. Its sums reduce that axis, and
what is only added up is contracted over it (`secfad.contractions`). A simulation fuses a whole program
over all clients, or one contact over a chunk of them: the same function of a program does both.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn, Var
from secfad.blocks import Sum
from secfad.contractions import contract
from secfad.primitives import sum_p
from secfad.stages import Round

_jax.hide_file_from_tracebacks(__file__)


def over_clients(
    closed: ClosedJaxpr, mapped: Sequence[bool], stacked: Sequence[bool], clients: int | None = None
) -> Callable[..., list[Any]]:
    """The program of one client as a function of the values of many.

    Args:
      closed: The program, without dead equations.
      mapped: Which arguments differ between clients and have a leading axis of them.
      stacked: Which results shall have one; the others are alike for all clients.
      clients: How many there are; needed where nothing is mapped.
    """
    source = contract(closed, mapped)
    one_client = functools.partial(_jax.eval_jaxpr, source.jaxpr, source.consts)
    return mapped_over_clients(one_client, mapped, stacked, clients)


def mapped_over_clients(
    one_client: Callable[..., list[Any]],
    mapped: Sequence[bool],
    stacked: Sequence[bool],
    clients: int | None = None,
) -> Callable[..., list[Any]]:
    """`over_clients` for a function that communicates, without contractions."""
    return jax.vmap(
        one_client,
        in_axes=[0 if m else None for m in mapped],
        out_axes=[0 if s else None for s in stacked],
        axis_name=_jax.client_axis,
        axis_size=clients,
    )


def contact(item: Round, kept: Sequence[Var]) -> ClosedJaxpr:
    """What one client computes and sends in a round: first its sums' results, then what it keeps."""
    stage = item.client
    sent = [v for m in item.uploads for v in m.inputs if isinstance(v, Var)]
    results = [v for m in item.uploads for v in m.outputs]
    made = {*stage.jaxpr.constvars, *(v for e in stage.jaxpr.eqns for v in e.outvars)}
    inputs = dict.fromkeys([*stage.inputs, *(v for v in sent if v not in made)])
    equations = [*stage.jaxpr.eqns, *map(_equation, item.uploads)]
    jaxpr = _jax.new_jaxpr(list(inputs), [*results, *kept], equations, stage.jaxpr.constvars)
    return ClosedJaxpr(jaxpr, stage.constants)


def _equation(message: Sum) -> JaxprEqn:
    specs = [_jax.spec(v.aval) for v in message.inputs]
    made = _jax.make_jaxpr(functools.partial(sum_p.bind, name=message.name), specs)[0].jaxpr.eqns[0]
    return made.replace(invars=list(message.inputs), outvars=list(message.outputs))
