"""Layers and losses made of decompositions, inverses and exponentials of matrices."""

import jax
import jax.numpy as jnp
from jax import lax
from practice import normal, objective, uniform
from programs_of_networks import network


@objective(network)
def spectral_normalisation(p, x, y):
    u = lax.stop_gradient(jnp.linalg.svd(p["a"], full_matrices=False)[2][0])
    return jnp.mean((x @ (p["a"] / jnp.linalg.norm(p["a"] @ u)) @ p["c"] - y) ** 2)


@objective(lambda n: (normal(0, 3, 3), normal(1, n, 5, 3)))
def orthogonal_layer_by_qr(w, x):
    return jnp.mean(jnp.sin(x @ jnp.linalg.qr(w)[0]))


@objective(lambda n: (normal(0, 3, 3), normal(1, n, 5, 3)))
def orthogonal_layer_by_cayley(w, x):
    skew = w - w.T
    return jnp.mean(jnp.sin(x @ jnp.linalg.solve(jnp.eye(3) + skew, jnp.eye(3) - skew)))


@objective(lambda n: (normal(0, 3, 3), normal(1, n, 5, 3)))
def layer_by_the_matrix_exponential(w, x):
    return jnp.mean(jnp.sin(x @ jax.scipy.linalg.expm(0.3 * w)))


@objective(lambda n: (uniform(0, 3), normal(1, n, 5, 3)))
def singular_values_of_data(s, x):
    return jnp.sum(jnp.log(jnp.linalg.svd(x * s, compute_uv=False)))


@objective(lambda n: (uniform(0, 3), normal(1, n, 5, 3)))
def eigenvalues_of_data(s, x):
    return jnp.linalg.eigh((x * s).T @ (x * s))[0][-1]
