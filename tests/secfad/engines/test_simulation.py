"""A simulation is made once per computation and options, and lives as long as the computation."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad

S, C = fad.SERVER, fad.CLIENTS
W, X = np.ones(3, np.float32), np.arange(12, dtype=np.float32).reshape(4, 3)


def counted():
    """A computation, and how often its function ran."""
    runs = []

    @fad.computation(w=S, x=C)
    def loss(w, x):
        runs.append(1)
        return fad.mean(jnp.sum(jnp.tanh(fad.broadcast(w) * x)))

    return loss, runs


USES = {
    "simulate": lambda f: fad.simulate(f)(W, X),
    "in chunks": lambda f: fad.simulate(f, chunk_size=2)(W, X),
    "of a gradient": lambda f: fad.simulate(fad.grad(f))(W, X),
    "of a second derivative": lambda f: fad.simulate(fad.jacobian(fad.grad(f, mode="mixed")))(W, X),
    "of a jvp": lambda f: fad.simulate(fad.jvp(f))(W, X, W),
    "of a vjp": lambda f: fad.simulate(fad.vjp(f, mode="factored"))(W, X, np.float32(1)),
    "compiled": lambda f: jax.jit(fad.simulate(f))(W, X),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_loop_traces_and_compiles_once(use):
    loss, runs = counted()
    expected = use(loss)
    traced = len(runs)
    for _ in range(3):
        got = use(loss)
        jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert len(runs) == traced


def test_other_shapes_dtypes_and_settings_are_traced_anew():
    loss, runs = counted()
    run = fad.simulate(loss)
    seen = []
    for args in ((W, X), (W, X[:2]), (W[:2], X[:, :2]), (W.astype(np.float16), X), (1.0, X)):
        run(*args)
        seen.append(len(runs))
    with jax.default_matmul_precision("highest"):
        run(W, X)
    seen.append(len(runs))
    # Another number of clients alone is compiled, and not traced.
    assert seen[1] == seen[0]
    assert seen[2:] == sorted(set(seen[2:]))


def test_what_was_made_of_a_computation_goes_with_it():
    loss, _ = counted()
    for use in USES.values():
        use(loss)
    there = [weakref.ref(loss), weakref.ref(fad.grad(loss)), weakref.ref(fad.simulate(loss))]
    del loss
    gc.collect()
    assert [ref() for ref in there] == [None, None, None]


def test_a_computation_over_values_of_an_outer_trace_is_not_kept():
    @jax.jit
    def outer(scale):
        made = fad.computation(w=S, x=C)(
            lambda w, x: fad.mean(jnp.sum(fad.broadcast(w) * x * scale))
        )
        return fad.simulate(made)(W, X) + fad.simulate(made)(W, X)

    for scale in (1.0, 3.0):
        np.testing.assert_allclose(outer(scale), 2 * scale * X.sum(1).mean())
