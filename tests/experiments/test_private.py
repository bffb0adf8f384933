"""What the private experiments are made of: messages, weights, norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import privacy
import secfad as fad
from experiments import private_messages as messages
from experiments import private_weighting as weighting
from experiments.private_runs import specs_of
from secfad.algorithms import fedopt, local

SHORT = {
    "slopes": (messages.slopes(8), 8),
    "static": (messages.coordinates(1, 8, None), 8),
    "time-varying": (messages.coordinates(1, 8, 2), 8),
    "subspaces": (messages.coordinates(4, 2, None), 8),
    "full": (messages.full_gradient(), 2410),
}
OWN = {
    "batch": {"x": jnp.zeros((2, 64)), "y": jnp.zeros(2, int), "mask": jnp.ones(2)},
    "choice": jnp.array(0),
}


@pytest.mark.parametrize("name", SHORT)
def test_message_has_the_stated_number_of_numbers(name):
    method, count = SHORT[name]
    sent = messages.broadcast_part(method, method.start(jax.random.key(0)))
    assert fad.trace(messages.question(method), sent, OWN).costs.up_bytes == 4 * count


def test_new_epoch_moves_the_base_and_keeps_the_model():
    method = messages.coordinates(1, 8, 2)
    state = method.start(jax.random.key(0)) | {"s": jnp.ones((1, 8))}
    same, new = method.renew(state, 1), method.renew(state, 2)
    assert np.array_equal(same["s"], state["s"])
    assert not np.any(new["s"])
    before, after = (jax.flatten_util.ravel_pytree(method.model(s))[0] for s in (state, new))
    np.testing.assert_allclose(before, after, atol=1e-6)
    moved = method.model(new | {"s": state["s"]})
    assert not np.allclose(jax.flatten_util.ravel_pytree(moved)[0], before)


def clients(count):
    rng = np.random.default_rng(0)
    shape = (count, 2, 3)
    return {
        "x": jnp.asarray(rng.normal(size=(*shape, 60)), jnp.float32),
        "y": jnp.asarray(rng.integers(10, size=shape)),
        "mask": jnp.ones(shape),
    }, jnp.asarray(np.linspace(1.0, 0.2, count), jnp.float32)


def test_round_with_sums_of_its_own_is_the_weighted_round():
    arm = weighting.Arm(0.5, False, {"client rate": 0.1, "hyper rate": 0.1})
    data = clients(4)
    own = fedopt.make_round(weighting.masked_loss, fedopt.fedavg, local.sgd(0.1))
    hyper, model, _ = arm.start()
    hyper = hyper | {"server": {"learning_rate": jnp.float32(1.0)}}
    state = fedopt.initial_state(fedopt.fedavg, hyper, model)
    expected = fad.simulate(own)(hyper, model, state, *data)[0]
    got = fad.simulate(arm.computation)(*arm.start(), *data)[0]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert np.any(a != 0)


@pytest.mark.parametrize("learned", [False, True])
def test_every_sum_has_a_share_of_the_clip_norm(learned):
    arm = weighting.Arm(0.5, learned, {"client rate": 0.1, "hyper rate": 0.1})
    specs = specs_of(arm.computation, (*arm.start(), *arm.clients(*clients(3))))
    mechanism = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
    (release,) = privacy.privatize(arm.computation, *specs, mechanism=mechanism).releases
    shares = weighting.SHARES[learned]
    assert {s.name for s in release.sums} == set(shares)
    assert sum(shares.values()) == pytest.approx(1.0)


def test_typical_norm_is_the_median_over_clients_of_the_largest_round():
    @fad.computation(model=fad.SERVER, x=fad.CLIENTS)
    def two_rounds(model, x):
        first = fad.sum(fad.broadcast(model) * 2.0 * x, name="pull")
        return fad.sum(fad.broadcast(first) * 0.0 + x, name="pull")

    x = jnp.array([[3.0, 4.0], [6.0, 8.0], [60.0, 80.0]])
    found = privacy.typical_norms(two_rounds, (jnp.array(1.0), x))
    assert found == {"pull": pytest.approx(20.0)}
