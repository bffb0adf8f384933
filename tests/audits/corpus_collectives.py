"""The styles of others: collectives over a named axis (SPMD), and DrJAX's operators."""

import drjax
import jax.numpy as jnp
from corpus_cases import Case, N, V, W, X, recording
from jax import lax

CASES: list[Case] = []
case = recording(CASES)


# SPMD.


@case("accept", style="spmd", args=[V])
def spmd_sum(v):
    return lax.psum(v, "clients")


@case("caveat", "FAD102", style="spmd", args=[V])
def spmd_centred(v):
    m = lax.pmean(v, "clients")
    return lax.psum((v - m) ** 2, "clients")


@case("accept", style="spmd", args=[V])
def spmd_local_bits(v):
    return lax.psum(jnp.float32(lax.bitcast_convert_type(v, jnp.uint32) & 1), "clients")


@case("reject", "FAD105", style="spmd", args=[V])
def spmd_max(v):
    return lax.pmax(v, "clients")


@case("reject", "FAD113", style="spmd", args=[V])
def spmd_all_to_all(v):
    return lax.all_to_all(jnp.zeros((8, 2)) + v[0], "clients", 0, 0)


@case("reject", "FAD202", style="spmd", args=[V])
def spmd_sum_in_client_loop(v):
    return lax.fori_loop(0, jnp.int32(v[0]), lambda i, a: a + lax.psum(v, "clients"), v)


@case("reject", "FAD111", style="spmd", args=[V])
def spmd_position(v):
    return lax.psum(v * lax.axis_index("clients"), "clients")


@case("reject", "FAD110", style="spmd", args=[V])
def spmd_groups(v):
    return lax.psum(v, "clients", axis_index_groups=[[0, 1, 2, 3], [4, 5, 6, 7]])


# DrJAX.

program = drjax.program(placements={"clients": N})


@case("accept", style="drjax", args=[W, X])
@program
def drjax_round(w, x):
    g = drjax.map_fn(lambda a, b: jnp.sin(a * b), (drjax.broadcast(w), x))
    return w - drjax.reduce_mean(g)


@case("accept", style="drjax", args=[W, X], mode="jvp", wrt=(0,))
@program
def drjax_forward(w, x):
    return drjax.reduce_sum(drjax.map_fn(lambda a, b: a * b, (drjax.broadcast(w), x)))


@case("accept", style="drjax", args=[W, X], mode="vjp", wrt=(0,))
@program
def drjax_reverse(w, x):
    return drjax.reduce_sum(drjax.map_fn(lambda a, b: a * b, (drjax.broadcast(w), x)))


@case("reject", "FAD103", style="drjax", args=[X])
@program
def drjax_summed_by_hand(x):
    return jnp.sum(x, axis=0)


@case("reject", "FAD102", style="drjax", args=[W, X])
@program
def drjax_captured(w, x):
    return drjax.reduce_sum(drjax.map_fn(lambda b: w * b, (x,)))


@case("reject", "FAD109", "FAD117", style="drjax", args=[X])
@program
def drjax_gathered(x):
    return drjax.reduce_sum(x[:, None] * x[None])
