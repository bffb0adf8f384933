"""Who decides: branches and loops of the server and of clients, and effects that bypass every sum."""

import jax
import jax.numpy as jnp
from corpus_cases import Case, V, W, X, recording
from jax import lax

import secfad as fad

CASES: list[Case] = []
case = recording(CASES)


# Stacked.


@case("reject", "FAD201", "FAD202", "FAD101", "FAD107", args=[X, W])
def branch_on_one_client(x, w):
    return lax.cond(x[0, 0] > 0, lambda: w, lambda: -w)


@case("reject", "FAD203", args=[X, W])
def sum_until_small(x, w):
    return lax.while_loop(
        lambda w: jnp.sum(w) > 0.1,
        lambda w: w - jnp.sum(x * jnp.broadcast_to(w, x.shape), axis=0),
        w,
    )


@case("caveat", "FAD204", "FAD203", args=[X, W])
def sum_at_most_ten_times(x, w):
    def step(c):
        return c[0] - jnp.sum(x * jnp.broadcast_to(c[0], x.shape), axis=0), c[1] + 1

    return lax.while_loop(lambda c: (c[1] < 10) & (jnp.sum(c[0]) > 0.1), step, (w, 0))[0]


# Native.


@case("accept", style="native", args=[W, V])
def native_server_branch_after_a_sum(w, v):
    s = fad.sum(v)
    return lax.cond(jnp.sum(s) > 0, lambda: w + s, lambda: w)


@case("accept", style="native", args=[W, V])
def native_decision_that_was_broadcast(w, v):
    decision = fad.broadcast(jnp.sum(w))
    return fad.sum(lax.cond(decision > 0, jnp.sin, jnp.cos, v))


@case("accept", style="native", args=[W, V])
def native_client_loop(w, v):
    wb = fad.broadcast(w)
    return fad.sum(lax.while_loop(lambda c: jnp.sum(c) > 1, lambda c: 0.5 * c, v * wb))


@case("accept", style="native", args=[W, V])
def native_scan_of_rounds(w, v):
    step = lambda c, _: (c - 0.1 * fad.mean(jnp.sin(fad.broadcast(c) * v)), None)
    return lax.scan(step, w, None, length=5)[0]


@case("caveat", "FAD205", "FAD204", style="native", args=[W, V])
def native_branches_that_communicate_differently(w, v):
    return lax.cond(jnp.sum(w) > 0, lambda: fad.sum(v), lambda: w)


@case("reject", "FAD202", "FAD102", style="native", args=[V])
def native_sum_in_a_client_loop(v):
    return lax.while_loop(lambda c: jnp.sum(c) > 1, lambda c: c * jnp.sum(fad.sum(v)), v)


@case("reject", "FAD201", "FAD102", style="native", args=[W, V])
def native_client_decides_server_loop(w, v):
    return lax.while_loop(lambda c: c[0] < v[0], lambda c: (c[0] + 1, c[1] * 2), (0.0, w))[1]


@case("reject", "FAD102", style="native", args=[W, V])
def native_branch_between_server_and_client(w, v):
    return fad.sum(lax.cond(jnp.sum(w) > 0, lambda: w, lambda: v))


@case("reject", "FAD102", style="native", args=[W, V])
def native_clients_follow_a_server_decision(w, v):
    return fad.sum(lax.cond(jnp.sum(w) > 0, jnp.sin, jnp.cos, v))


@case("reject", "FAD102", style="native", args=[W, V])
def native_clients_follow_a_server_loop(w, v):
    return fad.sum(
        lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + w[0], c[1] * 2), (w[1], v))[1]
    )


@case("reject", "FAD102", style="native", args=[W, V])
def native_carry_starts_at_the_server(w, v):
    return fad.sum(lax.scan(lambda c, _: (v, None), w, None, length=2)[0])


@case("reject", "FAD102", style="native", args=[W, V])
def native_carry_becomes_the_servers(w, v):
    return fad.sum(lax.scan(lambda c, _: (w, None), v, None, length=2)[0])


# Effects, and operations that nobody can look into.


@case("reject", "FAD003", args=[X])
def printed_rows(x):
    jax.debug.print("{}", x)
    return jnp.sum(x, axis=0)


@case("reject", "FAD003", "FAD004", args=[X])
def callback_inside_vmap(x):
    def peek(v):
        out = jax.ShapeDtypeStruct(v.shape, v.dtype)
        return jax.pure_callback(lambda a: a, out, v, vmap_method="sequential")

    return jnp.sum(jax.vmap(peek)(x), axis=0)


@case("reject", "FAD004", args=[X])
def mutable_cell(x):
    cell = jax.new_ref(jnp.zeros_like(x))
    cell[...] = x
    return jnp.sum(cell[...], axis=0)


@case("reject", "FAD002", args=[X])
def foreign_kernel(x):
    return jnp.sum(jax.ffi.ffi_call("k", jax.ShapeDtypeStruct(x.shape, x.dtype))(x), axis=0)


@case("reject", "FAD001", args=[X])
def undecided_primitive(x):
    return jnp.sum(jnp.linalg.eigvals(x.T @ x * 0 + jnp.ones((3, 3))).real) + jnp.sum(x)
