"""When a step happens: what both sides know after a loop is not known before it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.errors import TracingError

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


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
def test_the_counter_of_a_differentiated_loop_enters_the_loop_that_goes_back(mode):
    made = fad.grad(counted, mode=mode)
    expected = jax.grad(central)(W, X)
    close(fad.execute(fad.trace(made, W, X[0]), W, X), expected)
    close(fad.simulate(made, chunk_size=2)(W, X), expected)


def test_a_sum_of_a_counter_after_its_loop_says_what_to_do():
    def rounds(count_clients):
        @fad.computation(w=S, x=C)
        def made(w, x):
            step = lambda c, _: ((c[0] + fad.mean(x * fad.broadcast(c[0])), c[1] + 1), None)
            (total, count), _ = jax.lax.scan(step, (w, 0), None, length=2)
            return total * count_clients(count)

        return made

    program = fad.trace(rounds(lambda n: fad.sum(n, name="late")), W, X[0])
    words = r"test_scheduling.py.*`sum` named 'late' .* secfad.sum\(1.0\)"
    for run in (lambda: program.costs, lambda: fad.execute(program, W, X)):
        with pytest.raises(TracingError, match=words):
            run()
    other = fad.trace(rounds(lambda n: n * fad.sum(1.0)), W, X[0])
    expected = 10 * W * (1 + X.mean(0)) ** 2
    np.testing.assert_allclose(fad.execute(other, W, X), expected, rtol=1e-5)


def linearised(named):
    """All values come first, all tangents after."""

    @fad.computation(w=S, x=C)
    def chain(w, x):
        def step(w, name):
            return jnp.sin(fad.sum(x * fad.broadcast(w), name=name if named else None))

        value, along = jax.linearize(lambda w: step(step(step(w, "a"), "b"), "c"), w)
        return value, along(jnp.ones(3))

    return fad.trace(chain, W, X[0]).costs


def test_tangents_of_a_linearised_program_wait_for_the_values_of_their_name():
    named = linearised(True)
    assert (named.contacts, named.readdressed) == (3, False)


def test_tangents_that_share_a_name_wait_in_order_and_may_need_the_same_clients():
    unnamed = linearised(False)
    assert (unnamed.contacts, unnamed.readdressed) == (3, True)
