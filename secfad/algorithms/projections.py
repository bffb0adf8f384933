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
    return dense_matrix(key, coordinates.size, size, coordinates.dtype) @ coordinates


def dense_matrix(key: Any, coordinates: int, size: int, dtype: Any) -> jax.Array:
    """The matrix of `dense`, for those who keep it."""
    return jax.random.normal(key, (size, coordinates), dtype) * float(size) ** -0.5


def fastfood(key: Any, coordinates: jax.Array, size: int) -> jax.Array:
    """A = c H G P H B: signs, Walsh-Hadamard, permutation, Gaussian diagonal, Walsh-Hadamard.

    Memory grows like D and time like D log D.
    """
    factors = fastfood_factors(key, max(size, coordinates.size), coordinates.dtype)
    return apply_fastfood(factors, coordinates, size)


def fastfood_factors(key: Any, size: int, dtype: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Signs, order and gains of `fastfood`, of the next power of two."""
    length = 1 << (size - 1).bit_length()
    for_signs, for_order, for_gains = jax.random.split(key, 3)
    return (
        jax.random.rademacher(for_signs, (length,), dtype),
        jax.random.permutation(for_order, length),
        jax.random.normal(for_gains, (length,), dtype),
    )


def apply_fastfood(factors: tuple, coordinates: jax.Array, size: int) -> jax.Array:
    """`fastfood` with factors that were drawn before."""
    signs, order, gains = factors
    padded = jnp.zeros(signs.shape, coordinates.dtype).at[: coordinates.size].set(coordinates)
    mixed = hadamard(signs * padded)[order]
    # A column of H G P H has squared norm sum(G^2) per row.
    return hadamard(gains * mixed)[:size] / jnp.sqrt(size * jnp.sum(gains**2))


def family(project: Projection, count: int) -> list[Projection]:
    """`count` independent projections from one key."""
    at = lambda k: lambda key, s, size: project(jax.random.fold_in(key, k), s, size)
    return [at(k) for k in range(count)]


def hadamard(vector: jax.Array) -> jax.Array:
    """The Walsh-Hadamard transform, not normalised; the length is a power of two."""
    length, half = vector.size, 1
    while half < length:
        pairs = vector.reshape(-1, 2, half)
        first, second = pairs[:, :1], pairs[:, 1:]
        vector = jnp.concatenate([first + second, first - second], 1).reshape(-1)
        half *= 2
    return vector
