"""Rules for `jax.vmap`: those that users wrote never see the axis of clients.

A simulation maps the program of one client over all clients. A rule of a user's, or a function of the
host that takes a whole batch, would get the values of all clients at once and could mix them without
any message. So a `custom_vmap` function is what it computes for one client, and a function of the host
is called for one client after the other. Over axes that a client's own code maps, JAX has applied the
rules when it traced that code.

>>> import jax, jax.numpy as jnp
>>> ruled = jax.custom_batching.custom_vmap(lambda x: 2 * x)
>>> _ = ruled.def_vmap(lambda size, batched, x: (jnp.flip(x), True))
>>> [e.primitive.name for e in without_rules(jax.make_jaxpr(ruled)(1.0)).jaxpr.eqns]
['mul']
"""

from collections.abc import Callable

import jax
import numpy as np

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn, Primitive
from secfad._jax_interpreters import map_clients_by
from secfad.jaxprs.inside import Inside, every_equation
from secfad.jaxprs.rewriting import Rewriter


def _primitive(call: Callable) -> Primitive:
    """The primitive that JAX makes of a call with a number."""
    scalar = jax.ShapeDtypeStruct((), np.float32)
    return next(every_equation(jax.make_jaxpr(call)(scalar).jaxpr))[0].primitive


def _ruled() -> Callable:
    ruled = jax.custom_batching.custom_vmap(lambda x: x)
    ruled.def_vmap(lambda size, batched, x: (x, batched[0]))
    return ruled


# Calls of the host.
_HOST = (
    lambda x: jax.pure_callback(lambda x: x, x, x),
    lambda x: jax.ffi.ffi_call("a function of the host", x)(x),
)
CUSTOM_VMAP = _primitive(_ruled())
_has_rules = Inside(lambda equation: equation.primitive is CUSTOM_VMAP)


def without_rules(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The program with every `custom_vmap` function replaced by what it computes."""
    return _Opening().rewritten(closed) if _has_rules.in_jaxpr(closed.jaxpr) else closed


class _Opening(Rewriter):
    """Replaces `custom_vmap` functions, which take all they capture as operands, by their bodies."""

    def equation(self, equation: JaxprEqn) -> None:
        if equation.primitive is CUSTOM_VMAP:
            body = equation.params["call"]
            self.define(equation, self.inline(body, self.now(equation.invars), equation))
        elif _has_rules(equation):
            self.inside(equation, _Opening)
        else:
            self.copy(equation)


# Derivative rules of users may call such functions when JAX differentiates what is mapped already.
def _own_work(usual, axis, operands, dims, params):
    del usual
    body = params["call"]
    one_client = lambda *own: _jax.eval_jaxpr(body.jaxpr, body.consts, *own)
    results = jax.vmap(one_client, dims, axis_name=axis.name, axis_size=axis.size)(*operands)
    return results, [0] * len(results)


def _one_by_one(usual, axis, operands, dims, params):
    return usual(axis, operands, dims, **params | {"vmap_method": "sequential"})


map_clients_by(CUSTOM_VMAP, _own_work)
for _call in _HOST:
    map_clients_by(_primitive(_call), _one_by_one)
