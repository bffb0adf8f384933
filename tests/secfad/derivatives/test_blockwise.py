"""Blockwise mode sends small Jacobians and large cotangents, in fewer contacts than reverse mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.derivatives.jacobians import SMALL_BYTES

S, C = fad.SERVER, fad.CLIENTS
WIDE = 300  # A Jacobian of 360 kB in float32; reverse mode sends 1200 B.
SPECS = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2,), (WIDE,), (4, WIDE), (4,))]


def loss(w, x, y):
    return jnp.mean((jnp.tanh(x @ w) - y) ** 2)


@fad.computation(hyper=S, w=S, x=C, y=C)
def weighted_loss(hyper, w, x, y):
    """A step of size hyper[0] * hyper[1], then a loss with weights that depend on the model."""
    delta = fad.mean(jax.grad(loss)(fad.broadcast(w, name="model"), x, y), name="delta")
    value = loss(fad.broadcast(w - hyper[0] * hyper[1] * delta, name="new"), x, y)
    return fad.mean(value, weights=jnp.exp(value), name="loss")


@fad.computation(hyper=S, w=S, x=C, y=C)
def ten_rounds(hyper, w, x, y):
    def step(w, _):
        delta = fad.mean(jax.grad(loss)(fad.broadcast(w), x, y), name="delta")
        return w - hyper[0] * hyper[1] * delta, None

    w = jax.lax.scan(step, w, None, length=10)[0]
    value = loss(fad.broadcast(w), x, y)
    return fad.mean(value, weights=jnp.exp(value), name="loss")


@fad.computation(hyper=S, w=S, x=C, y=C)
def choice(hyper, w, x, y):
    gradient = lambda: fad.mean(jax.grad(loss)(fad.broadcast(w), x, y), name="delta")
    other = lambda: 0.1 * fad.mean(jnp.sin(fad.broadcast(w)) * x[0], name="sine")
    w = w - hyper[0] * jax.lax.cond(hyper[1] > 0, gradient, other)
    return fad.mean(loss(fad.broadcast(w), x, y), name="loss")


def arguments(clients=3):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(clients, 4, WIDE)), rng.normal(size=(clients, 4))
    return jnp.array([0.7, 0.4]), jnp.asarray(rng.normal(size=WIDE)), jnp.asarray(x), jnp.asarray(y)


def costs(computation, mode):
    return fad.trace(fad.value_and_grad(computation, (0, 1), mode=mode), *SPECS).costs


def test_it_needs_one_contact_less_than_reverse_mode_and_no_matrix():
    found = {m: costs(weighted_loss, m) for m in ("reverse", "factored", "mixed", "blockwise")}
    assert [found[m].contacts for m in found] == [4, 4, 2, 3]
    # The model's delta; two sums of the loss and their Jacobians; the cotangent of the model.
    assert found["blockwise"].up_bytes == 4 * (WIDE + 2 + 2 * WIDE + WIDE)
    assert found["blockwise"].up_bytes < SMALL_BYTES < found["mixed"].up_bytes
    assert found["blockwise"].state_bytes < found["reverse"].state_bytes


def test_auto_takes_it_where_it_is_cheapest():
    plan = fad.plan(weighted_loss, *SPECS, argnums=(0, 1), cost=fad.CostModel(up_byte=100.0))
    assert plan.mode == "blockwise"


@pytest.mark.sample(quick=0)
@pytest.mark.parametrize("computation", [weighted_loss, ten_rounds, choice], ids=lambda c: c.name)
def test_it_is_the_derivative_simulated_and_message_by_message(computation):
    with jax.enable_x64(True):
        args = arguments()
        specs = (*args[:2], args[2][0], args[3][0])
        derived = fad.value_and_grad(computation, (0, 1), mode="blockwise")
        expected = fad.simulate(fad.value_and_grad(computation, (0, 1), mode="forward"))(*args)
        for got in (fad.simulate(derived)(*args), fad.execute(fad.trace(derived, *specs), *args)):
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_small_programs_are_those_of_mixed_mode():
    small = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2,), (3,), (4, 3), (4,))]
    digests = {
        fad.trace(fad.grad(weighted_loss, 1, mode=m), *small).digest for m in ("mixed", "blockwise")
    }
    assert len(digests) == 1


def test_a_client_argument_has_no_blockwise_mode():
    with pytest.raises(fad.errors.ModeError, match="placed at the clients"):
        fad.trace(fad.grad(weighted_loss, 2, mode="blockwise"), *SPECS)
