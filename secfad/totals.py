"""Totals: adding up over a leading axis of clients, as a simulation does it.

On a CPU, XLA's own reduction over the leading axis is as fast as memory for small rows and many times
slower from about 2^15 entries a row on (JAX 0.10.2; row `totals` of `benchmarks/bench_transformer.py`).
A product with ones takes as long as reading. It adds one client after the other, so that its rounding
grows with the number of clients, where XLA's reduction adds up groups first; so it is for large rows only.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

# Number types whose reduction is slow.
_SLOW = ("float32", "float64")
# Entries of a client from which on it matters.
_MANY = 1 << 14


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
