"""Broadcast and sum in the native style: where values are, and what derivatives make of it."""

import jax
import jax.numpy as jnp
from corpus_cases import Case, N, V, W, recording
from jax import lax

import secfad as fad

CASES: list[Case] = []
case = recording(CASES)


# Placements.


@case("accept", style="native", args=[W, V])
def native_round(w, v):
    return w - fad.mean(jnp.tanh(fad.broadcast(w) * v))


@case("reject", "FAD102", style="native", args=[W, V])
def native_missing_broadcast(w, v):
    return fad.sum(v - w)


@case("reject", "FAD102", style="native", args=[W, V])
def native_missing_broadcast_under_jit(w, v):
    return fad.sum(jax.jit(lambda a: a * w)(v))


@case("reject", "FAD104", style="native", args=[V])
def native_broadcast_of_a_client_value(v):
    return fad.sum(fad.broadcast(v))


@case("reject", "FAD117", style="native", args=[W])
def native_sum_of_a_server_value(w):
    return fad.sum(w)


@case("reject", "FAD101", style="native", args=[V])
def native_client_value_returned(v):
    return v * 2


@case("accept", style="native", args=[W, V])
def native_barrier(w, v):
    a, b = lax.optimization_barrier((fad.broadcast(w), v))
    return fad.sum(a * b)


@case("reject", "FAD102", style="native", args=[W, V])
def native_barrier_does_not_launder(w, v):
    a, b = lax.optimization_barrier((w, v))
    return fad.sum(a * b)


@case("accept", style="native", args=[("v", (6,), "clients"), ("i", (), "clients", "int32")])
def native_dynamic_slice(v, i):
    return fad.sum(lax.dynamic_slice(v, (i,), (2,)))


@case("caveat", "FAD602", style="native", args=[V, ("i", (), "clients", "int32")])
def native_written_at_an_own_position(v, i):
    return fad.sum(lax.dynamic_update_slice(jnp.zeros(6), v, (i,)))


@case("accept", style="native", args=[W, V])
def native_custom_rule(w, v):
    return fad.sum(jax.nn.relu(fad.broadcast(w) * v)) + jax.nn.silu(w)


# Linear solves.


@case("accept", style="native", args=[W, V])
def native_implicit_step(w, v):
    matvec = lambda u: u + fad.sum(fad.broadcast(u) * v * v)
    return matvec(matvec(w))


@case("accept", style="native", args=[W, V])
def native_local_solve(w, v):
    a = jnp.outer(v, v) + jnp.eye(3)
    return fad.sum(jnp.linalg.solve(a, fad.broadcast(w)))


def own_solve(w, v):
    return lax.custom_linear_solve(
        lambda u: (1 + v * v) * u, w, solve=lambda _, b: b / (1 + v * v), symmetric=True
    )


@case("accept", style="native", args=[W, V])
def native_solve_by_an_own_program(w, v):
    return fad.sum(own_solve(fad.broadcast(w), v))


@case("reject", "FAD102", style="native", args=[W, V])
def native_solve_with_a_server_value(w, v):
    return fad.sum(own_solve(w, v))


# Derivatives.


@case("accept", style="native", args=[W, V], mode="jvp", wrt=(0,))
def native_forward(w, v):
    return fad.mean(jnp.sum((fad.broadcast(w) * v) ** 2))


@case("accept", style="native", args=[W, V], mode="vjp", wrt=(0,))
def native_reverse_of_one_round(w, v):
    return fad.mean(jnp.sum((fad.broadcast(w) * v) ** 2))


@case("caveat", "FAD306", "FAD305", style="native", args=[W, V], mode="vjp", wrt=(0,))
def native_reverse_of_two_rounds(w, v):
    g = fad.mean(jnp.sin(fad.broadcast(w) * v))
    return jnp.sum(jnp.tanh(fad.mean(jnp.cos(fad.broadcast(w * g) * v))))


@case("caveat", "FAD306", style="native", args=[W, V], mode="vjp", wrt=(0,))
def native_reverse_of_a_root(w, v):
    return jnp.sqrt(jnp.sum(fad.sum(fad.broadcast(w) * v**2) ** 2))


@case("accept", style="native", args=[W, V], mode="mixed", wrt=(0,))
def native_mixed_of_two_rounds(w, v):
    g = fad.mean(jnp.sin(fad.broadcast(w) * v))
    return jnp.sum(jnp.tanh(fad.mean(jnp.cos(fad.broadcast(w * g) * v))))


@case("accept", style="native", args=[W, V], mode="vjp", wrt=(0,))
def native_reverse_of_an_own_choice(w, v):
    wb = fad.broadcast(w)
    return fad.sum(lax.cond(jnp.sum(v) > 0, lambda u: jnp.sin(u * v), lambda u: u, wb))


@case("reject", "FAD102", style="native", args=[W, V], mode="vjp", wrt=(0,))
def native_reverse_of_a_choice_with_a_server_value(w, v):
    return fad.sum(lax.cond(jnp.sum(v) > 0, lambda u: jnp.sin(u * v), lambda u: u, w))


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (doubled(x), None), lambda _, g: (2 * g,))


@case("reject", "FAD304", style="native", args=[W, V], mode="jvp", wrt=(0,))
def native_forward_of_a_reverse_rule(w, v):
    return fad.sum(doubled(fad.broadcast(w) * v))


@case("accept", style="native", args=[W, ("v", (5, 3), "clients")])
def native_examples_that_stop_at_their_own_time(w, v):
    halve = lambda r: lax.while_loop(lambda c: jnp.sum(c**2) > 1, lambda c: 0.5 * c, r)
    return fad.sum(jnp.mean(jax.vmap(halve)(v), axis=0) * fad.broadcast(w))


@case("reject", "FAD304", style="native", args=[W, V], mode="vjp", wrt=(0,))
def native_reverse_of_a_while(w, v):
    wb = fad.broadcast(w)
    return fad.sum(lax.while_loop(lambda a: jnp.sum(a) > 1, lambda a: a * 0.5, v * wb))


@case(
    "reject",
    "FAD301",
    "FAD102",
    "FAD112",
    args=[("x", (N, 5, 3), "clients"), W],
    mode="vjp",
    wrt=(1,),
)
def reverse_through_a_matrix_product(x, w):
    return jnp.sum(jnp.mean(jnp.sin(x @ w), axis=1), axis=0)
