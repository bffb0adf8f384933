"""What each client computes for itself, in the stacked style: its own rows, looked at in any way.

Accepted, some with a caveat; the counterparts that look at other clients' rows are in `corpus_mixing`.
"""

import jax
import jax.numpy as jnp
from corpus_cases import Case, N, W, X, recording
from jax import lax

CASES: list[Case] = []
case = recording(CASES)


@case("accept", args=[W, X])
def gradient_step_with_explicit_broadcast(w, x):
    wb = jnp.broadcast_to(w, (N, *w.shape))
    return w - jnp.mean(jax.vmap(jax.grad(lambda a, b: jnp.sum(jnp.tanh(a * b))))(wb, x), axis=0)


@case("caveat", "FAD102", args=[X, W])
def rank_promotion(x, w):
    return jnp.sum(x - w, axis=0)


@case("accept", "FAD102", args=[X])
def map_over_clients_one_by_one(x):
    return jnp.sum(lax.map(jnp.sin, x), axis=0)


@case("accept", args=[X])
def local_sort_then_sum(x):
    return jnp.sum(jnp.sort(x, axis=1), axis=0)


@case("accept", args=[("x", (N, 4, 4), "clients")])
def local_linear_algebra(x):
    eye = jnp.broadcast_to(jnp.eye(4), (N, 4, 4))
    solved = jnp.linalg.solve(x @ jnp.swapaxes(x, 1, 2) + eye, x)
    return jnp.sum(solved, axis=0)


@case("accept", args=[("x", (N, 8), "clients")])
def local_fft(x):
    return jnp.sum(jnp.abs(jnp.fft.rfft(x, axis=1)), axis=0)


@case("accept", args=[("x", (N, 6), "clients")])
def local_scan(x):
    def run(row):
        return lax.scan(lambda c, v: (0.5 * c + v, c), 0.0, row)[0]

    return jnp.sum(jax.vmap(run)(x), axis=0)


@case("accept", args=[("x", (N, 12), "clients")])
def local_reshape(x):
    return jnp.sum(jnp.max(jnp.reshape(x, (N, 3, 4)), axis=2), axis=0)


@case("accept", args=[("x", (N, N), "clients")])
def data_axis_as_long_as_the_cohort(x):
    return jnp.sum(jnp.cumsum(x, axis=1)[:, ::-1], axis=0)


@case("accept", args=[X])
def columns_stacked_and_taken_apart(x):
    column = jax.ShapeDtypeStruct((N,), x.dtype)
    join = lambda a, b, c: jnp.stack([a, b, c], axis=1)
    first, second, third = jax.linear_transpose(join, column, column, column)(jnp.sin(x))
    return jnp.sum(first * second - third, axis=0)


@case("accept", args=[("x", (N, 6), "clients"), ("i", (N,), "clients", "int32")])
def local_pieces(x, i):
    a, b = jnp.split(x, 2, axis=1)
    both = jnp.stack([a, b], axis=1)
    padded = jnp.pad(jnp.concatenate([a, b], axis=1), ((0, 0), (1, 1)))
    turned = jnp.flip(lax.slice_in_dim(padded, 0, 4, axis=1), axis=1)
    best = lax.top_k(turned, 2)[0]
    return jnp.sum(best, axis=0), jnp.sum(jnp.prod(both, axis=1), axis=0), jnp.sum(i, axis=0)


@case("accept", args=[("x", (N, 5, 3), "clients"), ("i", (N, 5), "clients", "int32")])
def local_lookup_by_own_index(x, i):
    return jnp.sum(jax.vmap(lambda a, k: a[k])(x, i % 5), axis=0)


@case("caveat", "FAD602", args=[("x", (N, 6), "clients"), ("i", (N,), "clients", "int32")])
def written_at_an_own_position(x, i):
    row = jax.vmap(lambda r, k: lax.dynamic_update_slice(jnp.zeros(6), r[:2], (k,)))(x, i)
    return jnp.sum(row, axis=0)


@case("accept", args=[("x", (N, 2, 6, 6, 1), "clients"), ("k", (3, 3, 1, 2), "server")])
def own_copy_of_a_kernel(x, k):
    def client(k, x):
        y = lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.sin(y))

    return jnp.sum(jax.vmap(jax.grad(client))(jnp.broadcast_to(k, (N, *k.shape)), x), axis=0)


@case("accept", args=[("x", (N, 8, 4), "clients")])
def local_pooling(x):
    return jnp.sum(lax.reduce_window(x, 0.0, lax.add, (1, 2, 1), (1, 2, 1), "VALID"), axis=0)


@case("accept", args=[("x", (N, 8, 8, 1), "clients")])
def local_convolution_and_pooling(x):
    kernel = jnp.ones((3, 3, 1, 2))
    y = lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    pooled = lambda z: jnp.sum(
        lax.reduce_window(z, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    )
    return jnp.sum(jax.vmap(jax.grad(lambda z: pooled(z[None])))(y), axis=0)


@case("caveat", "FAD112", args=[X])
def covariance_by_einsum(x):
    return jnp.einsum("ca,cb->ab", x, x)


@case("caveat", "FAD701", args=[X, ("s", (N, 3), "client_state")])
def error_feedback(x, s):
    sent = jnp.round(x + s)
    return jnp.sum(sent, axis=0), x + s - sent


@case("accept", args=[("k", (N,), "clients", "key<fry>"), ("raw", (N, 2), "clients", "uint32")])
def client_randomness(k, raw):
    def draw(key, words):
        first, second = jax.random.split(key)
        other = jax.random.wrap_key_data(jax.random.key_data(second) ^ words)
        mixed = jax.random.fold_in(jax.random.key(jax.random.bits(first)), 3)
        return jax.random.normal(other, (2,)) + jax.random.uniform(mixed, (2,))

    return jnp.sum(jax.vmap(draw)(k, raw), axis=0)


@case("caveat", "FAD605", args=[X])
def branch_on_the_cohort_size(x):
    return jnp.sum(x, axis=0) if x.shape[0] > 5 else x
