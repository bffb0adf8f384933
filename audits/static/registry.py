"""Which primitives the checker knows, by identity, and the family whose rule each one follows.

A primitive is recognised by being the very object that JAX (or secfad) registered, never by its name
alone: anybody can make a primitive called `add`. JAX keeps a few primitives out of its public
modules; they are found by tracing a tiny program that contains them. DrJAX makes new primitive
objects for every decorated program, so these are recognised by their implementation, which must be
the code object that the installed DrJAX defines.

`DECISIONS` holds a family for every name; a primitive without one is denied.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from types import CodeType

import jax
import jax.numpy as jnp

from audits.static.families import DECISIONS
from secfad._jax import ClosedJaxpr, Primitive, jax_primitives, sub_jaxprs
from secfad.clipping import clip_p, clip_rows_p
from secfad.primitives import broadcast_p, sum_p

UNKNOWN, IMPOSTOR = "unknown", "impostor"


def _witnesses() -> list[Callable]:
    """Programs that contain the accepted primitives which no public module exports."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    raw = jax.ShapeDtypeStruct((2,), jnp.uint32)
    x = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    trace = lambda fun, *specs: functools.partial(jax.make_jaxpr(fun), *specs)
    return [
        trace(lambda d: jax.random.wrap_key_data(d), raw),
        trace(jax.random.key_data, key),
        trace(jax.random.clone, key),
        trace(lambda a: jnp.split(a, 2), x),
        trace(lambda a: jnp.stack([a, a]), x),
        trace(lambda a: jax.lax.optimization_barrier(a), x),
        trace(lambda a: jax.scipy.linalg.lu_factor(a)[0], x),
        trace(lambda a: jax.vjp(_choice, a)[0], x),
    ]


def _choice(a):
    """Its derivative keeps something of one branch only."""
    return jax.lax.cond(a[0, 0] > 0, jnp.sin, lambda b: b, a)


@functools.cache
def _registered() -> Mapping[int, tuple[Primitive, str]]:
    """Identity to primitive and name; the primitive is kept so that its identity stays taken."""
    found: dict[int, tuple[Primitive, str]] = {}
    for module in (jax_primitives, jax.lax, jax.lax.linalg):
        for attribute, value in vars(module).items():
            if attribute.endswith("_p") and isinstance(value, Primitive):
                found[id(value)] = (value, value.name)
    for witness in _witnesses():
        for equation in witness().jaxpr.eqns:
            _collect(equation, found)
    for own in (broadcast_p, sum_p, clip_p, clip_rows_p):
        found[id(own)] = (own, own.name)
    return found


def _collect(equation, found: dict) -> None:
    found.setdefault(id(equation.primitive), (equation.primitive, equation.primitive.name))
    for value in equation.params.values():
        for body in sub_jaxprs(value):
            for inner in body.jaxpr.eqns if isinstance(body, ClosedJaxpr) else body.eqns:
                _collect(inner, found)


def family(primitive: Primitive, *, style: str) -> str:
    """The family of a primitive, `UNKNOWN`, or `IMPOSTOR` for a known name on another object."""
    if style == "drjax":
        found = _drjax_role(primitive)
        if found is not None:
            return found
    decided = DECISIONS.get(primitive.name, UNKNOWN)
    if id(primitive) in _registered():
        return decided
    if decided in REFUSED_BY_NAME:
        return decided
    if primitive.name in DECISIONS or _drjax_name(primitive.name):
        return IMPOSTOR
    return UNKNOWN


# A refusal needs no identity: whoever borrows the name of a refused primitive is refused as well.
REFUSED_BY_NAME = frozenset({"callback", "kernel", "reference", "collective", "refused"})


def _drjax_name(name: str) -> bool:
    return name.startswith(("broadcast_", "sum_from_", "mean_from_")) and name not in DECISIONS


def _drjax_role(primitive: Primitive) -> str | None:
    """`drjax_broadcast`, `drjax_sum` or `drjax_mean` if the installed DrJAX implements it."""
    module = sys.modules.get("drjax._src.primitives")
    impls = sys.modules.get("drjax._src.impls")
    impl = getattr(primitive, "impl", None)
    if module is None or impls is None or impl is None:
        return None
    code = getattr(getattr(impl, "__func__", impl), "__code__", None)
    placed = impls.PlacedComputations
    prefix_of = {
        placed.sum_from_placement.__code__: ("sum_from_", "drjax_sum"),
        placed.mean_from_placement.__code__: ("mean_from_", "drjax_mean"),
    }
    for broadcast_code in _nested_code(module._define_and_register_prims_for_placement.__code__):
        prefix_of.setdefault(broadcast_code, ("broadcast_", "drjax_broadcast"))
    prefix, role = prefix_of.get(code, (None, None)) if isinstance(code, CodeType) else (None, None)
    return role if prefix and primitive.name.startswith(prefix) else None


def _nested_code(code: CodeType) -> list[CodeType]:
    return [
        c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == "broadcast_array_eval"
    ]
