"""Means in linear solvers: products that JAX transposes, which must know the denominator of a mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.sparse.linalg import bicgstab, gmres

import secfad as fad
from secfad.jaxprs.equations import Sum

pytestmark = pytest.mark.usefixtures("double_precision", "quick_compilation")
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


LONGER = [
    pytest.param(by_bicgstab, False, "reverse", marks=pytest.mark.slow),
    pytest.param(by_bicgstab, True, "reverse", marks=pytest.mark.slow),
    pytest.param(by_gmres, False, "forward", marks=pytest.mark.slow),
    pytest.param(by_gmres, True, "forward", marks=pytest.mark.slow),
    pytest.param(by_iteration, True, "forward", marks=pytest.mark.slow),
    pytest.param(by_iteration, True, "reverse", marks=pytest.mark.slow),
]
CASES = [
    (by_bicgstab, True, "forward"),
    (by_gmres, True, "reverse"),
    (by_iteration, True, "mixed"),
    *LONGER,
]


@pytest.mark.sample(quick=0)
@pytest.mark.parametrize(("solver", "weighted", "mode"), CASES)
def test_a_solution_and_its_derivatives_are_the_centralised_ones(solver, weighted, mode):
    derived = fad.value_and_grad(solution(solver, weighted), argnums=(0, 1), mode=mode)
    expected = jax.value_and_grad(central, argnums=(0, 1))(RIGHT, SHIFT, weighted)
    for got in both_ways(derived, RIGHT, SHIFT, MATRIX, COUNT):
        close(got, expected)


@pytest.mark.slow
def test_forward_over_reverse_through_a_solver():
    hessian = fad.jacobian(
        fad.grad(solution(by_bicgstab, True), argnums=1), argnums=1, mode="forward"
    )
    expected = jax.hessian(central, argnums=1)(RIGHT, SHIFT, True)
    for got in both_ways(hessian, RIGHT, SHIFT, MATRIX, COUNT):
        close(got, expected, 1e-8)


WRAPPERS = {
    "plain": lambda fun: fun,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "cond": lambda fun: lambda x: jax.lax.cond(True, fun, jnp.zeros_like, x),
    "scan": lambda fun: lambda x: jax.lax.scan(lambda c, _: (fun(c), None), x, length=1)[0],
}


def turned(wrapper, weighted):
    """The transpose of the mean matrix times a vector."""

    @fad.computation(x=S, matrix=C, count=C)
    def product(x, matrix, count):
        def forth(x):
            sent = fad.broadcast(x, name="direction")
            return fad.mean(matrix @ sent, weights=count if weighted else None, name="product")

        return jax.linear_transpose(wrapper(forth), x)(x)[0]

    return product


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_transpose_of_a_mean_is_a_mean_of_transposes(wrapper, weighted):
    product = turned(WRAPPERS[wrapper], weighted)
    expected = np.average(MATRIX, axis=0, weights=COUNT if weighted else None).T @ RIGHT
    close(fad.simulate(product)(RIGHT, MATRIX, COUNT), expected)
    program = fad.trace(product, RIGHT, *LOCAL)
    close(fad.execute(program, RIGHT, MATRIX, COUNT), expected)
    # Weights are added up before anything is divided by their sum; the number of clients is known.
    assert program.costs.contacts == 1 + weighted
    assert program.costs.up_bytes == RIGHT.nbytes + weighted * 8


def test_one_message_may_have_a_linear_part_and_a_known_part():
    @fad.computation(x=S, scale=S, matrix=C)
    def product(x, scale, matrix):
        def forth(x):
            sent, factor = fad.broadcast((x, scale), name="both")
            return fad.sum(factor * (matrix @ sent))

        return jax.linear_transpose(forth, x)(x)[0]

    got = fad.simulate(product)(RIGHT, SHIFT, MATRIX)
    close(got, SHIFT * np.sum(MATRIX, axis=0).T @ RIGHT)


def test_a_mean_in_a_solver_is_one_message():
    program = fad.trace(solution(by_gmres, True), RIGHT, SHIFT, *LOCAL)
    sums = [step for _, step in program.placed.every_step() if isinstance(step, Sum)]
    assert sums
    assert {(step.name, len(step.inputs)) for step in sums} == {("product", 2)}


def gradient(fun, x):
    return jax.grad(fun)(x)


def gradient_in_a_transposed_product(fun, x):
    return jax.linear_transpose(lambda y: jnp.sum(gradient(fun, x)) * y, x)(x)


@pytest.mark.parametrize("wrapper", [lambda fun: fun, jax.checkpoint])
@pytest.mark.parametrize("derived", [gradient, gradient_in_a_transposed_product])
def test_a_mean_whose_weights_a_loop_leaves_alone_stays_one_message(derived, wrapper):
    """JAX moves what does not change out of a loop by the rule that serves transposition."""

    @fad.computation(x=S, matrix=C, count=C)
    def rounds(x, matrix, count):
        def step(x, _):
            moved = jnp.tanh(matrix @ fad.broadcast(x, name="model"))
            return fad.mean(moved, weights=count, name="product"), None

        step = wrapper(step)
        return derived(lambda x: jnp.sum(jax.lax.scan(step, x, None, length=3)[0]), x)

    program = fad.trace(rounds, RIGHT, *LOCAL)
    sums = [step for _, step in program.placed.every_step() if isinstance(step, Sum)]
    assert {len(step.inputs) for step in sums if step.name == "product"} == {2}
