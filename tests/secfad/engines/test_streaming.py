"""Chunks of clients, a mesh of devices and unequal clients give the numbers of the plain simulation."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.cohorts import bucket, client_keys, pad
from secfad.errors import CohortError

S, C = fad.SERVER, fad.CLIENTS
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=3), jnp.float32)
X = jnp.asarray(RNG.normal(size=(7, 3)), jnp.float32)


@fad.computation(w=S, x=C)
def two_rounds(w, x):
    held = jnp.tanh(fad.broadcast(w, name="model") * x)
    first = fad.mean(held, name="first")
    return fad.mean(jnp.sum(jnp.cos(fad.broadcast(first) * held)), name="second"), held


@fad.computation(w=S, x=C)
def controlled(w, x):
    def step(carry, i):
        w, state = carry
        g = fad.mean(jnp.sin(fad.broadcast(w) * x) + state, name="g")
        w = jax.lax.cond(i > 0, lambda w: w - fad.sum(fad.broadcast(w) * x * 0.1), lambda w: w, w)
        return (w - 0.3 * g, 0.5 * state + x), (jnp.sum(g), state)

    carry, (losses, states) = jax.lax.scan(step, (w, jnp.zeros(3)), jnp.arange(3))
    total = jax.lax.while_loop(lambda t: t < 1, lambda t: t + fad.sum(1.0), jnp.sum(carry[0]) * 0)
    return carry, losses, states, total


def scalar(w, x):
    return two_rounds.fun(w, x)[0]


PROGRAMS = {
    "two_rounds": two_rounds,
    "controlled": controlled,
    "reverse": fad.grad(fad.computation(w=S, x=C)(scalar), mode="reverse"),
    "mixed": fad.value_and_grad(fad.computation(w=S, x=C)(scalar), mode="mixed"),
}


def close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_chunks_of_any_size_give_the_plain_numbers(name, chunk_size):
    if chunk_size in (1, 100) and name not in ("two_rounds", "controlled"):
        pytest.skip("sizes at the ends are tested on the values")
    got = fad.simulate(PROGRAMS[name], chunk_size=chunk_size)(W, X)
    close(got, fad.simulate(PROGRAMS[name])(W, X))


def temporary_bytes(computation, w, clients, chunk_size, one_client=()):
    run = jax.jit(fad.simulate(computation, chunk_size=chunk_size))
    x = jax.eval_shape(lambda: jnp.zeros((clients, *one_client)))
    return run.lower(w, x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_chunks_need_no_memory_per_client():
    @fad.computation(w=S, seed=C)
    def loss(w, seed):
        data = jax.random.normal(jax.random.key(seed.astype(int)), (64, w.shape[0]))
        return fad.mean(jnp.mean((data @ fad.broadcast(w)) ** 2), name="loss")

    w = jnp.zeros(256)
    large = temporary_bytes(fad.grad(loss), w, 1000, 10)
    assert large < 1.2 * temporary_bytes(fad.grad(loss), w, 100, 10)
    assert temporary_bytes(fad.grad(loss), w, 1000, None) > 10 * large


def received_in_two_rounds(w, x):
    held = jnp.tanh(fad.broadcast(w))
    first = fad.mean(jnp.sum(held) * x, name="first")
    return fad.mean(jnp.sum(held) * x * fad.broadcast(first), name="second")


def received_in_a_loop(w, x):
    def step(w, _):
        return w - fad.mean(jnp.tanh(fad.broadcast(w)) * x), None

    return jnp.sum(jax.lax.scan(step, w, None, length=3)[0])


def received_in_a_branch(w, x):
    def branch(fun):
        return lambda w: (fad.mean(x), fun(fad.broadcast(w)))

    first, held = jax.lax.cond(w[0] > 0, branch(jnp.sin), branch(jnp.cos), w)
    return fad.mean(jnp.sum(held) * x * fad.broadcast(first))


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize(
    ("fun", "derivative"),
    [
        (received_in_two_rounds, False),
        (received_in_two_rounds, True),
        (received_in_a_loop, True),
        (received_in_a_branch, False),
    ],
)
def test_what_all_clients_hold_alike_is_kept_once(fun, derivative):
    computation = fad.computation(w=S, x=C)(fun)
    if derivative:
        computation = fad.grad(computation, mode="reverse")
    w, x = jnp.linspace(0.1, 1, 500), jnp.arange(5.0)
    close(fad.simulate(computation, chunk_size=2)(w, x), fad.simulate(computation)(w, x))
    # One value of `w` for each of the clients would take twice this.
    assert temporary_bytes(computation, w, 100, 10) < 100 * w.nbytes / 2


@pytest.mark.parametrize(
    ("size", "error", "words"),
    [(0, ValueError, "at least 1, got 0"), (2.5, TypeError, "whole number, .* got 2.5")],
)
def test_chunk_size_is_a_number_of_clients(size, error, words):
    with pytest.raises(error, match=words):
        fad.simulate(two_rounds, chunk_size=size)


def test_chunks_of_short_numbers_are_added_up_in_long_ones():
    count = fad.computation(x=C)(lambda x: fad.sum(x))
    total = fad.simulate(count, chunk_size=2)(jnp.ones(600, jnp.bfloat16))
    # 256 + 1 is 256 in bfloat16.
    assert (total, total.dtype) == (600, jnp.bfloat16)


@pytest.mark.parametrize("chunk_size", [None, 7])
def test_sums_of_what_all_clients_hold_alike_wrap_around_as_others_do(chunk_size):
    @fad.computation(w=S, x=C)
    def sums(w, x):
        return fad.sum((x, fad.broadcast(w), jnp.int8(3)))

    totals = fad.simulate(sums, chunk_size=chunk_size)(jnp.int8(3), jnp.full(200, 3, jnp.int8))
    assert [int(t) for t in totals] == [600 - 512] * 3


def test_a_simulation_follows_the_precision_that_is_set_for_a_while():
    run = fad.simulate(fad.computation(w=S, x=C)(lambda w, x: fad.mean(x @ fad.broadcast(w))))
    run(W, X)
    with jax.default_matmul_precision("highest"):
        assert "HIGHEST" in str(jax.make_jaxpr(run)(W, X))


def test_a_simulation_in_chunks_is_differentiable_and_mappable():
    def jacobian(**options):
        over_models = jax.vmap(jax.jacrev(fad.simulate(two_rounds, **options)), (0, None))
        return over_models(jnp.stack([W, 2 * W]), X)

    close(jacobian(chunk_size=3), jacobian())


MESH = """
import jax, jax.numpy as jnp, numpy as np, pytest
import secfad as fad
from secfad.errors import CohortError

@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def loss(w, x):
    held = jnp.tanh(fad.broadcast(w) * x)
    first = fad.mean(held, name="first")
    return fad.mean(jnp.sum(jnp.cos(fad.broadcast(first) * held)), name="second")

@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def kept(w, x):
    held = jnp.tanh(fad.broadcast(w) * x)
    return fad.sum(held * fad.broadcast(fad.mean(held))), held

mesh = jax.make_mesh((4, 2), ("a", "b"))
split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
w, x = jnp.arange(3.0), np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
for computation in (fad.value_and_grad(loss), kept):
    expected = fad.simulate(computation)(w, x)
    for options in ({}, {"chunk_size": 8}, {"chunk_size": 16}, {"chunk_size": 41}):
        run = jax.jit(fad.simulate(computation, mesh=mesh, **options))
        args = w, jax.device_put(x, split)
        compiled = run.lower(*args).compile()
        for a, b in zip(jax.tree.leaves(compiled(*args)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5)
        text = compiled.as_text()
        assert "all-reduce(" in text, options
        # Nothing of a client moves to another device.
        assert not any(f"{op}(" in text for op in ("all-gather", "all-to-all", "collective-permute"))
for clients, chunk_size, words in ((39, None, "8 devices .* got 39"), (40, 12, "chunk_size .* got 12")):
    with pytest.raises(CohortError, match=words):
        fad.simulate(loss, mesh=mesh, chunk_size=chunk_size)(w, x[:clients])
print(len(jax.devices()))
"""


EXPLICIT = """
import contextlib
import jax, jax.numpy as jnp, numpy as np, pytest, secfad as fad
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from secfad.errors import ArgumentError

@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def kept(w, x):
    held = jnp.tanh(fad.broadcast(w) * x)
    return fad.sum(held * fad.broadcast(fad.mean(held))), held

derived = fad.value_and_grad(
    fad.computation(w=fad.SERVER, x=fad.CLIENTS)(lambda w, x: jnp.sum(jnp.cos(kept(w, x)[0])))
)
mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
laid = lambda value, *axes: jax.device_put(value, NamedSharding(mesh, PartitionSpec(*axes)))
w, x = jnp.arange(4.0), np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
arguments = (w, x), (laid(w), laid(x, ("a", "b"))), (laid(w, "a"), laid(x, "b", "a"))
same = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5)
for computation in (kept, derived):
    expected = fad.simulate(computation)(w, x)
    program = fad.trace(computation, w, x[0])
    for context in (contextlib.nullcontext(), jax.set_mesh(mesh)):
        with context:
            for args in arguments:
                runs = [fad.execute(program, *args)]
                for chunk_size in (None, 8):
                    runs.append(fad.simulate(computation, mesh=mesh, chunk_size=chunk_size)(*args))
                for got in runs:
                    jax.tree.map(same, got, expected)
with jax.set_mesh(mesh):
    # Results can be used with others on the mesh of the context.
    same(2 * fad.simulate(kept, mesh=mesh)(w, x)[0] + laid(w), 2 * fad.simulate(kept)(w, x)[0] + w)
with pytest.raises(ArgumentError, match="explicit axes. Give the mesh"):
    fad.simulate(kept, chunk_size=8)(*arguments[1])
print(len(jax.devices()))
"""


@pytest.mark.sample(quick=0)
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(MESH, id="automatic"),
        pytest.param(EXPLICIT, id="explicit", marks=pytest.mark.slow),
    ],
)
def test_a_mesh_of_eight_devices_gives_the_plain_numbers(program):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        env={**_environment(), **flags},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "8"


def _environment():
    import os
    from pathlib import Path

    return {**os.environ, "PYTHONPATH": str(Path(fad.__file__).parent.parent)}


def test_clients_have_their_own_keys_in_a_cohort_of_any_size():
    keys = client_keys(jax.random.key(0), 5)
    draws = jax.vmap(jax.random.normal)(keys)
    assert len(set(draws.tolist())) == 5
    np.testing.assert_array_equal(
        jax.random.key_data(client_keys(jax.random.key(0), 3)), jax.random.key_data(keys)[:3]
    )


RAGGED = [{"x": RNG.normal(size=(n, 2)), "y": RNG.normal(size=n)} for n in (3, 1, 9, 4, 2)]


def federated_mean_loss(batch, weights):
    @fad.computation(batch=C, weight=C)
    def loss(batch, weight):
        per_example = (batch["x"].sum(1) - batch["y"]) ** 2
        return fad.sum((jnp.vdot(weight, per_example), jnp.sum(weight)), name="loss")

    return fad.simulate(loss)(jax.tree.map(jnp.asarray, batch), jnp.asarray(weights))


def test_padded_clients_give_the_loss_over_real_examples():
    total, count = federated_mean_loss(*pad(RAGGED))
    expected = sum(float(((t["x"].sum(1) - t["y"]) ** 2).sum()) for t in RAGGED)
    np.testing.assert_allclose([total, count], [expected, 19], rtol=1e-5)


def test_buckets_hold_every_client_once_with_little_padding():
    buckets = bucket(RAGGED)
    members = np.concatenate([m for m, _, _ in buckets])
    assert sorted(members.tolist()) == [0, 1, 2, 3, 4]
    assert [w.shape[1] for _, _, w in buckets] == [1, 2, 4, 16]
    totals = [federated_mean_loss(batch, weights) for _, batch, weights in buckets]
    together = federated_mean_loss(*pad(RAGGED))
    np.testing.assert_allclose(np.sum(totals, axis=0), np.asarray(together), rtol=1e-5)


@pytest.mark.parametrize(
    ("trees", "options", "words"),
    [
        ([], {}, "at least one client"),
        ([np.ones((3, 2))], {"length": 2}, "got 3 at client 0"),
        ([{"x": np.ones(3), "y": np.ones(2)}], {}, r"client 0, got lengths \[2, 3\]"),
    ],
)
def test_unusable_ragged_data_is_refused(trees, options, words):
    with pytest.raises(CohortError, match=words):
        pad(trees, **options)
