"""What a private derivative costs, by mode: read off the program, never stated."""

import jax
import jax.numpy as jnp
import pytest

import privacy
import secfad as fad
from audits.mode_prices import Setting, mode_prices, positions, prices_table
from privacy.errors import MechanismError
from secfad.errors import ArgumentError

HYPER, SIZE = 2, 30
VECTOR = jax.ShapeDtypeStruct((SIZE,), jnp.float32)
SPECS = (jax.ShapeDtypeStruct((HYPER,), jnp.float32), VECTOR, VECTOR)


@fad.computation(hyper=fad.SERVER, model=fad.SERVER, x=fad.CLIENTS)
def next_loss(hyper, model, x):
    delta = fad.mean(0.1 * (fad.broadcast(model) - x), name="delta")
    new = model - hyper[0] * delta * hyper[1]
    return fad.mean(jnp.sum((fad.broadcast(new) - x) ** 2), name="loss")


@pytest.fixture(scope="module")
def prices():
    setting = Setting(2.0, sampling_rate=0.1, steps=50)
    return {price.mode: price for price in mode_prices(next_loss, SPECS, setting)}


def test_releases_of_one_cohort_compose_inside_the_sampling(prices):
    # Forward and mixed mode: the delta, then the loss with its derivative. Reverse mode goes back
    # to the clients for the cotangent.
    expected = {"forward": 2, "mixed": 2, "reverse": 3}
    assert {mode: prices[mode].releases for mode in expected} == expected
    for price in prices.values():
        assert price.noise_multiplier == pytest.approx(2.0 / price.releases**0.5)
        gaussian = {"type": "gaussian", "noise_multiplier": price.noise_multiplier}
        once = {"type": "poisson", "q": 0.1, "event": gaussian}
        event = {"type": "self_composed", "event": once, "count": 50}
        assert price.released == pytest.approx(privacy.epsilon(event, 1e-5))
        assert price.released < price.server


def test_forward_mode_releases_a_number_for_each_hyperparameter(prices):
    assert prices["forward"].numbers == SIZE + 1 + HYPER
    assert prices["mixed"].numbers == SIZE + 1 + SIZE
    assert prices["reverse"].numbers == SIZE + 1 + SIZE


def test_table_names_the_setting_and_every_mode(prices):
    text = prices_table(list(prices.values()), Setting(2.0, sampling_rate=0.1, steps=50))
    assert text.startswith("privacy of 50 derivative(s) at noise multiplier 2, sampling rate 0.1")
    assert [line.split()[0] for line in text.splitlines()[2:]] == list(prices)


def test_impossible_noise_is_refused():
    with pytest.raises(MechanismError, match="noise_multiplier"):
        mode_prices(next_loss, SPECS, Setting(0.0))


def dependent_on(two, w, x):
    return fad.sum(jnp.sum(x * fad.broadcast(w))) * jnp.sum(two)


def test_arguments_to_differentiate_are_named():
    made = fad.computation(two=fad.SERVER, w=fad.SERVER, x=fad.CLIENTS)(dependent_on)
    assert positions(made, (VECTOR, VECTOR, VECTOR), ["w", "two"]) == [1, 0]
    with pytest.raises(ArgumentError, match="which are two, w, x, got y"):
        positions(made, (VECTOR, VECTOR, VECTOR), ["y"])


def test_without_names_the_first_floating_server_argument_is_differentiated():
    made = fad.computation(two=fad.SERVER, w=fad.SERVER, x=fad.CLIENTS)(dependent_on)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    assert positions(made, (count, VECTOR, VECTOR), ()) == 1
    with pytest.raises(ArgumentError, match="to differentiate, got none"):
        positions(fad.computation(x=fad.CLIENTS)(lambda x: fad.sum(x)), (VECTOR,), ())
