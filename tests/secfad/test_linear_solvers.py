"""Means in linear solvers: products that JAX transposes, which must know the denominator of a mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.sparse.linalg import bicgstab, gmres

import secfad as fad

pytestmark = pytest.mark.usefixtures("double_precision")
S, C = fad.SERVER, fad.CLIENTS
CLIENTS, SIZE = 5, 3
RNG = np.random.default_rng(0)
MATRIX = 0.3 * RNG.normal(size=(CLIENTS, SIZE, SIZE))
COUNT = RNG.uniform(1.0, 5.0, size=CLIENTS)
RIGHT = RNG.normal(size=SIZE)
SHIFT = np.array(1.3)
LOCAL = (MATRIX[0], COUNT[0])


def by_bicgstab(product, right):
    return bicgstab(product, right, tol=1e-14)[0]


def by_gmres(product, right):
    return gmres(product, right, tol=1e-14, restart=SIZE)[0]


def by_iteration(product, right):
    """A fixed number of steps, which mixed mode can differentiate: its derivative is by steps."""

    def solve(product, right):
        return jax.lax.fori_loop(0, 60, lambda _, x: x + 0.6 * (right - product(x)), right)

    return jax.lax.custom_linear_solve(product, right, solve, transpose_solve=solve)


def solution(solver, weighted):
    """The square of the solution of a system whose matrix is a mean over clients."""

    @fad.computation(right=S, shift=S, matrix=C, count=C)
    def squared(right, shift, matrix, count):
        # Weights that depend on what is differentiated, so that the denominator has a derivative too.
        weights = count ** fad.broadcast(shift, name="shift") if weighted else None

        def product(x):
            moved = matrix @ fad.broadcast(x, name="direction")
            return fad.mean(moved, weights=weights, name="product") + shift * x

        return jnp.sum(solver(product, right) ** 2)

    return squared


def central(right, shift, weighted):
    weights = COUNT**shift if weighted else jnp.ones(CLIENTS)
    matrix = jnp.einsum("i,ijk->jk", weights, MATRIX) / jnp.sum(weights) + shift * jnp.eye(SIZE)
    return jnp.sum(jnp.linalg.solve(matrix, right) ** 2)


def close(got, expected, tolerance=1e-10):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def both_ways(computation, *args):
    """The value by the fused program and by messages."""
    program = fad.trace(computation, *args[:2], *LOCAL)
    return fad.simulate(computation)(*args), fad.execute(program, *args)


CASES = [
    *((solver, w, "reverse") for solver in (by_bicgstab, by_gmres) for w in (False, True)),
    *((by_iteration, True, mode) for mode in ("forward", "reverse", "mixed")),
]


@pytest.mark.parametrize(("solver", "weighted", "mode"), CASES)
def test_a_solution_and_its_derivatives_are_the_centralised_ones(solver, weighted, mode):
    derived = fad.value_and_grad(solution(solver, weighted), argnums=(0, 1), mode=mode)
    expected = jax.value_and_grad(central, argnums=(0, 1))(RIGHT, SHIFT, weighted)
    for got in both_ways(derived, RIGHT, SHIFT, MATRIX, COUNT):
        close(got, expected)
