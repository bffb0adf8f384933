"""Adaptive clipping follows the quantile, and its count is a release like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import privacy
import secfad as fad
from privacy.accounting.slots import effective_noise_multiplier
from privacy.errors import MechanismError
from privacy.execution.aggregation import charged_releases
from privacy.mechanisms import adaptive
from privacy.mechanisms.mechanisms import split_noise
from privacy.relations import Relation


@fad.computation(clip_norm=fad.SERVER, x=fad.CLIENTS)
def adaptive_round(clip_norm, x):
    scaled, below = adaptive.normalised(x, fad.broadcast(clip_norm, name="clip_norm"))
    total = fad.mean(scaled, name="delta")
    fraction = fad.mean(below, name="below") + 0.5
    return clip_norm * total, adaptive.updated(clip_norm, fraction_below=fraction, quantile=0.7)


def test_clip_norm_converges_to_the_quantile_of_norms():
    norms = np.random.default_rng(0).lognormal(size=200).astype(np.float32)
    x = jnp.asarray(norms[:, None] * np.array([[0.6, 0.8]], np.float32))
    run = fad.simulate(adaptive_round)
    clip_norm = jnp.float32(0.1)
    for _ in range(150):
        _, clip_norm = run(clip_norm, x)
    assert np.mean(norms <= float(clip_norm)) == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("value", [0.0, 1e30, np.nan, np.inf])
def test_what_a_client_sends_is_bounded_for_every_input(value):
    tree, below = adaptive.normalised({"a": jnp.full(3, value)}, jnp.float32(0.5))
    assert float(jnp.linalg.norm(tree["a"])) <= 1 + 1e-6
    assert abs(float(below)) == 0.5


def test_count_and_update_cost_what_the_round_was_priced_at():
    spec = jax.ShapeDtypeStruct((2,), jnp.float32)
    z = 0.8
    mechanism = privacy.Gaussian(
        noise_multiplier=split_noise(z, {"delta": 0.95, "below": 0.05}),
        clip_norm={"delta": 1.0, "below": 0.5},
        joint=False,
    )
    private = privacy.privatize(
        adaptive_round, jax.ShapeDtypeStruct((), jnp.float32), spec, mechanism=mechanism
    )
    releases = charged_releases(private.releases, mechanism, clients=50)
    assert {r.name for r in releases} == {"0:delta", "0:below"}
    joint = effective_noise_multiplier(releases, Relation.ADD_OR_REMOVE_ONE)
    assert joint == pytest.approx(z, rel=1e-12)


def test_one_multiplier_per_sum_needs_separate_clips():
    with pytest.raises(MechanismError, match="joint=False"):
        privacy.Gaussian(noise_multiplier={"a": 1.0}, clip_norm=1.0)


def test_split_of_noise_composes_to_the_whole():
    parts = split_noise(1.3, {"a": 1.0, "b": 2.0, "c": 5.0})
    assert sum(z**-2 for z in parts.values()) == pytest.approx(1.3**-2, rel=1e-12)
    assert parts["c"] < parts["b"] < parts["a"]
