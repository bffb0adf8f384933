"""Whose code a program runs: primitives, random generators and dtypes, known by identity.

A name says nothing: anybody can make a primitive called `add`, or a random generator called
`threefry2x32` whose draws call the host. What JAX or this package defined is recognised by being the
very object that they registered. JAX keeps a few primitives out of its public modules; they are found
by tracing a tiny program that contains them.

>>> import jax
>>> is_key_generator(jax.eval_shape(lambda: jax.random.key(0)).dtype._impl)
True
"""

import functools
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad._jax import KEY_GENERATORS, Primitive, jax_primitives
from secfad.clipping import clip_p, clip_rows_p
from secfad.jaxprs.inside import every_equation
from secfad.primitives import broadcast_p, sum_p


def is_registered(primitive: Primitive) -> bool:
    """Whether a primitive is one of JAX's own or of this package, not another of the same name."""
    return id(primitive) in registered()


@functools.cache
def registered() -> Mapping[int, tuple[Primitive, str]]:
    """Identity to primitive and name; the primitive is kept so that its identity stays taken."""
    found: dict[int, tuple[Primitive, str]] = {}
    for module in (jax_primitives, jax.lax, jax.lax.linalg):
        for attribute, value in vars(module).items():
            if attribute.endswith("_p") and isinstance(value, Primitive):
                found[id(value)] = (value, value.name)
    for witness in _witnesses():
        for equation, _ in every_equation(witness().jaxpr):
            found.setdefault(id(equation.primitive), (equation.primitive, equation.primitive.name))
    for own in (broadcast_p, sum_p, clip_p, clip_rows_p):
        found[id(own)] = (own, own.name)
    return found


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


def is_key_generator(value: Any) -> bool:
    """Whether a value is one of JAX's random generators themselves: threefry, rbg or unsafe_rbg."""
    return any(value is generator for generator in KEY_GENERATORS)


def is_known_dtype(dtype: Any) -> bool:
    """A dtype of NumPy, or of keys of one of JAX's generators; other extended dtypes hold code."""
    if isinstance(dtype, np.dtype):
        return True
    return type(dtype) is _key_dtype() and is_key_generator(dtype._impl)


@functools.cache
def _key_dtype() -> type:
    return type(jax.eval_shape(lambda: jax.random.key(0)).dtype)


# Python's classes that no name in `builtins` leads to: of None, functions and their like.
_UNNAMED = frozenset(value for value in vars(types).values() if isinstance(value, type))
_MAKERS = frozenset({"builtins", "jax", "jaxlib", "ml_dtypes", "numpy", "secfad", "typing"})


# By identity, each with its class: a metaclass decides what a class is equal to.
_known_types: dict[int, tuple[type, bool]] = {}


def is_known_type(kind: type) -> bool:
    """Whether a class is the one that its module and name say, in JAX, NumPy, Python or here."""
    if id(kind) not in _known_types:
        _known_types[id(kind)] = kind, _is_known_type(kind)
    return _known_types[id(kind)][1]


def _is_known_type(kind: type) -> bool:
    if any(kind is known for known in _UNNAMED):
        return True
    if issubclass(kind, np.dtype):  # one class for each dtype; numbers of ml_dtypes have theirs too
        return kind.type is not None and is_known_type(kind.type)
    if kind.__module__.split(".")[0] not in _MAKERS:
        return False
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is kind
