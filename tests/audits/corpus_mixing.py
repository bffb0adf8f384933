"""Clients mixed in another way than by a sum, in the stacked style: all rejected, each for its own rule."""

import jax
import jax.numpy as jnp
from corpus_cases import Case, N, W, X, recording
from jax import lax

import secfad as fad

CASES: list[Case] = []
case = recording(CASES)


# Picked, ordered or merged.


@case("reject", "FAD107", args=[X])
def clients_taken_apart(x):
    row = jax.ShapeDtypeStruct((3,), x.dtype)
    return jax.linear_transpose(lambda *rows: jnp.stack(rows), *N * (row,))(x)[0]


@case("reject", "FAD103", "FAD107", args=[X])
def overwritten_slot(x):
    return jnp.zeros(3).at[:].set(x[0])


@case("reject", "FAD107", args=[X])
def rolled_neighbours(x):
    return jnp.sum(x * jnp.roll(x, 1, axis=0), axis=0)


@case("reject", "FAD107", args=[X, ("k", (), "server", "int32")])
def server_picks_a_client(x, k):
    return lax.dynamic_index_in_dim(x, k, 0, keepdims=False)


@case("reject", "FAD107", args=[X, ("k", (), "server", "int32")])
def server_picks_two_clients(x, k):
    return jnp.sum(lax.dynamic_slice_in_dim(x, k, 2, 0), axis=0)


@case("reject", "FAD107", args=[X])
def one_client_more(x):
    return jnp.sum(jnp.pad(x, ((1, 0), (0, 0)), constant_values=1.0) ** 2, axis=0)


@case("reject", "FAD107", args=[X])
def solve_that_turns_the_clients(x):
    turned = lax.custom_linear_solve(lambda u: u, x, solve=lambda _, b: jnp.roll(b, 1, 0))
    return jnp.sum(x * turned, axis=0)


@case("reject", "FAD106", args=[("x", (N, N), "clients")])
def client_axis_as_long_as_data(x):
    return jnp.sum(jnp.cumsum(x, axis=0), axis=0)


@case("reject", "FAD106", args=[X])
def top_two_clients(x):
    return lax.top_k(x.T, 2)[0]


@case("reject", "FAD106", args=[X])
def clients_in_order(x):
    return jnp.sum(jnp.sort(x, axis=0) * x, axis=0)


@case("reject", "FAD106", args=[X])
def sequential_training(x):
    return lax.scan(lambda w, row: (w * 0.9 + row, None), jnp.zeros(3), x)[0]


@case("reject", "FAD111", "FAD104", args=[X])
def one_hot_of_position(x):
    return jnp.sum(jnp.eye(N)[:, :3] * x, axis=0)


@case("reject", "FAD108", args=[X])
def flattened_cohort(x):
    return jnp.sum(x.reshape(2, -1), axis=1)


@case("reject", "FAD108", "FAD109", args=[("x", (2, 6, 6, N), "clients")])
def features_are_not_clients(x):
    return jnp.sum(jnp.reshape(jnp.moveaxis(x, 0, -1), (6, 6, -1)) ** 2, axis=2)


@case("reject", "FAD108", "FAD109", args=[("x", (N, 6, 6, 2), "clients")])
def convolution_across_merged_clients(x):
    merged = jnp.moveaxis(x, 0, 2).reshape(1, 6, 6, 2 * N)
    k = jnp.ones((3, 3, 2 * N, 4))
    y = lax.conv_general_dilated(
        merged, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.sum(y, axis=0)


@case("reject", "FAD108", args=[("x", (2, 3), "clients", "uint16")])
def two_clients_in_one_word(x):
    return jnp.sum(lax.bitcast_convert_type(x.T, jnp.uint32))


# Reduced in another way than by a sum, or paired.


@case("reject", "FAD105", args=[X])
def logsumexp_over_clients(x):
    return jax.nn.logsumexp(x, axis=0)


@case("reject", "FAD105", args=[X])
def any_client_negative(x):
    return jnp.any(x < 0)


@case("reject", "FAD109", args=[X])
def gram_matrix_of_clients(x):
    return x @ x.T


@case("reject", "FAD109", args=[X])
def cohort_twice(x):
    return jnp.sum(jnp.concatenate([x, x * x], axis=0), axis=0)


@case("reject", "FAD109", args=[X])
def clip_of_all_clients_together(x):
    return jnp.sum(fad.clip(x, 1.0), axis=0)


@case("reject", "FAD109", args=[("x", (N, 8, 4), "clients")])
def pooling_across_clients(x):
    return jnp.sum(lax.reduce_window(x, 0.0, lax.add, (2, 1, 1), (1, 1, 1), "SAME"), axis=0)


@case("reject", "FAD103", "FAD109", "FAD104", args=[X, ("i", (N,), "clients", "int32")])
def segment_sum_over_clients(x, i):
    return jax.ops.segment_sum(x, i, num_segments=4)


# Returned as they are, or met by what the server did not send.


@case("reject", "FAD101", args=[X])
def rows_in_a_tuple(x):
    return jnp.sum(x, axis=0), x[:, 0] * 2


@case("reject", "FAD101", "FAD109", args=[X])
def residual_of_the_mean_returned(x):
    return x - jnp.broadcast_to(jnp.mean(x, axis=0), x.shape)


@case("reject", "FAD104", args=[("table", (9, 3), "server"), ("i", (N,), "clients", "int32")])
def federated_select(table, i):
    return jnp.sum(table[i], axis=0)


@case("reject", "FAD104", args=[("m", (N,), "server"), X])
def server_weights_in_a_contraction(m, x):
    return m @ x


@case("reject", "FAD104", args=[("s", (N, 3), "server"), X])
def rows_of_the_server_in_a_loop(s, x):
    return jnp.sum(lax.scan(lambda c, _: (x, None), s, None, length=2)[0], axis=0)


@case("reject", "FAD005", args=[W])
def captured_matrix(w):
    return w * jnp.sum(jnp.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), axis=0)
