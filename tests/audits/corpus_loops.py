"""Loops over the axis of clients: those that count the clients, and their twins that do not.

A refused program gives another result when the clients come in another order, or gives clients values
that others do not get. An accepted one does neither.
"""

import jax
import jax.numpy as jnp
from corpus_cases import Case, N, W, X, recording
from jax import lax

CASES: list[Case] = []
case = recording(CASES)
PER_CLIENT = ("w", (N,), "server")
SCALAR = ("c", (), "server")
KEY = ("key", (), "server_key", "key<fry>")
LABELS = ("y", (N,), "clients", "int32")


def rows(body, start, *xs, **options):
    """What a scan makes of every client's row."""
    return lax.scan(body, start, xs[0] if len(xs) == 1 else xs, **options)[1]


def added(body, start, *xs, **options):
    return jax.tree.map(lambda a: jnp.sum(a, axis=0), rows(body, start, *xs, **options))


# A constant that changes from row to row.


@case("reject", "FAD111", args=[X])
def weights_that_double(x):
    return added(lambda c, r: (2 * c, c * r), 1.0, x)


@case("reject", "FAD111", args=[X])
def alternating_signs(x):
    return added(lambda c, r: (-c, c * r), 1.0, x)


@case("reject", "FAD111", args=[X])
def first_row_by_a_flag(x):
    return added(lambda first, r: (False, jnp.where(first, r, 0.0)), True, x)


@case("reject", "FAD111", args=[X])
def last_row_of_a_reversed_loop(x):
    return added(lambda first, r: (False, jnp.where(first, r, 0.0)), True, x, reverse=True)


@case("reject", "FAD111", args=[X])
def counter_as_an_index(x):
    return added(lambda i, r: (i + 1, jnp.zeros((N, 3)).at[i].set(r)), 0, x)


@case("reject", "FAD111", args=[X])
def counter_as_a_slice_start(x):
    return added(lambda i, r: (i + 1, lax.dynamic_slice_in_dim(r, i, 1)), 0, x)


@case("reject", "FAD111", args=[X])
def counter_chooses_a_branch(x):
    return added(lambda i, r: (i + 1, lax.switch(i % 2, [jnp.sin, jnp.cos], r)), 0, x)


@case("reject", "FAD111", args=[X])
def counter_ends_an_inner_loop(x):
    def body(i, r):
        return i + 1, lax.fori_loop(0, i, lambda _, v: 0.5 * v, r)

    return added(body, 0, x)


@case("reject", "FAD111", args=[X])
def counter_inside_a_checkpoint(x):
    return added(jax.checkpoint(lambda i, r: (i + 1, jnp.where(i == 2, r, 0.0))), 0, x)


@case("reject", "FAD111", args=[X])
def counter_inside_a_jit(x):
    return added(jax.jit(lambda i, r: (i + 1, jnp.where(i == 2, r, 0.0))), 0, x)


@case("reject", "FAD111", args=[X])
def counter_inside_a_custom_rule(x):
    @jax.custom_jvp
    def step(i, r):
        return i + 1.0, jnp.where(i == 2, r, 0.0)

    step.defjvp(lambda p, t: (step(*p), step(*t)))
    return added(step, 0.0, x)


@case("reject", "FAD111", args=[X])
def counter_that_a_branch_raises(x):
    def body(i, r):
        return lax.cond(i < 3, lambda j: j + 1, lambda j: j, i), jnp.where(i == 2, r, 0.0)

    return added(body, 0, x)


@case("reject", "FAD111", args=[X])
def counter_that_an_inner_loop_raises(x):
    def body(i, r):
        return lax.fori_loop(0, 2, lambda _, j: j + 1, i), jnp.where(i == 2, r, 0.0)

    return added(body, 0, x)


@case("reject", "FAD111", args=[X])
def two_constants_that_change_places(x):
    def body(pair, r):
        return pair[::-1], r * pair[0]

    return added(body, (1.0, 2.0), x)


@case("reject", "FAD111", args=[X])
def constant_that_is_set_after_the_first_row(x):
    return added(lambda c, r: (5.0, c * r), 1.0, x)


@case("reject", "FAD111", args=[X])
def rolled_constant(x):
    start = jnp.zeros(N)
    body = lambda c, r: (jnp.roll(c.at[0].add(1.0), 1), r * c[1])
    return added(body, start, x)


@case("reject", "FAD111", args=[X])
def key_of_a_constant_split_in_every_row(x):
    def body(key, r):
        key, own = jax.random.split(key)
        return key, r * jax.random.normal(own, (3,))

    return added(body, jax.random.key(3), x)


@case("reject", "FAD111", args=[X])
def raw_key_words_that_are_counted(x):
    def body(words, r):
        draw = jax.random.normal(jax.random.wrap_key_data(words), (3,))
        return words + jnp.uint32(1), r * draw

    return added(body, jnp.zeros(2, jnp.uint32), x)


@case("reject", "FAD111", args=[X])
def complex_phase_of_every_row(x):
    return added(lambda z, r: (z * 1j, jnp.abs(z + r)), jnp.complex64(1), x)


@case("reject", "FAD111", args=[X])
def counter_in_half_precision(x):
    return added(lambda c, r: (c + 1, r * c), jnp.bfloat16(0), x)


@case("reject", "FAD111", args=[X, LABELS])
def counter_meets_a_label(x, y):
    return added(lambda i, r: (i + 1, jnp.where(r[1] == i, r[0], 0.0)), 0, x, y)


@case("reject", "FAD111", args=[X])
def counter_behind_an_unchanged_constant(x):
    def body(carry, r):
        kept, i = carry
        return (kept, i + 1), r * (kept + i)

    return added(body, (1.0, 0.0), x)


@case("reject", "FAD111", args=[X, ("s", (N, 3), "client_state")])
def position_in_a_clients_state(x, s):
    out = rows(lambda i, r: (i + 1.0, r[1] + i), 0.0, x, s)
    return jnp.sum(x, axis=0), out


@case("reject", "FAD111", args=[X])
def loop_inside_rounds(x):
    def round_(c, _):
        return c, added(lambda i, r: (i + 1, jnp.where(i == 0, r, 0.0)), 0, x)

    return lax.scan(round_, 0.0, None, length=2)[1]


@case("reject", "FAD111", args=[X], mode="jvp", wrt=(0,))
def derivative_of_a_counting_loop(x):
    return added(lambda c, r: (c * 0.5, jnp.sin(c * r)), 1.0, x)


@case("reject", "FAD111", "FAD104", args=[X])
def counters_of_an_empty_loop_as_weights(x):
    positions = lax.scan(lambda i, _: (i + 1.0, i), 0.0, None, length=N)[1]
    return jnp.sum(x * positions[:, None], axis=0)


@case("reject", "FAD111", "FAD104", args=[X])
def counters_of_a_loop_beside_the_rows(x):
    marks = lax.scan(lambda i, r: (i + 1.0, (i, r)), 0.0, x)[1][0]
    return jnp.sum(x * marks[:, None], axis=0)


@case("reject", "FAD111", args=[X])
def iota_beside_the_rows(x):
    return added(lambda c, r: (c, r[0] * r[1]), None, x, jnp.arange(6.0))


@case("reject", "FAD106", args=[X])
def running_total(x):
    return added(lambda c, r: (c + r, c), jnp.zeros(3), x)


@case("reject", "FAD107", "FAD106", args=[X])
def associative_scan_of_the_rows(x):
    return jnp.sum(lax.associative_scan(jnp.add, x), axis=0)


@case("reject", "FAD104", "FAD106", "FAD111", args=[X])
def cumulative_ones(x):
    return jnp.sum(x * jnp.cumsum(jnp.ones((N, 1)), axis=0), axis=0)


@case("reject", "FAD107", args=[X])
def rows_read_by_a_counted_loop(x):
    return lax.fori_loop(0, N, lambda i, s: s + i * x[i], jnp.zeros(3))


@case("reject", "FAD107", args=[X])
def rows_read_by_a_while_loop(x):
    body = lambda c: (c[0] + 1, c[1] + c[0] * x[c[0]])
    return lax.while_loop(lambda c: c[0] < N, body, (0, jnp.zeros(3)))[1]


# A batched `while` selects row by row: its predicate may differ between the rows.


def counted_up_to(limits, start=0.0, by=1.0):
    go = lambda i: lax.while_loop(lambda j: j < i, lambda j: j + by, start)
    return jax.vmap(go)(limits)


@case("reject", "FAD111", args=[X])
def batched_loop_that_ends_at_a_position(x):
    return jnp.sum(counted_up_to(jnp.arange(6.0))[:, None] * x, axis=0)


@case("reject", "FAD111", args=[X])
def batched_loop_of_two_carries(x):
    go = lambda i: lax.while_loop(lambda c: c[0] < i, lambda c: (c[0] + 1, c[1] * 0.5), (0, 1.0))
    return jnp.sum(jax.vmap(go)(jnp.arange(N))[1][:, None] * x, axis=0)


@case("reject", "FAD111", args=[X])
def batched_loop_over_rows_of_clients(x):
    go = lambda i, r: lax.fori_loop(0, i, lambda _, v: 0.5 * v, r)
    return jnp.sum(jax.vmap(go)(jnp.arange(N), x), axis=0)


@case("reject", "FAD111", args=[X])
def batched_loop_inside_a_jit(x):
    return jnp.sum(jax.jit(counted_up_to)(jnp.arange(6.0))[:, None] * x, axis=0)


@case("reject", "FAD111", args=[X])
def batched_loop_inside_a_checkpoint(x):
    return jnp.sum(jax.checkpoint(counted_up_to)(jnp.arange(6.0))[:, None] * x, axis=0)


@case("reject", "FAD111", args=[X])
def batched_loop_inside_a_loop(x):
    body = lambda c, _: (c + jnp.sum(counted_up_to(jnp.arange(6.0))[:, None] * x, axis=0), None)
    return lax.scan(body, jnp.zeros(3), None, length=2)[0]


@case("reject", "FAD111", args=[X])
def batched_loop_inside_a_batched_loop(x):
    def go(i):
        return lax.while_loop(
            lambda c: c[0] < 1, lambda c: (c[0] + 1, counted_up_to(i[None])[0]), (0, 0.0)
        )[1]

    return jnp.sum(jax.vmap(go)(jnp.arange(6.0))[:, None] * x, axis=0)


@case("reject", "FAD111", args=[X])
def batched_loop_inside_a_branch(x):
    w = lax.cond(True, counted_up_to, lambda i: 0 * i, jnp.arange(6.0))
    return jnp.sum(w[:, None] * x, axis=0)


@case("reject", "FAD111", args=[X])
def flag_of_a_batched_loop(x):
    go = lambda i: lax.while_loop(lambda c: c & (i > 2), lambda c: ~c, True)
    return jnp.sum(jnp.where(jax.vmap(go)(jnp.arange(N))[:, None], x, 0.0), axis=0)


@case("reject", "FAD111", args=[X])
def switch_by_position_in_a_batched_loop(x):
    go = lambda i: lax.fori_loop(0, i, lambda _, k: (k + 1) % 3, 0)
    picks = jax.vmap(go)(jnp.arange(N))
    choose = lambda k, r: lax.switch(k, [jnp.sin, jnp.cos, jnp.tanh], r)
    return jnp.sum(jax.vmap(choose)(picks, x), axis=0)


@case("reject", "FAD104", args=[X, PER_CLIENT])
def batched_loop_with_a_limit_of_the_server_per_client(x, w):
    return jnp.sum(counted_up_to(w, by=0.25)[:, None] * x, axis=0)


@case("reject", "FAD104", args=[X, PER_CLIENT])
def clients_loop_with_a_limit_of_the_server_per_client(x, w):
    go = lambda i, r: lax.while_loop(
        lambda c: c[0] < i, lambda c: (c[0] + 0.25, 0.5 * c[1]), (0.0, r)
    )
    return jnp.sum(jax.vmap(go)(w, x)[1], axis=0)


@case("accept", args=[X, LABELS])
def batched_loop_with_each_clients_own_limit(x, y):
    go = lambda k, r: lax.fori_loop(0, k, lambda _, v: 0.5 * v, r)
    return jnp.sum(jax.vmap(go)(y, x), axis=0)


@case("accept", args=[X, LABELS])
def batched_loop_over_the_entries_of_every_client(x, y):
    halve = lambda k, e: lax.while_loop(lambda v: v > k, lambda v: 0.5 * v, e)
    return jnp.sum(jax.vmap(lambda k, r: jax.vmap(lambda e: halve(k, e))(r))(y, x), axis=0)


@case("accept", args=[X, LABELS])
def batched_loop_over_entries_with_the_clients_behind(x, y):
    halve = lambda k, e: lax.while_loop(lambda v: v > k, lambda v: 0.5 * v, e)
    columns = jax.vmap(lambda column: jax.vmap(halve)(y, column), in_axes=1, out_axes=1)
    return jnp.sum(columns(x), axis=0)


@case("accept", args=[X])
def batched_loop_with_one_limit(x):
    return jnp.sum(counted_up_to(jnp.full(N, 3.0))[:, None] * x, axis=0)


# A value of the server that changes from row to row: other clients get other values.


@case("reject", "FAD104", args=[X, SCALAR])
def server_weight_that_decays(x, c):
    return added(lambda w, r: (0.9 * w, w * r), c, x)


@case("reject", "FAD104", args=[X, PER_CLIENT])
def server_weights_one_by_one(x, w):
    return added(lambda v, r: (jnp.roll(v, -1), v[0] * r), w, x)


@case("reject", "FAD104", args=[X, KEY])
def server_key_split_in_every_row(x, key):
    def body(k, r):
        k, own = jax.random.split(k)
        return k, r * jax.random.normal(own)

    return added(body, key, x)


@case("reject", "FAD104", args=[X, W])
def server_model_that_moves_inside_a_checkpoint(x, w):
    return added(jax.checkpoint(lambda v, r: (v + 1.0, v * r)), w, x)


@case("reject", "FAD104", args=[X, SCALAR], mode="jvp", wrt=(1,))
def derivative_by_a_server_value_that_decays(x, c):
    return added(lambda w, r: (0.9 * w, jnp.sin(w * r)), c, x)


@case("reject", "FAD111", style="drjax", args=[X])
def drjax_loop_that_counts(x):
    import drjax

    @drjax.program(placements={"clients": N})
    def program(values):
        return drjax.reduce_sum(rows(lambda i, r: (i + 1.0, i * r), 0.0, values))

    return program(x)


@case("reject", "FAD106", style="drjax", args=[X, ("w", (), "server")])
def drjax_broadcast_that_ends_after_one_row(x, w):
    import drjax

    @drjax.program(placements={"clients": N})
    def program(values, model):
        sent = drjax.broadcast(model)
        return drjax.reduce_sum(rows(lambda c, r: (jnp.zeros(N), c[0] * r), sent, values))

    return program(x, w)


@case("reject", "FAD111", "FAD104", args=[X, SCALAR])
def constant_that_becomes_the_servers(x, c):
    return added(lambda w, r: (c, w * r), 0.0, x)


# Twins: no client learns how many came before.


@case("accept", args=[X])
def mapped_rows(x):
    return jnp.sum(lax.map(jnp.sin, x), axis=0)


@case("accept", args=[X])
def constant_that_is_handed_on(x):
    return added(lambda c, r: (c, c * r), 2.0, x)


@case("accept", args=[X])
def nothing_carried(x):
    return added(lambda c, r: (c, jnp.cos(r)), None, x)


@case("accept", args=[X])
def counter_that_nobody_reads(x):
    count, out = lax.scan(lambda i, r: (i + 1, jnp.sin(r)), 0, x)
    return jnp.sum(out, axis=0), count


@case("accept", args=[X])
def counter_that_nobody_reads_inside_a_checkpoint(x):
    count, out = lax.scan(jax.checkpoint(lambda i, r: (i + 1, jnp.sin(r))), 0, x)
    return jnp.sum(out, axis=0), count


@case("accept", args=[X])
def counter_that_nobody_reads_inside_a_jit(x):
    count, out = lax.scan(jax.jit(lambda i, r: (i + 1, jnp.sin(r))), 0, x)
    return jnp.sum(out, axis=0), count


@case("accept", args=[X])
def constant_handed_on_through_a_checkpoint(x):
    return added(jax.checkpoint(lambda c, r: (c, c * r)), 2.0, x)


@case("accept", args=[X])
def constant_handed_on_through_a_barrier(x):
    return added(lambda c, r: (lax.optimization_barrier(c), c * r), 2.0, x)


@case("accept", args=[X])
def constant_handed_on_as_a_copy(x):
    return added(lambda c, r: (jnp.array(c, copy=True), r * c), 2.0, x)


@case("accept", args=[X])
def constant_handed_on_without_its_derivative(x):
    return added(lambda c, r: (lax.stop_gradient(c), r * c), 2.0, x)


@case("reject", "FAD111", args=[X])
def copy_of_a_counter(x):
    return added(lambda c, r: (jnp.array(lax.stop_gradient(c) + 1.0, copy=True), r * c), 2.0, x)


@case("accept", args=[X])
def constant_handed_on_through_a_branch(x):
    def body(c, r):
        same, out = lax.cond(r[0] > 0, lambda a, v: (a, a * v), lambda a, v: (a, jnp.sin(v)), c, r)
        return c, out + 0 * same

    return added(body, 2.0, x)


@case("accept", args=[X])
def counter_local_to_a_row(x):
    def client(r):
        return lax.scan(lambda i, v: (i + 1, i * v), 0, r)[1]

    return jnp.sum(lax.map(client, x), axis=0)


@case("accept", args=[X])
def steps_local_to_a_row(x):
    return added(lambda c, r: (c, lax.fori_loop(0, 3, lambda i, v: v * 0.5 + i, r)), None, x)


@case("accept", args=[X])
def loop_of_a_row_that_ends_by_its_data(x):
    client = lambda r: lax.while_loop(lambda v: jnp.sum(v**2) > 1, lambda v: 0.5 * v, r)
    return jnp.sum(lax.map(client, x), axis=0)


@case("accept", args=[X])
def reversed_rows_without_a_carry(x):
    return added(lambda c, r: (c, r**2), None, x, reverse=True)


@case("accept", args=[X, LABELS])
def two_arrays_of_rows(x, y):
    return added(lambda c, r: (c, jnp.where(r[1] > 0, r[0], 0.0)), None, x, y)


@case("accept", args=[X])
def equal_constants_beside_the_rows(x):
    return added(lambda c, r: (c, r[0] * r[1]), None, x, jnp.ones(N))


@case("accept", args=[X])
def key_of_a_constant_that_is_handed_on(x):
    def body(key, r):
        return key, r + jax.random.normal(key, (3,))

    return added(body, jax.random.key(3), x)


@case("accept", args=[X])
def mapped_twice(x):
    return jnp.sum(lax.map(jnp.tanh, lax.map(jnp.sin, x)), axis=0)


@case("accept", args=[X])
def rounds_around_a_map(x):
    def round_(c, _):
        return c, jnp.sum(lax.map(jnp.sin, x), axis=0)

    return lax.scan(round_, 0.0, None, length=2)[1]


@case("accept", args=[X], mode="jvp", wrt=(0,))
def derivative_of_mapped_rows(x):
    return jnp.sum(lax.map(jnp.sin, x), axis=0)


@case("caveat", "FAD102", args=[X, SCALAR])
def server_value_that_is_handed_on(x, c):
    return added(lambda w, r: (w, w * r), c, x)


@case("caveat", "FAD102", args=[X, W])
def server_model_inside_a_map(x, w):
    return jnp.sum(lax.map(lambda r: r * w, x), axis=0)


@case("accept", style="drjax", args=[X])
def drjax_mapped_rows(x):
    import drjax

    @drjax.program(placements={"clients": N})
    def program(values):
        return drjax.reduce_sum(lax.map(jnp.sin, values))

    return program(x)
