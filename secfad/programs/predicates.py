"""Predicates of loops: one flag that decides for the whole loop.

`vmap` of a `while` whose predicate differs between its entries, as forward mode by several tangents
makes it, gives a loop whose predicate is an array: it runs while any entry is true, and entries that
are done keep their value. The server drives a loop that communicates by one flag, so the keeping is
written out: clients that keep a value from one iteration to the next are told which entries go on.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn
from secfad.jaxprs.equations import While, viewed
from secfad.primitives import broadcast_p

NAME = "unfinished"


def has_one_predicate(equation: JaxprEqn) -> bool:
    """True if a single flag decides whether a `while` goes on."""
    return viewed(equation, While).predicate.out_avals[0].shape == ()


def with_one_predicate(equation: JaxprEqn, at_clients: Sequence[bool]) -> JaxprEqn:
    """The same loop, decided by one flag.

    Args:
      equation: A `while` whose predicate is an array, over leading axes of its carries.
      at_clients: Which carries are client values.
    """
    loop = viewed(equation, While)
    head = len(loop.predicate_consts)

    def predicate(*values: Any) -> Any:
        return jnp.any(_evaluated(loop.predicate, values)[0])

    def step(*values: Any) -> list[Any]:
        first, _, carries = loop.split(values)
        going = _evaluated(loop.predicate, [*first, *carries])[0]
        told = broadcast_p.bind(going, name=NAME)[0] if any(at_clients) else going
        return [
            _chosen(told if client else going, new, old)
            for new, old, client in zip(_evaluated(loop.body, values[head:]), carries, at_clients)
        ]

    return loop.with_(
        predicate=_traced(predicate, [*loop.predicate_consts, *loop.carry]),
        body=_traced(step, equation.invars),
        body_consts=[*loop.predicate_consts, *loop.body_consts],
    )


def _evaluated(body: ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
    return _jax.eval_jaxpr(body.jaxpr, body.consts, *values)


def _chosen(going: Any, new: Any, old: Any) -> Any:
    return jnp.where(going.reshape(going.shape + (1,) * (new.ndim - going.ndim)), new, old)


def _traced(fun: Any, atoms: Sequence[Any]) -> ClosedJaxpr:
    return _jax.make_jaxpr(fun, [_jax.spec(v.aval) for v in atoms])[0]
