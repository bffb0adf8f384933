"""Training and validation clients: two ways to say it, one derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad

pytestmark = pytest.mark.usefixtures("double_precision")
S, C = fad.SERVER, fad.CLIENTS
RNG = np.random.default_rng(0)
RATE, MODEL = 0.4, RNG.normal(size=3)
TRAINING, VALIDATION = RNG.normal(size=(5, 4, 3)), RNG.normal(size=(2, 4, 3))


def local_loss(model, batch):
    return jnp.mean(jnp.tanh(batch @ model) ** 2)


def centralised(rate):
    """The validation clients' loss after a round of the training clients."""
    steps = jax.vmap(jax.grad(local_loss), (None, 0))(MODEL, TRAINING)
    new = MODEL - rate * jnp.mean(steps, axis=0)
    return jnp.mean(jax.vmap(local_loss, (None, 0))(new, VALIDATION))


@fad.computation(rate=S, model=S, batch=C)
def trained(rate, model, batch):
    step = fad.mean(jax.grad(local_loss)(fad.broadcast(model, name="model"), batch), name="step")
    return model - rate * step


@fad.computation(model=S, batch=C)
def judged(model, batch):
    return fad.mean(local_loss(fad.broadcast(model, name="model"), batch), name="loss")


@fad.computation(rate=S, model=S, batch=C, trains=C, judges=C)
def in_one_program(rate, model, batch, trains, judges):
    """Every client has both weights; with a weight of zero it adds zeros to that sum."""
    step = jax.grad(local_loss)(fad.broadcast(model, name="model"), batch)
    new = model - rate * fad.mean(step, weights=trains, name="step")
    loss = local_loss(fad.broadcast(new, name="new_model"), batch)
    return fad.mean(loss, weights=judges, name="loss")


def one_program(mode):
    batch = jnp.concatenate([TRAINING, VALIDATION])
    trains = jnp.array([1.0] * 5 + [0.0] * 2)
    derived = fad.value_and_grad(in_one_program, mode=mode)
    return fad.simulate(derived)(RATE, MODEL, batch, trains, 1 - trains)


def tangents_through_the_server():
    """Forward: the server keeps d(model)/d(rate) and asks the validation clients along it."""
    new, moved = fad.simulate(fad.jvp(trained))(RATE, MODEL, TRAINING, 1.0)
    return fad.simulate(fad.jvp(judged))(new, VALIDATION, moved)


def cotangents_through_the_server():
    """Reverse: the validation clients' gradient is pulled back through the training clients."""
    new = fad.simulate(trained)(RATE, MODEL, TRAINING)
    loss, cotangent = fad.simulate(fad.value_and_grad(judged))(new, VALIDATION)
    return loss, fad.simulate(fad.vjp(trained))(RATE, MODEL, TRAINING, cotangent)[1]


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize(
    "way",
    [
        pytest.param(lambda: one_program("forward"), marks=pytest.mark.slow),
        pytest.param(lambda: one_program("reverse"), marks=pytest.mark.slow),
        lambda: one_program("mixed"),
        tangents_through_the_server,
        cotangents_through_the_server,
    ],
    ids=["weights, forward", "weights, reverse", "weights, mixed", "two, forward", "two, reverse"],
)
def test_hypergradient_of_two_cohorts_is_the_centralised_one(way):
    value, derivative = way()
    expected = jax.value_and_grad(centralised)(RATE)
    np.testing.assert_allclose((value, derivative), expected, rtol=1e-12)


def test_a_client_without_a_role_adds_nothing_to_the_sum_of_that_role():
    batch = jnp.concatenate([TRAINING, 100 * VALIDATION])
    trains = jnp.array([1.0] * 5 + [0.0] * 2)
    own = fad.simulate(trained)(RATE, MODEL, TRAINING)

    @fad.computation(model=S, batch=C, trains=C)
    def weighted(model, batch, trains):
        step = jax.grad(local_loss)(fad.broadcast(model), batch)
        return model - RATE * fad.mean(step, weights=trains)

    got = fad.simulate(weighted)(MODEL, batch, trains)
    np.testing.assert_allclose(got, own, rtol=1e-12)
