"""Mixtures of Gaussians, and fixed-size samples under their short name."""

import math

import numpy as np
import pytest
from scipy import stats

import privacy
from privacy.accounting.events import event_of, parse_event
from privacy.errors import InvalidEvent, UnsupportedEvent

GAUSSIAN = {"type": "gaussian", "noise_multiplier": 1.0}


def mixture(deviation, sensitivities, probabilities):
    return {
        "type": "mixture_of_gaussians",
        "standard_deviation": deviation,
        "sensitivities": sensitivities,
        "sampling_probs": probabilities,
    }


def repeated(event, count):
    return {"type": "self_composed", "event": event, "count": count}


@pytest.mark.parametrize(("z", "size"), [(1.0, 1.0), (0.7, 2.0), (3.0, 0.5)])
def test_one_certain_sensitivity_is_a_gaussian(z, size):
    found = privacy.epsilon(mixture(z * size, [size], [1.0]), 1e-5)
    expected = privacy.epsilon({"type": "gaussian", "noise_multiplier": z}, 1e-5)
    assert math.isclose(found, expected, rel_tol=1e-3)


@pytest.mark.parametrize("count", [1, 50])
def test_absent_or_present_is_a_poisson_sample(count):
    found = privacy.epsilon(repeated(mixture(1.0, [0.0, 1.0], [0.9, 0.1]), count), 1e-5)
    sampled = {"type": "poisson", "q": 0.1, "event": GAUSSIAN}
    assert math.isclose(found, privacy.epsilon(repeated(sampled, count), 1e-5), rel_tol=1e-3)


@pytest.mark.parametrize(
    ("deviation", "sizes", "probabilities"),
    [
        (1.0, [0.0, 0.5, 1.0], [0.5, 0.25, 0.25]),
        pytest.param(2.0, [1.0, 3.0], [0.8, 0.2], marks=pytest.mark.slow),
    ],
)
def test_delta_is_at_least_both_hockey_sticks(deviation, sizes, probabilities):
    delta = 1e-4
    epsilon = privacy.epsilon(mixture(deviation, sizes, probabilities), delta)

    def cdf(x):
        return sum(p * stats.norm.cdf(x, c, deviation) for c, p in zip(sizes, probabilities))

    # The likelihood ratio rises with x, so both hockey sticks are tails: try every threshold.
    at = np.linspace(-20, 20, 4001)
    with_client = np.max(1 - cdf(at) - math.exp(epsilon) * stats.norm.sf(at, 0, deviation))
    without = np.max(stats.norm.cdf(at, 0, deviation) - math.exp(epsilon) * cdf(at))
    assert max(with_client, without) <= delta * (1 + 1e-6)
    assert max(with_client, without) >= delta * 0.98


def test_canonical_event_of_a_mixture_is_read_back():
    terms = parse_event(repeated(mixture(1.0, [1.0, 0.0, 0.5], [0.2, 0.8, 0.0]), 3))
    assert parse_event(event_of(terms)) == terms
    assert parse_event(mixture(1.0, [0.0], [1.0])) == ()


@pytest.mark.parametrize(
    ("deviation", "sizes", "probabilities"),
    [
        (0.0, [1.0], [1.0]),
        (1.0, [], []),
        (1.0, [1.0], [0.9]),
        (1.0, [1.0, 2.0], [1.0]),
        (1.0, [-1.0], [1.0]),
        (1.0, [math.nan], [1.0]),
        (1.0, [1.0, 1.0], [1.5, -0.5]),
        (1.0, "11", [1.0]),
    ],
)
def test_a_malformed_mixture_is_refused(deviation, sizes, probabilities):
    with pytest.raises(InvalidEvent):
        privacy.epsilon(mixture(deviation, sizes, probabilities), 1e-5)


def test_a_mixture_has_no_bound_under_replacement_or_with_too_little_noise():
    with pytest.raises(UnsupportedEvent):
        privacy.epsilon(mixture(1.0, [1.0, 0.5], [0.5, 0.5]), 1e-5, relation="REPLACE_ONE")
    with pytest.raises(UnsupportedEvent):
        privacy.epsilon(mixture(0.001, [1.0, 0.5], [0.5, 0.5]), 1e-5)


def test_the_short_name_of_a_fixed_size_sample():
    sizes = {"dataset_size": 1000, "sample_size": 10, "event": GAUSSIAN}
    options = {"accountant": "rdp", "relation": "REPLACE_ONE"}
    long = privacy.epsilon({"type": "sampled_without_replacement", **sizes}, 1e-5, **options)
    assert privacy.epsilon({"type": "sampled_wor", **sizes}, 1e-5, **options) == long
    assert 0 < long < privacy.epsilon(GAUSSIAN, 1e-5, relation="REPLACE_ONE")
