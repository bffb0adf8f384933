"""Totals: adding up over a leading axis of clients, as a simulation does it.

XLA's own reduction over the leading axis of a large array takes up to seventy times as long on a CPU as
reading it does (JAX 0.10.2, `benchmarks/bench_transformer.py`). A product with ones takes as long as
reading. It adds one client after the other, so that its rounding grows with the number of clients, where
XLA's reduction adds up groups first.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from secfad import _jax

_jax.hide_file_from_tracebacks(__file__)

# Number types whose reduction is slow.
_SLOW = ("float32", "float64")
# Entries of a client from which on it matters.
_MANY = 256


def over_clients(value: Any) -> jax.Array:
    """The sum over the leading axis, in the number type of the value."""
    slow = value.dtype.name in _SLOW and math.prod(value.shape[1:]) >= _MANY
    # Axes that a value's type spreads over devices cannot meet those of ones.
    spread = any(jax.typeof(value).sharding.spec)
    if slow and not spread and jax.default_backend() == "cpu":
        ones = jnp.ones(value.shape[0], value.dtype)
        axes = (((0,), (0,)), ((), ()))
        return jax.lax.dot_general(ones, value, axes, precision=jax.lax.Precision.HIGHEST)
    # `jnp.sum` would promote small integers; a sum keeps the dtype of its operand.
    return jnp.sum(value, axis=0, dtype=value.dtype)
