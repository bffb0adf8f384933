"""Programs whose verdict is known, by style. Each is a claim: this shape of program must be judged so.

`CASES` is a list of `Case`; the functions are ordinary user code. Nothing here imports the checker.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

import secfad as fad

N = 6  # clients of stacked programs


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    style: str
    fn: Callable
    args: tuple  # (name, shape, dtype, placement)
    kind: str
    rules: frozenset = frozenset()
    mode: str = "primal"
    wrt: tuple = ()
    profile: str = "secagg"


CASES: list[Case] = []


def case(kind, *rules, style="stacked", args, mode="primal", wrt=(), profile="secagg"):
    def add(fn):
        filled = tuple((n, s, "float32" if len(r) == 1 else r[1], r[0]) for n, s, *r in args)
        CASES.append(
            Case(fn.__name__, style, fn, filled, kind, frozenset(rules), mode, wrt, profile)
        )
        return fn

    return add


X = ("x", (N, 3), "clients")
W = ("w", (3,), "server")
V = ("v", (3,), "clients")
KEY = ("key", (), "server", "key<fry>")


def guarded(v, c=1.0):
    n = jnp.sqrt(jnp.sum(v**2))
    good = jnp.isfinite(n)
    return jnp.where(
        good, v * jnp.where(good, jnp.minimum(1.0, c / jnp.maximum(n, 1e-9)), 0.0), 0.0
    )


# Stacked: communication.


@case("accept", args=[W, X])
def gradient_step_with_explicit_broadcast(w, x):
    wb = jnp.broadcast_to(w, (N, *w.shape))
    return w - jnp.mean(jax.vmap(jax.grad(lambda a, b: jnp.sum(jnp.tanh(a * b))))(wb, x), axis=0)


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


@case("accept", args=[("x", (N, 5, 3), "clients"), ("i", (N, 5), "clients", "int32")])
def local_lookup_by_own_index(x, i):
    return jnp.sum(jax.vmap(lambda a, k: a[k])(x, i % 5), axis=0)


@case("accept", args=[X])
def columns_stacked_and_taken_apart(x):
    column = jax.ShapeDtypeStruct((N,), x.dtype)
    join = lambda a, b, c: jnp.stack([a, b, c], axis=1)
    first, second, third = jax.linear_transpose(join, column, column, column)(jnp.sin(x))
    return jnp.sum(first * second - third, axis=0)


@case("reject", "FAD107", args=[X])
def clients_taken_apart(x):
    row = jax.ShapeDtypeStruct((3,), x.dtype)
    return jax.linear_transpose(lambda *rows: jnp.stack(rows), *N * (row,))(x)[0]


@case("accept", args=[("x", (N, 12), "clients")])
def local_reshape(x):
    return jnp.sum(jnp.max(jnp.reshape(x, (N, 3, 4)), axis=2), axis=0)


@case("accept", args=[("x", (N, N), "clients")])
def data_axis_as_long_as_the_cohort(x):
    return jnp.sum(jnp.cumsum(x, axis=1)[:, ::-1], axis=0)


@case("reject", "FAD106", args=[("x", (N, N), "clients")])
def client_axis_as_long_as_data(x):
    return jnp.sum(jnp.cumsum(x, axis=0), axis=0)


@case("accept", args=[("x", (N, 6), "clients")])
def local_scan(x):
    def run(row):
        return lax.scan(lambda c, v: (0.5 * c + v, c), 0.0, row)[0]

    return jnp.sum(jax.vmap(run)(x), axis=0)


@case("accept", "FAD102", args=[X])
def map_over_clients_one_by_one(x):
    return jnp.sum(lax.map(jnp.sin, x), axis=0)


@case("reject", "FAD104", args=[("table", (9, 3), "server"), ("i", (N,), "clients", "int32")])
def federated_select(table, i):
    return jnp.sum(table[i], axis=0)


@case("reject", "FAD111", "FAD104", args=[X])
def one_hot_of_position(x):
    return jnp.sum(jnp.eye(N)[:, :3] * x, axis=0)


@case("reject", "FAD107", args=[X])
def rolled_neighbours(x):
    return jnp.sum(x * jnp.roll(x, 1, axis=0), axis=0)


@case("reject", "FAD107", args=[X, ("k", (), "server", "int32")])
def server_picks_a_client(x, k):
    return lax.dynamic_index_in_dim(x, k, 0, keepdims=False)


@case("reject", "FAD109", args=[X])
def gram_matrix_of_clients(x):
    return x @ x.T


@case("reject", "FAD105", args=[X])
def logsumexp_over_clients(x):
    return jax.nn.logsumexp(x, axis=0)


@case("reject", "FAD105", args=[X])
def any_client_negative(x):
    return jnp.any(x < 0)


@case("reject", "FAD106", args=[X])
def top_two_clients(x):
    return lax.top_k(x.T, 2)[0]


@case("reject", "FAD104", args=[("m", (N,), "server"), X])
def server_weights_in_a_contraction(m, x):
    return m @ x


@case("reject", "FAD101", args=[X])
def rows_in_a_tuple(x):
    return jnp.sum(x, axis=0), x[:, 0] * 2


@case("reject", "FAD101", "FAD109", args=[X])
def residual_of_the_mean_returned(x):
    return x - jnp.broadcast_to(jnp.mean(x, axis=0), x.shape)


@case("reject", "FAD103", "FAD107", args=[X])
def overwritten_slot(x):
    return jnp.zeros(3).at[:].set(x[0])


@case("reject", "FAD103", "FAD109", "FAD104", args=[X, ("i", (N,), "clients", "int32")])
def segment_sum_over_clients(x, i):
    return jax.ops.segment_sum(x, i, num_segments=4)


@case("reject", "FAD108", args=[X])
def flattened_cohort(x):
    return jnp.sum(x.reshape(2, -1), axis=1)


@case("reject", "FAD106", args=[X])
def sequential_training(x):
    return lax.scan(lambda w, row: (w * 0.9 + row, None), jnp.zeros(3), x)[0]


@case("reject", "FAD201", "FAD202", "FAD101", "FAD107", args=[X, W])
def branch_on_one_client(x, w):
    return lax.cond(x[0, 0] > 0, lambda: w, lambda: -w)


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


@case("caveat", "FAD701", args=[X, ("s", (N, 3), "client_state")])
def error_feedback(x, s):
    sent = jnp.round(x + s)
    return jnp.sum(sent, axis=0), x + s - sent


@case("caveat", "FAD112", args=[X])
def covariance_by_einsum(x):
    return jnp.einsum("ca,cb->ab", x, x)


@case("caveat", "FAD102", args=[X, W])
def rank_promotion(x, w):
    return jnp.sum(x - w, axis=0)


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


@case("reject", "FAD005", args=[W])
def captured_matrix(w):
    return w * jnp.sum(jnp.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), axis=0)


# Native: communication.


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


@case("reject", "FAD202", "FAD102", style="native", args=[V])
def native_sum_in_a_client_loop(v):
    return lax.while_loop(lambda c: jnp.sum(c) > 1, lambda c: c * jnp.sum(fad.sum(v)), v)


@case("reject", "FAD201", "FAD102", style="native", args=[W, V])
def native_client_decides_server_loop(w, v):
    return lax.while_loop(lambda c: c[0] < v[0], lambda c: (c[0] + 1, c[1] * 2), (0.0, w))[1]


@case("accept", style="native", args=[W, V])
def native_server_branch_after_a_sum(w, v):
    s = fad.sum(v)
    return lax.cond(jnp.sum(s) > 0, lambda: w + s, lambda: w)


@case("caveat", "FAD205", "FAD204", style="native", args=[W, V])
def native_branches_that_communicate_differently(w, v):
    return lax.cond(jnp.sum(w) > 0, lambda: fad.sum(v), lambda: w)


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


@case("accept", style="native", args=[W, V], mode="mixed", wrt=(0,))
def native_mixed_of_two_rounds(w, v):
    g = fad.mean(jnp.sin(fad.broadcast(w) * v))
    return jnp.sum(jnp.tanh(fad.mean(jnp.cos(fad.broadcast(w * g) * v))))


@case("reject", "FAD304", style="native", args=[W, V], mode="vjp", wrt=(0,))
def native_reverse_of_a_while(w, v):
    wb = fad.broadcast(w)
    return fad.sum(lax.while_loop(lambda a: jnp.sum(a) > 1, lambda a: a * 0.5, v * wb))


# SPMD and DrJAX.


@case("accept", style="spmd", args=[V])
def spmd_sum(v):
    return lax.psum(v, "clients")


@case("caveat", "FAD102", style="spmd", args=[V])
def spmd_centred(v):
    m = lax.pmean(v, "clients")
    return lax.psum((v - m) ** 2, "clients")


@case("reject", "FAD105", style="spmd", args=[V])
def spmd_max(v):
    return lax.pmax(v, "clients")


@case("reject", "FAD113", style="spmd", args=[V])
def spmd_all_to_all(v):
    return lax.all_to_all(jnp.zeros((8, 2)) + v[0], "clients", 0, 0)


@case("reject", "FAD202", style="spmd", args=[V])
def spmd_sum_in_client_loop(v):
    return lax.fori_loop(0, jnp.int32(v[0]), lambda i, a: a + lax.psum(v, "clients"), v)


# Bounds.

DP = {"profile": "secagg+dp"}


@case("accept", args=[X], **DP)
def bounded_by_a_guarded_clip(x):
    return jnp.sum(jax.vmap(guarded)(x), axis=0)


@case("accept", style="native", args=[W, V], **DP)
def bounded_by_the_blessed_clip(w, v):
    return w - fad.mean(fad.clip(jnp.sin(fad.broadcast(w) * v), 0.5))


@case("accept", style="native", args=[V, ("u", (2, 2), "clients")], **DP)
def bounded_jointly(v, u):
    return fad.sum(fad.clip((v, u), 1.0))


@case("reject", "FAD401", style="native", args=[V], **DP)
def unbounded_next_to_a_clip(v):
    return fad.sum((fad.clip(v, 1.0), v))


@case("reject", "FAD401", style="native", args=[V], **DP)
def clipped_then_divided_by_data(v):
    return fad.sum(fad.clip(v, 1.0) / v)


@case("reject", "FAD401", "FAD404", style="native", args=[V], **DP)
def clipped_then_multiplied_by_data(v):
    return fad.sum(fad.clip(v, 1.0) * v)


@case("reject", "FAD401", "FAD407", args=[X], **DP)
def norm_of_another_value(x):
    def client(v):
        n = jnp.sqrt(jnp.sum((0.1 * jnp.sin(v)) ** 2))
        good = jnp.isfinite(n)
        return jnp.where(good, v * jnp.minimum(1.0, 1 / jnp.maximum(n, 1e-9)), 0.0)

    return jnp.sum(jax.vmap(client)(x), axis=0)


@case("reject", "FAD401", args=[X], **DP)
def norm_over_part_of_the_value(x):
    def client(v):
        n = jnp.sqrt(jnp.sum(v[:2] ** 2))
        good = jnp.isfinite(n)
        return jnp.where(good, v * jnp.minimum(1.0, 1 / jnp.maximum(n, 1e-9)), 0.0)

    return jnp.sum(jax.vmap(client)(x), axis=0)


@case("reject", "FAD401", "FAD407", args=[X], **DP)
def clip_that_raises_small_norms(x):
    def client(v):
        n = jnp.linalg.norm(v)
        return jnp.where(jnp.isfinite(n), v * jnp.maximum(1.0, 1 / jnp.maximum(n, 1e-9)), 0.0)

    return jnp.sum(jax.vmap(client)(x), axis=0)


@case("reject", "FAD401", "FAD407", args=[X], **DP)
def guard_with_the_branches_swapped(x):
    def client(v):
        n = jnp.linalg.norm(v)
        return jnp.where(n < 1.0, v / n, v)

    return jnp.sum(jax.vmap(client)(x), axis=0)


@case("reject", "FAD407", "FAD401", args=[X], **DP)
def where_form_without_guard(x):
    return jnp.sum(
        jax.vmap(lambda v: jnp.where(jnp.linalg.norm(v) > 1, v / jnp.linalg.norm(v), v))(x), axis=0
    )


@case("caveat", "FAD407", args=[X], **DP)
def min_form_without_guard(x):
    return jnp.sum(jax.vmap(lambda v: v * jnp.minimum(1.0, 2.0 / jnp.linalg.norm(v)))(x), axis=0)


@case("caveat", "FAD408", args=[("x", (N, 64), "clients", "bfloat16")], **DP)
def low_precision_clip(x):
    return jnp.sum(jax.vmap(guarded)(x).astype(jnp.float32), axis=0)


@case("reject", "FAD413", args=[("x", (N, 3), "clients", "int8")], **DP)
def small_integers(x):
    return jnp.sum(x, axis=0, dtype=jnp.int8)


@case("reject", "FAD401", args=[X], **DP)
def nan_kept_out_but_infinity_kept_in(x):
    return jnp.sum(jnp.where(jnp.isnan(x), 0.0, x), axis=0)


@case("reject", "FAD501", args=[KEY, X], **DP)
def one_draw_for_two_sums(key, x):
    z = jax.random.normal(key, (3,))
    u = jax.vmap(guarded)(x)
    return jnp.sum(u, axis=0) + z, jnp.sum(u * 0.5, axis=0) + z


@case("reject", "FAD501", args=[KEY, X], **DP)
def key_used_in_every_iteration(key, x):
    def step(w, _):
        s = jnp.sum(jax.vmap(guarded)(x), axis=0) + jax.random.normal(key, (3,))
        return w - s / N, None

    return lax.scan(step, jnp.zeros(3), None, length=4)[0]


@case("accept", args=[KEY, X], **DP)
def key_split_in_every_iteration(key, x):
    def step(c, _):
        w, k = c
        k, here = jax.random.split(k)
        s = jnp.sum(jax.vmap(guarded)(x), axis=0) + jax.random.normal(here, (3,))
        return (w - s / N, k), None

    return lax.scan(step, (jnp.zeros(3), key), None, length=4)[0][0]


@case("reject", "FAD406", "FAD415", args=[KEY, X], **DP)
def one_number_of_noise_for_all_entries(key, x):
    s = jnp.sum(jax.vmap(guarded)(x), axis=0)
    return (s + jax.random.normal(key, ())) / N


@case("reject", "FAD406", "FAD415", args=[KEY, X], **DP)
def uniform_noise_is_not_gaussian(key, x):
    s = jnp.sum(jax.vmap(guarded)(x), axis=0)
    keys = jax.random.split(key)
    other = jnp.sum(jax.vmap(guarded)(x), axis=0) + jax.random.normal(keys[1], (3,))
    return (s + jax.random.uniform(keys[0], (3,))) / N, other / N


CLIENT_KEYS = ("keys", (N,), "client_key", "key<fry>")


@case("accept", args=[CLIENT_KEYS, X], **DP)
def noise_by_the_clients(keys, x):
    add = lambda k, v: guarded(v) + 0.5 * jax.random.normal(k, v.shape)
    return jnp.sum(jax.vmap(add)(keys, x), axis=0) / N


@case("reject", "FAD406", args=[CLIENT_KEYS, X], **DP)
def too_little_noise_by_the_clients(keys, x):
    add = lambda k, v: guarded(v) + 0.01 * jax.random.normal(k, v.shape)
    return jnp.sum(jax.vmap(add)(keys, x), axis=0) / N


@case("reject", "FAD415", args=[CLIENT_KEYS, X], **DP)
def one_sum_without_the_clients_noise(keys, x):
    add = lambda k, v: guarded(v) + jax.random.normal(k, v.shape)
    exact = jnp.sum(jnp.clip(jnp.where(jnp.isfinite(x), x, 0.0), 0, 1), axis=0)
    return jnp.sum(jax.vmap(add)(keys, x), axis=0) / N, exact / N


@case("reject", "FAD504", args=[KEY, X], **DP)
def noise_taken_away_again(key, x):
    z = jax.random.normal(key, (3,))
    return (jnp.sum(jax.vmap(guarded)(x), axis=0) + z) / N - z / N


@case("reject", "FAD504", args=[KEY, X], **DP)
def noise_returned_too(key, x):
    z = jax.random.normal(key, (3,))
    return (jnp.sum(jax.vmap(guarded)(x), axis=0) + z) / N, jnp.exp(z)


@case("reject", "FAD504", args=[KEY, X], **DP)
def noise_key_returned_too(key, x):
    z = jax.random.normal(jax.random.split(key)[0], (3,))
    return (jnp.sum(jax.vmap(guarded)(x), axis=0) + z) / N, jax.random.key_data(key)


@case("caveat", "FAD414", args=[KEY, X], **DP)
def one_sum_noised_twice(key, x):
    s = jnp.sum(jax.vmap(guarded)(x), axis=0)
    a, b = (jax.random.normal(k, (3,)) for k in jax.random.split(key))
    return (s + a) / N, (s + b) / N


@case("accept", args=[KEY, X], **DP)
def next_key_returned(key, x):
    here, following = jax.random.split(key)
    z = jax.random.normal(here, (3,))
    return (jnp.sum(jax.vmap(guarded)(x), axis=0) + z) / N, following


@case("reject", "FAD406", args=[KEY, X], **DP)
def too_little_noise(key, x):
    s = jnp.sum(jax.vmap(guarded)(x), axis=0)
    return (s + 0.01 * jax.random.normal(key, (3,))) / N


@case("reject", "FAD406", "FAD415", args=[KEY, X], **DP)
def noise_with_a_clipped_tail(key, x):
    s = jnp.sum(jax.vmap(guarded)(x), axis=0)
    k1, k2 = jax.random.split(key)
    z = jnp.clip(jax.random.normal(k1, (3,)), -0.1, 0.1)
    t = jnp.sum(jax.vmap(guarded)(x), axis=0) + jax.random.normal(k2, (3,))
    return (s + z) / N, t / N


# One accepted program at least for every rule that accepts, and one refusal for every refusal.


@case("accept", args=[("x", (N, 6), "clients"), ("i", (N,), "clients", "int32")])
def local_pieces(x, i):
    a, b = jnp.split(x, 2, axis=1)
    both = jnp.stack([a, b], axis=1)
    padded = jnp.pad(jnp.concatenate([a, b], axis=1), ((0, 0), (1, 1)))
    turned = jnp.flip(lax.slice_in_dim(padded, 0, 4, axis=1), axis=1)
    best = lax.top_k(turned, 2)[0]
    return jnp.sum(best, axis=0), jnp.sum(jnp.prod(both, axis=1), axis=0), jnp.sum(i, axis=0)


@case("caveat", "FAD602", args=[("x", (N, 6), "clients"), ("i", (N,), "clients", "int32")])
def written_at_an_own_position(x, i):
    row = jax.vmap(lambda r, k: lax.dynamic_update_slice(jnp.zeros(6), r[:2], (k,)))(x, i)
    return jnp.sum(row, axis=0)


@case("accept", style="native", args=[("v", (6,), "clients"), ("i", (), "clients", "int32")])
def native_dynamic_slice(v, i):
    return fad.sum(lax.dynamic_slice(v, (i,), (2,)))


@case("caveat", "FAD602", style="native", args=[V, ("i", (), "clients", "int32")])
def native_written_at_an_own_position(v, i):
    return fad.sum(lax.dynamic_update_slice(jnp.zeros(6), v, (i,)))


@case("accept", args=[("x", (N, 2, 6, 6, 1), "clients"), ("k", (3, 3, 1, 2), "server")])
def own_copy_of_a_kernel(x, k):
    def client(k, x):
        y = lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.sin(y))

    return jnp.sum(jax.vmap(jax.grad(client))(jnp.broadcast_to(k, (N, *k.shape)), x), axis=0)


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


@case("caveat", "FAD605", args=[X])
def branch_on_the_cohort_size(x):
    return jnp.sum(x, axis=0) if x.shape[0] > 5 else x


@case("accept", args=[("x", (N, 8, 4), "clients")])
def local_pooling(x):
    return jnp.sum(lax.reduce_window(x, 0.0, lax.add, (1, 2, 1), (1, 2, 1), "VALID"), axis=0)


@case("reject", "FAD109", args=[("x", (N, 8, 4), "clients")])
def pooling_across_clients(x):
    return jnp.sum(lax.reduce_window(x, 0.0, lax.add, (2, 1, 1), (1, 1, 1), "SAME"), axis=0)


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


@case("accept", args=[("k", (N,), "clients", "key<fry>"), ("raw", (N, 2), "clients", "uint32")])
def client_randomness(k, raw):
    def draw(key, words):
        first, second = jax.random.split(key)
        other = jax.random.wrap_key_data(jax.random.key_data(second) ^ words)
        mixed = jax.random.fold_in(jax.random.key(jax.random.bits(first)), 3)
        return jax.random.normal(other, (2,)) + jax.random.uniform(mixed, (2,))

    return jnp.sum(jax.vmap(draw)(k, raw), axis=0)


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


@case("reject", "FAD107", args=[X])
def solve_that_turns_the_clients(x):
    turned = lax.custom_linear_solve(lambda u: u, x, solve=lambda _, b: jnp.roll(b, 1, 0))
    return jnp.sum(x * turned, axis=0)


@case("accept", style="native", args=[W, V])
def native_custom_rule(w, v):
    return fad.sum(jax.nn.relu(fad.broadcast(w) * v)) + jax.nn.silu(w)


@case("accept", style="native", args=[W, V])
def native_client_loop(w, v):
    wb = fad.broadcast(w)
    return fad.sum(lax.while_loop(lambda c: jnp.sum(c) > 1, lambda c: 0.5 * c, v * wb))


@case("accept", style="native", args=[W, V])
def native_scan_of_rounds(w, v):
    step = lambda c, _: (c - 0.1 * fad.mean(jnp.sin(fad.broadcast(c) * v)), None)
    return lax.scan(step, w, None, length=5)[0]


@case("accept", style="native", args=[W, V])
def native_barrier(w, v):
    a, b = lax.optimization_barrier((fad.broadcast(w), v))
    return fad.sum(a * b)


@case("reject", "FAD102", style="native", args=[W, V])
def native_barrier_does_not_launder(w, v):
    a, b = lax.optimization_barrier((w, v))
    return fad.sum(a * b)


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


@case("accept", style="native", args=[W, V])
def native_decision_that_was_broadcast(w, v):
    decision = fad.broadcast(jnp.sum(w))
    return fad.sum(lax.cond(decision > 0, jnp.sin, jnp.cos, v))


@case("reject", "FAD104", args=[("s", (N, 3), "server"), X])
def rows_of_the_server_in_a_loop(s, x):
    return jnp.sum(lax.scan(lambda c, _: (x, None), s, None, length=2)[0], axis=0)


@case("reject", "FAD002", args=[X])
def foreign_kernel(x):
    return jnp.sum(jax.ffi.ffi_call("k", jax.ShapeDtypeStruct(x.shape, x.dtype))(x), axis=0)


@case("reject", "FAD004", args=[X])
def mutable_cell(x):
    cell = jax.new_ref(jnp.zeros_like(x))
    cell[...] = x
    return jnp.sum(cell[...], axis=0)


@case("reject", "FAD001", args=[X])
def undecided_primitive(x):
    return jnp.sum(jnp.linalg.eigvals(x.T @ x * 0 + jnp.ones((3, 3))).real) + jnp.sum(x)


@case("reject", "FAD108", args=[("x", (2, 3), "clients", "uint16")])
def two_clients_in_one_word(x):
    return jnp.sum(lax.bitcast_convert_type(x.T, jnp.uint32))


@case("reject", "FAD109", args=[X])
def cohort_twice(x):
    return jnp.sum(jnp.concatenate([x, x * x], axis=0), axis=0)


@case("reject", "FAD109", args=[X])
def clip_of_all_clients_together(x):
    return jnp.sum(fad.clip(x, 1.0), axis=0)


@case("reject", "FAD107", args=[X])
def one_client_more(x):
    return jnp.sum(jnp.pad(x, ((1, 0), (0, 0)), constant_values=1.0) ** 2, axis=0)


@case("reject", "FAD106", args=[X])
def clients_in_order(x):
    return jnp.sum(jnp.sort(x, axis=0) * x, axis=0)


@case("reject", "FAD111", style="spmd", args=[V])
def spmd_position(v):
    return lax.psum(v * lax.axis_index("clients"), "clients")


@case("reject", "FAD110", style="spmd", args=[V])
def spmd_groups(v):
    return lax.psum(v, "clients", axis_index_groups=[[0, 1, 2, 3], [4, 5, 6, 7]])


@case("accept", style="spmd", args=[V])
def spmd_local_bits(v):
    return lax.psum(jnp.float32(lax.bitcast_convert_type(v, jnp.uint32) & 1), "clients")


def _drjax():
    import drjax

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


_drjax()
