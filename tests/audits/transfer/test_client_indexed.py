"""Clients that write at an index of their own: single rows are readable, and FAD602 says so."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import audits
import privacy
import secfad as fad

N, WIDTH = 6, 3
ARGS = [
    audits.Arg("i", (N,), "int32", "clients"),
    audits.Arg("x", (N, WIDTH), "float32", "clients"),
]
NATIVE = [
    audits.Arg("i", (), "int32", "clients"),
    audits.Arg("x", (WIDTH,), "float32", "clients"),
]
SLOTS = {}


def writes(fn):
    """A client function of its index and its data whose sum shows every client's data."""
    SLOTS[fn.__name__] = fn
    return fn


def padded(v):
    return jnp.concatenate([v, jnp.zeros((N - 1) * WIDTH)])


@writes
def scatter(i, v):
    return jnp.zeros((N, WIDTH)).at[i].set(v)


@writes
def added_scatter(i, v):
    return jnp.zeros((N, WIDTH)).at[i].add(v)


@writes
def update_of_a_slice(i, v):
    return lax.dynamic_update_slice(jnp.zeros((N, WIDTH)), v[None], (i, 0))


@writes
def one_hot(i, v):
    return jax.nn.one_hot(i, N)[:, None] * v


@writes
def comparison_with_positions(i, v):
    return jnp.where(jnp.arange(N)[:, None] == i, v, 0)


@writes
def two_comparisons_with_positions(i, v):
    positions = jnp.arange(N)[:, None]
    return jnp.where((positions <= i) & (positions >= i), v, 0)


@writes
def difference_from_positions(i, v):
    return jnp.where(jnp.arange(N)[:, None] - i == 0, v, 0)


@writes
def row_of_an_identity(i, v):
    return jnp.eye(N)[i][:, None] * v


@writes
def scatter_then_product(i, v):
    return jnp.eye(N) @ jnp.zeros((N, WIDTH)).at[i].set(v)


@writes
def scatter_then_transform(i, v):
    return jnp.fft.ifft(jnp.fft.fft(scatter(i, v), axis=0), axis=0).real


@writes
def scatter_then_local_sum(i, v):
    return jnp.sum(jnp.zeros((N, WIDTH, 2)).at[i, :, 0].set(v), axis=2)


@writes
def rolled(i, v):
    return jnp.roll(padded(v), WIDTH * i)


@writes
def window_of_padded_data(i, v):
    beside = jnp.concatenate([jnp.zeros((N - 1) * WIDTH), padded(v)])
    return lax.dynamic_slice(beside, (WIDTH * (N - 1 - i),), (N * WIDTH,))


@writes
def switched(i, v):
    return lax.switch(i, [lambda v, k=k: jnp.zeros((N, WIDTH)).at[k].set(v) for k in range(N)], v)


@writes
def sorted_by_the_index(i, v):
    keys = (jnp.arange(N) - i) % N
    rows = jnp.concatenate([v[None], jnp.zeros((N - 1, WIDTH))])
    return lax.sort((jnp.broadcast_to(keys[:, None], rows.shape), rows), dimension=0, num_keys=1)[1]


@writes
def inside_a_checkpoint(i, v):
    return jax.checkpoint(scatter)(i, v)


@writes
def inside_a_loop(i, v):
    return lax.scan(lambda c, _: (c + 0.5 * scatter(i, v), None), jnp.zeros((N, WIDTH)), None, 2)[0]


@writes
def below_and_not_below_the_next(i, v):
    below = lambda k: (jnp.arange(N) < k)[:, None]
    return jnp.where(below(i + 1), v, 0) - jnp.where(below(i), v, 0)


@writes
def beside_entries_that_are_everywhere(i, v):
    return scatter(i, v) + 1e-9 * jnp.outer(jnp.arange(1.0, N + 1), v)


@writes
def one_hot_beside_entries_that_are_everywhere(i, v):
    return (jax.nn.one_hot(i, N)[:, None] * v) - 1e-9 * jnp.broadcast_to(v, (N, WIDTH))


@writes
def transposed_and_back(i, v):
    return jnp.transpose(jnp.transpose(scatter(i, v))[::-1])[:, ::-1]


@writes
def summed_over_another_axis(i, v):
    return jnp.sum(jnp.broadcast_to(scatter(i, v)[:, None], (N, 4, WIDTH)), axis=1) / 4


@writes
def product_with_an_identity(i, v):
    return jnp.eye(N) @ scatter(i, v)


def rules(report):
    return {f.rule for f in report.findings}


@pytest.mark.sample(quick=8)
@pytest.mark.parametrize("name", SLOTS)
def test_a_client_that_chooses_its_entries_is_named(name):
    client = SLOTS[name]
    program = lambda i, x: jnp.sum(jax.vmap(client)(i, x), axis=0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(N, WIDTH)), jnp.float32)
    shown = np.asarray(program(jnp.arange(N), x)).reshape(-1, WIDTH)
    order = np.argsort(shown[:, 0]), np.argsort(np.asarray(x)[:, 0])
    np.testing.assert_allclose(shown[order[0]], np.asarray(x)[order[1]], atol=1e-5)
    assert "FAD602" in rules(audits.check(program, ARGS, style="stacked"))
    assert "FAD602" in rules(audits.check(lambda i, x: fad.sum(client(i, x)), NATIVE))


HONEST = {
    "own entry": lambda i, v: v[i],
    "loss of a label": lambda i, v: jax.nn.log_softmax(v)[i],
    "one-hot loss": lambda i, v: jnp.sum(jax.nn.one_hot(i, WIDTH) * jax.nn.log_softmax(v)),
    "window of own data": lambda i, v: lax.dynamic_slice(v, (i,), (2,)),
    "two branches": lambda i, v: lax.cond(i > 0, jnp.sin, jnp.cos, v),
    "sorted data": lambda i, v: jnp.sort(v),
    "masked entries": lambda i, v: jnp.where(v > 0, v, 0),
    "number of a scatter": lambda i, v: jnp.sum(scatter(i, v)),
}


@pytest.mark.parametrize("name", HONEST)
def test_a_client_that_only_reads_at_its_index_is_not_named(name):
    client = HONEST[name]
    assert rules(audits.check(lambda i, x: fad.sum(client(i, x)), NATIVE)) == set()


# Labels, counts, tokens and masks: client integers that place nothing.
INTEGERS = [
    audits.Arg("i", (), "int32", "clients"),
    audits.Arg("labels", (5,), "int32", "clients"),
    audits.Arg("tokens", (8,), "int32", "clients"),
    audits.Arg("x", (5, WIDTH), "float32", "clients"),
    audits.Arg("w", (WIDTH, 4), "float32", "server"),
    audits.Arg("table", (10, WIDTH), "float32", "server"),
    audits.Arg("count", (), "int32", "clients"),
]
USUAL = {
    "cross entropy by take": lambda i, y, t, x, w, e, c: jnp.mean(
        jnp.take_along_axis(jax.nn.log_softmax(x @ w), y[:, None] % 4, 1)
    ),
    "cross entropy by one-hot": lambda i, y, t, x, w, e, c: jnp.sum(
        jax.nn.one_hot(y, 4) * jax.nn.log_softmax(x @ w)
    ),
    "gradient of cross entropy": lambda i, y, t, x, w, e, c: jax.grad(
        lambda v: jnp.sum(jax.nn.one_hot(y, 4) * jax.nn.log_softmax(x @ v))
    )(w),
    "gradient of optax": lambda i, y, t, x, w, e, c: jax.grad(
        lambda v: jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x @ v, y))
    )(w),
    "accuracy": lambda i, y, t, x, w, e, c: jnp.mean(
        (jnp.argmax(x @ w, -1) == y).astype(jnp.float32)
    ),
    "count of examples": lambda i, y, t, x, w, e, c: c.astype(jnp.float32),
    "weighted by count": lambda i, y, t, x, w, e, c: c * jnp.mean(x, 0),
    "mask by count": lambda i, y, t, x, w, e, c: jnp.sum(
        jnp.where((jnp.arange(5) < c)[:, None], x, 0), 0
    ),
    "mean of the first": lambda i, y, t, x, w, e, c: (
        jnp.sum(x * (jnp.arange(5) < c)[:, None], 0) / jnp.maximum(c, 1)
    ),
    "embedding looked up, mean": lambda i, y, t, x, w, e, c: jnp.mean(e[t], 0),
    "embedding times head": lambda i, y, t, x, w, e, c: jnp.mean(e[t] @ w, 0),
    "padded tokens masked": lambda i, y, t, x, w, e, c: jnp.sum(e[t] * (t != 0)[:, None], 0),
    "sequence length": lambda i, y, t, x, w, e, c: jnp.sum(t != 0).astype(jnp.float32),
    "integer features": lambda i, y, t, x, w, e, c: t.astype(jnp.float32),
    "own label's loss": lambda i, y, t, x, w, e, c: -jax.nn.log_softmax(x[0] @ w)[y[0]],
    "sorted own values": lambda i, y, t, x, w, e, c: jnp.sort(x, axis=0),
    "top two of own": lambda i, y, t, x, w, e, c: lax.top_k(x[0], 2)[0],
    "rank statistic": lambda i, y, t, x, w, e, c: jnp.sum(jnp.argsort(x[:, 0]) * 1.0),
    "number of a class": lambda i, y, t, x, w, e, c: jnp.sum(y == 2).astype(jnp.float32),
    "positional encoding": lambda i, y, t, x, w, e, c: jnp.mean(
        e[t] + jnp.sin(jnp.arange(8.0))[:, None], 0
    ),
    "causal mask": lambda i, y, t, x, w, e, c: (
        lambda h: jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((8, 8))) > 0, h @ h.T, -1e9)) @ h
    )(e[t]).mean(0),
    "loop as often as own count": lambda i, y, t, x, w, e, c: lax.fori_loop(
        0, jnp.clip(c, 0, 5), lambda k, v: 0.5 * v + x[k], jnp.zeros(WIDTH)
    ),
    "last token": lambda i, y, t, x, w, e, c: e[t[jnp.clip(c, 0, 7)]],
    "parity": lambda i, y, t, x, w, e, c: jnp.where(i % 2 == 0, 1.0, -1.0) * jnp.mean(x, 0),
    "two branches on a class": lambda i, y, t, x, w, e, c: lax.cond(
        y[0] > 0, jnp.sin, jnp.cos, x[0]
    ),
    "bucket as a feature": lambda i, y, t, x, w, e, c: (i // 10).astype(jnp.float32) * x[0],
    "hash as a feature": lambda i, y, t, x, w, e, c: (
        ((i * 2654435) % 97).astype(jnp.float32) / 97 * x[0]
    ),
    "squared error of an integer target": lambda i, y, t, x, w, e, c: jnp.sum(
        (x @ w - y[:, None]) ** 2
    ),
    "window of own data": lambda i, y, t, x, w, e, c: lax.dynamic_slice(
        x, (jnp.clip(c, 0, 3), 0), (2, WIDTH)
    ),
    "cumulative sum of own": lambda i, y, t, x, w, e, c: jnp.cumsum(x, 0)[c % 5],
    "label smoothing": lambda i, y, t, x, w, e, c: (
        -jnp.mean((0.9 * jax.nn.one_hot(y, 4) + 0.025) * jax.nn.log_softmax(x @ w))
    ),
    "per-example weights": lambda i, y, t, x, w, e, c: jnp.sum(
        jnp.array(1.0) / (1 + y)[:, None] * x, 0
    ),
    "median of own": lambda i, y, t, x, w, e, c: jnp.median(x, 0),
}


@pytest.mark.parametrize("name", USUAL)
def test_labels_counts_tokens_and_masks_name_nobody(name):
    def program(i, labels, tokens, x, w, table, count):
        known = fad.broadcast(w), fad.broadcast(table)
        return fad.sum(USUAL[name](i, labels, tokens, x, *known, count))

    assert rules(audits.check(program, INTEGERS)) == set()


KEYED = [*NATIVE, audits.Arg("key", (), "key<fry>", "client_key")]
SHUFFLES = {
    "permutation": lambda i, v, key: jax.random.permutation(key, v),
    "choice": lambda i, v, key: jax.random.choice(key, v, (2,), replace=False),
    "cells": lambda i, v, key: jnp.zeros(N).at[jax.random.randint(key, (), 0, N)].add(v[0]),
    "bootstrap": lambda i, v, key: v[jax.random.randint(jax.random.fold_in(key, 3), (5,), 0, 3)],
    "dropped": lambda i, v, key: v * jax.random.bernoulli(jax.random.split(key)[0], 0.5, (WIDTH,)),
    "in a loop": lambda i, v, key: lax.scan(
        lambda k, _: (jax.random.split(k)[0], jax.random.permutation(k, v)), key, None, 2
    )[1],
}
SEEDED = {
    "seed": lambda i, v, key: jax.random.randint(jax.random.key(i), (), 0, N),
    "fold": lambda i, v, key: jax.random.randint(jax.random.fold_in(key, i), (), 0, N),
    "sum": lambda i, v, key: (i + jax.random.randint(key, (), 0, 1)) % N,
    "branch": lambda i, v, key: lax.cond(
        i > 2, lambda k: jax.random.randint(k, (), 0, 2), lambda k: jax.random.randint(k, (), 2, 4), key
    ),
    "loop": lambda i, v, key: lax.while_loop(
        lambda c: c[1] < i, lambda c: (c[0] + 1, c[1] + 1),
        (jax.random.randint(key, (), 0, 1), 0),
    )[0],
    "row": lambda i, v, key: jax.random.randint(jax.random.split(key, N)[i], (), 0, N),
}  # fmt: skip


@pytest.mark.parametrize("name", SHUFFLES)
def test_what_a_client_draws_at_random_names_nobody(name):
    client = SHUFFLES[name]
    assert rules(audits.check(lambda i, v, key: fad.sum(client(i, v, key)), KEYED)) == set()


@pytest.mark.parametrize("name", SEEDED)
def test_an_index_that_other_values_decide_too_is_named(name):
    index = SEEDED[name]
    program = lambda i, v, key: fad.sum(jnp.zeros((N, WIDTH)).at[index(i, v, key)].add(v))
    assert "FAD602" in rules(audits.check(program, KEYED))


def test_many_sums_of_one_line_are_one_finding():
    def program(i, x):
        table = scatter(i, x)
        return [fad.sum(k * table) for k in range(2, 12)]

    report = audits.check(program, NATIVE)
    named = [f for f in report.findings if f.rule == "FAD602"]
    assert len(named) == 1
    assert "0, 1, 2" in named[0].message


def test_nothing_is_said_of_slots_under_a_mechanism():
    @fad.computation(i=fad.CLIENTS, x=fad.CLIENTS)
    def program(i, x):
        return fad.sum(scatter(i, x))

    specs = [a.spec for a in NATIVE]
    plain = audits.certify(program, *specs)
    assert "FAD602" in {o.rule for o in plain.obligations}
    mechanism = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
    private = audits.certify(privacy.privatize(program, *specs, mechanism=mechanism))
    assert "FAD602" not in {o.rule for o in private.obligations}
