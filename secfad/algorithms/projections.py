"""Random linear maps from d coordinates to D parameters, made from a public random key.

A `Projection` is a function `(key, coordinates, size) -> vector`, linear in the coordinates; its
transpose, by which a gradient is compressed, comes from differentiation. Columns have about unit
norm (A^T A is close to I_d), so that the step size of the full model carries over.

Sources: Li et al. (2018), section 3; Le, Sarlos, Smola (2013), Fastfood.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Projection = Callable[[Any, jax.Array, int], jax.Array]


def dense(key: Any, coordinates: jax.Array, size: int) -> jax.Array:
    """A Gaussian matrix with entries of variance 1 / D: D d numbers of memory."""
    matrix = jax.random.normal(key, (size, coordinates.size), coordinates.dtype)
    return matrix @ coordinates / jnp.sqrt(jnp.asarray(size, coordinates.dtype))


def fastfood(key: Any, coordinates: jax.Array, size: int) -> jax.Array:
    """A = c H G P H B: signs, Walsh-Hadamard, permutation, Gaussian diagonal, Walsh-Hadamard.

    Memory and time grow like D and D log D.
    """
    length = 1 << (max(size, coordinates.size) - 1).bit_length()
    for_signs, for_order, for_gains = jax.random.split(key, 3)
    signs = jax.random.rademacher(for_signs, (length,), coordinates.dtype)
    gains = jax.random.normal(for_gains, (length,), coordinates.dtype)
    padded = jnp.zeros(length, coordinates.dtype).at[: coordinates.size].set(coordinates)
    mixed = hadamard(signs * padded)[jax.random.permutation(for_order, length)]
    # A column of H G P H has squared norm sum(G^2) per row.
    return hadamard(gains * mixed)[:size] / jnp.sqrt(size * jnp.sum(gains**2))


def hadamard(vector: jax.Array) -> jax.Array:
    """The Walsh-Hadamard transform, not normalised; the length is a power of two."""
    length, half = vector.size, 1
    while half < length:
        pairs = vector.reshape(-1, 2, half)
        first, second = pairs[:, :1], pairs[:, 1:]
        vector = jnp.concatenate([first + second, first - second], 1).reshape(-1)
        half *= 2
    return vector
