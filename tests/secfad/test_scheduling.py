"""When a step happens: what both sides know after a loop is not known before it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad

S, C = fad.SERVER, fad.CLIENTS
W, X = jnp.asarray([0.5, -1.0, 2.0]), jnp.arange(15.0).reshape(5, 3) / 10


@fad.computation(w=S, x=C)
def counted(w, x):
    """Rounds with a counter that depends on no argument, and is used once they are over."""

    def step(carry, _):
        total, count = carry
        return (total + fad.mean(jnp.tanh(jnp.sum(x * fad.broadcast(w + total)))), count + 1), None

    (total, count), _ = jax.lax.scan(step, (jnp.float32(0), 0), None, length=4)
    known = count * 2.0 + 1
    branch = jax.lax.cond(count > 3, lambda: fad.mean(jnp.sum(x) * known), lambda: total)
    return total * known + branch * fad.mean(jnp.sum(fad.broadcast(w) * x) * jnp.sin(known))


def central(w, x):
    total = 0.0
    for _ in range(4):
        total += jnp.mean(jnp.tanh(jnp.sum(x * (w + total), 1)))
    return total * 9 + jnp.mean(jnp.sum(x, 1)) * 9 * jnp.mean(x @ w) * jnp.sin(9.0)


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_a_counter_of_rounds_is_used_after_them():
    close(fad.execute(fad.trace(counted, W, X[0]), W, X), central(W, X))


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
def test_the_counter_of_a_differentiated_loop_enters_the_loop_that_goes_back(mode):
    made = fad.grad(counted, mode=mode)
    expected = jax.grad(central)(W, X)
    close(fad.execute(fad.trace(made, W, X[0]), W, X), expected)
    close(fad.simulate(made, chunk_size=2)(W, X), expected)
