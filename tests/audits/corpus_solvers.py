"""Sums inside linear solvers and other nested programs: each needs a bound, and noise where there is some.

In a refused program one client can move a result without limit, or an exact sum leaves beside a noised
one. Their twins clip inside the solver.
"""

import jax
import jax.numpy as jnp
from corpus_cases import Case, N, V, W, X, guarded, recording
from jax import lax

import secfad as fad

CASES: list[Case] = []
case = recording(CASES)
KEY = ("key", (), "server_key", "key<fry>")
DP = {"profile": "secagg+dp", "style": "native"}
ARRAYS = {"profile": "secagg+dp", "style": "stacked"}


def solved(matvec, right, **options):
    """A linear solve whose solver is one product, so that it ends after one message."""
    once = lambda mv, b: mv(b)
    return lax.custom_linear_solve(matvec, right, solve=once, **options)


def raw(v):
    return lambda p: fad.sum(v * fad.broadcast(p))


def bounded(v):
    return lambda p: fad.sum(fad.clip(v, 1.0) * jnp.tanh(fad.broadcast(p)))


def clipped_product(v):
    """Bounded for every vector, also for one that is not a number."""
    return lambda p: fad.sum(fad.clip(v * fad.broadcast(p), 1.0))


def stacked_raw(x):
    return lambda p: jnp.sum(x * p, axis=0)


def stacked_bounded(x):
    return lambda p: jnp.sum(jax.vmap(guarded)(x), axis=0) + p


def noise(key):
    return jax.random.normal(key, (3,))


# Unbounded.


@case("reject", "FAD401", args=[V, W], **DP)
def symmetric_solve(v, w):
    return solved(raw(v), w, symmetric=True)


@case("reject", "FAD401", args=[V, W], **DP)
def solve_with_a_transposed_program(v, w):
    return solved(raw(v), w, transpose_solve=lambda vm, b: vm(b))


@case("reject", "FAD401", args=[V, W], **DP)
def solve_of_a_pair(v, w):
    both = lambda p: (raw(v)(p[0]), raw(v)(p[1]))
    return solved(both, (w, 2 * w))


@case("reject", "FAD401", args=[V, W], **DP)
def solve_inside_a_jit(v, w):
    return jax.jit(lambda u, b: solved(raw(u), b))(v, w)


@case("reject", "FAD401", args=[V, W], **DP)
def solve_inside_a_checkpoint(v, w):
    return jax.checkpoint(lambda u, b: solved(raw(u), b))(v, w)


@case("reject", "FAD401", args=[V, W], **DP)
def solve_inside_a_scan(v, w):
    return lax.scan(lambda b, _: (solved(raw(v), b), None), w, None, length=2)[0]


@case("reject", "FAD401", args=[V, W], **DP)
def solve_inside_a_counted_loop(v, w):
    return lax.fori_loop(0, 2, lambda _, b: solved(raw(v), b), w)


@case("reject", "FAD401", args=[V, W], **DP)
def solve_inside_a_branch(v, w):
    return lax.cond(w[0] > 0, lambda b: solved(raw(v), b), lambda b: solved(raw(v), -b), w)


@case("reject", "FAD401", args=[V, W], **DP)
def solve_inside_a_solve(v, w):
    return solved(lambda p: solved(raw(v), p), w)


@case("reject", "FAD401", args=[V, W], **DP)
def solve_inside_a_custom_rule(v, w):
    @jax.custom_jvp
    def rule(u, b):
        return solved(raw(u), b)

    rule.defjvp(lambda p, t: (rule(*p), rule(*p)))
    return rule(v, w)


@case("reject", "FAD401", args=[V, W], **DP)
def solve_inside_a_custom_reverse_rule(v, w):
    @jax.custom_vjp
    def rule(u, b):
        return solved(raw(u), b)

    rule.defvjp(lambda u, b: (rule(u, b), None), lambda _, g: (g, g))
    return rule(v, w)


@case("reject", "FAD401", args=[V, W], **DP)
def conjugate_gradients(v, w):
    matvec = lambda p: fad.sum((1 + v**2) * fad.broadcast(p))
    return jax.scipy.sparse.linalg.cg(matvec, w, maxiter=2)[0]


@case("reject", "FAD401", args=[V, W], **DP)
def root_of_an_equation(v, w):
    step = lambda f, u: u - 0.1 * f(u)
    return lax.custom_root(lambda u: raw(v)(u) - w, w, step, lambda g, y: y / g(1.0 + 0 * y))


@case("reject", "FAD401", args=[V, W], **DP)
def loop_inside_a_solver(v, w):
    def solve(mv, b):
        return lax.scan(lambda u, _: (u - 0.1 * (mv(u) - b), None), b, None, length=2)[0]

    return lax.custom_linear_solve(raw(v), w, solve, symmetric=True)


@case("reject", "FAD401", args=[V, W], **DP)
def checkpoint_inside_a_solver(v, w):
    return lax.custom_linear_solve(raw(v), w, lambda mv, b: jax.checkpoint(mv)(b), symmetric=True)


@case("reject", "FAD401", args=[V, W], **DP)
def one_bounded_and_one_unbounded(v, w):
    return fad.sum(fad.clip(v, 1.0)), solved(raw(v), w)


@case("reject", "FAD401", args=[V, W], **DP)
def sum_of_the_solver_itself(v, w):
    return lax.custom_linear_solve(lambda p: 2 * p, w, lambda mv, b: mv(b) + fad.sum(v))


@case("reject", "FAD401", args=[V, W], mode="jvp", wrt=(1,), **DP)
def derivative_of_a_solve(v, w):
    return solved(raw(v), w, symmetric=True)


@case("reject", "FAD401", args=[X, W], **ARRAYS)
def stacked_solve(x, w):
    return solved(stacked_raw(x), w, symmetric=True)


@case("reject", "FAD401", args=[X, W], **ARRAYS)
def stacked_solve_inside_a_loop(x, w):
    return lax.fori_loop(0, 2, lambda _, b: solved(stacked_raw(x), b), w)


@case("reject", "FAD401", args=[X, W], **ARRAYS)
def stacked_solve_with_a_hidden_sum(x, w):
    return solved(lambda p: x.T @ (x @ p), w)


# Bounded, and exact beside noise.


@case("reject", "FAD415", args=[KEY, V, W], **DP)
def exact_sum_through_a_solver(key, v, w):
    noised = (fad.sum(fad.clip(v, 1.0)) + noise(key)) * 0.1
    return noised, solved(bounded(v), w, symmetric=True)


@case("reject", "FAD415", args=[KEY, V, W], **DP)
def exact_sum_through_a_solver_inside_a_loop(key, v, w):
    noised = (fad.sum(fad.clip(v, 1.0)) + noise(key)) * 0.1
    return noised, lax.fori_loop(0, 2, lambda _, b: solved(bounded(v), b), w)


@case("reject", "FAD415", args=[KEY, V, W], **DP)
def exact_sum_through_a_solver_inside_a_branch(key, v, w):
    noised = (fad.sum(fad.clip(v, 1.0)) + noise(key)) * 0.1
    other = lambda b: solved(bounded(v), -b)
    return noised, lax.cond(w[0] > 0, lambda b: solved(bounded(v), b), other, w)


@case("reject", "FAD415", args=[KEY, V, W], **DP)
def exact_sum_as_the_right_hand_side(key, v, w):
    total = fad.sum(fad.clip(v, 1.0))
    noised = (total + noise(key)) * 0.1
    return noised, lax.custom_linear_solve(lambda p: 2 * p, total, lambda mv, b: b / 2)


@case("reject", "FAD415", args=[KEY, V, W], **DP)
def exact_sum_as_the_matrix(key, v, w):
    total = fad.sum(fad.clip(v, 1.0))
    noised = (total + noise(key)) * 0.1
    return noised, solved(lambda p: total * p, w)


@case("reject", "FAD415", args=[KEY, X, W], **ARRAYS)
def stacked_exact_sum_through_a_solver(key, x, w):
    noised = (jnp.sum(jax.vmap(guarded)(x), axis=0) + noise(key)) / N
    return noised, solved(stacked_bounded(x), w)


# Twins.


@case("accept", args=[V, W], **DP)
def bounded_symmetric_solve(v, w):
    return solved(bounded(v), w, symmetric=True)


@case("accept", args=[V, W], **DP)
def bounded_solve_with_a_transposed_program(v, w):
    total = fad.sum(fad.clip(v, 1.0))
    return solved(lambda p: total * p, w, transpose_solve=lambda vm, b: vm(b))


@case("accept", args=[V, W], **DP)
def bounded_solve_inside_a_jit(v, w):
    return jax.jit(lambda u, b: solved(bounded(u), b))(v, w)


@case("accept", args=[V, W], **DP)
def bounded_solve_inside_a_checkpoint(v, w):
    return jax.checkpoint(lambda u, b: solved(bounded(u), b))(v, w)


@case("accept", args=[V, W], **DP)
def bounded_solve_inside_a_scan(v, w):
    return lax.scan(lambda b, _: (solved(clipped_product(v), b), None), w, None, length=2)[0]


@case("accept", args=[V, W], **DP)
def bounded_solve_inside_a_branch(v, w):
    return lax.cond(w[0] > 0, lambda b: solved(bounded(v), b), lambda b: solved(bounded(v), -b), w)


@case("accept", args=[V, W], **DP)
def bounded_solve_inside_a_solve(v, w):
    return solved(lambda p: solved(bounded(v), p), w)


@case("caveat", "FAD204", args=[V, W], **DP)
def bounded_conjugate_gradients(v, w):
    matvec = lambda p: clipped_product(v)(p) + 30 * p
    return jax.scipy.sparse.linalg.cg(matvec, w, maxiter=2)[0]


@case("accept", args=[V, W], **DP)
def bounded_loop_inside_a_solver(v, w):
    def solve(mv, b):
        return lax.scan(lambda u, _: (u - 0.1 * (mv(u) - b), None), b, None, length=2)[0]

    return lax.custom_linear_solve(clipped_product(v), w, solve, symmetric=True)


@case("accept", args=[X, W], **ARRAYS)
def bounded_stacked_solve(x, w):
    return solved(stacked_bounded(x), w)


@case("accept", args=[V], **DP)
def solve_of_the_server_after_a_bounded_sum(v):
    total = fad.sum(fad.clip(v, 1.0))
    return jnp.linalg.solve(jnp.eye(3) + jnp.outer(total, total), total)


@case("accept", args=[("a", (3, 3), "clients"), V], **DP)
def solve_of_a_client_before_its_clip(a, v):
    return fad.sum(fad.clip(jnp.linalg.solve(a @ a.T + jnp.eye(3), v), 1.0))


@case("accept", args=[("a", (3, 3), "clients"), V], **DP)
def triangular_solve_of_a_client_before_its_clip(a, v):
    lower = jnp.linalg.cholesky(a @ a.T + jnp.eye(3))
    return fad.sum(fad.clip(jax.scipy.linalg.cho_solve((lower, True), v), 1.0))


@case("accept", args=[("a", (3, 3), "clients"), V], **DP)
def iterative_solve_of_a_client_before_its_clip(a, v):
    found = jax.scipy.sparse.linalg.cg(lambda p: a.T @ (a @ p) + p, v, maxiter=3)[0]
    return fad.sum(fad.clip(found, 1.0))


@case("accept", args=[KEY, V, W], **DP)
def noised_sum_and_a_solve_without_clients(key, v, w):
    noised = (fad.sum(fad.clip(v, 1.0)) + noise(key)) * 0.1
    return noised, solved(lambda p: 2 * p, w)


@case("accept", args=[KEY, V], **DP)
def solve_of_a_noised_sum(key, v):
    noised = (fad.sum(fad.clip(v, 1.0)) + noise(key)) * 0.1
    return lax.custom_linear_solve(lambda p: 2 * p, noised, lambda mv, b: b / 2)


@case("accept", args=[V, W], style="native")
def unbounded_solve_without_a_claim_of_privacy(v, w):
    return solved(raw(v), w, symmetric=True)


@case("accept", args=[V], **DP)
def solve_local_to_a_client_inside_its_clip(v):
    found = solved(lambda p: 3 * p, v)
    return fad.sum(fad.clip(found, 1.0))


@case("accept", args=[V, W], **DP)
def root_of_an_equation_of_the_server(v, w):
    total = fad.sum(fad.clip(v, 1.0))
    step = lambda f, u: u - 0.1 * f(u)
    return lax.custom_root(lambda u: 2 * u - total - w, w, step, lambda g, y: y / g(1.0 + 0 * y))
