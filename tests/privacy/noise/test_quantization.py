import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.errors import InvalidEvent
from privacy.noise import quantization
from privacy.noise.quantization import integer_l1_bound, integer_norm_bound, round_within
from secagg.crypto.streams import SecureStream


def stream(seed=0):
    return SecureStream(seed.to_bytes(32, "big"))


def norms(integers):
    """Exact squared norms."""
    return np.array(
        [sum(int(v) ** 2 for v in row) for row in integers.reshape(-1, integers.shape[-1])]
    )


def half_vectors(count, dimension, scale):
    """Vectors of which every scaled entry has the fraction .5, the worst for rounding."""
    steps = np.random.default_rng(5).integers(-4, 4, (count, dimension)) + 0.5
    return steps / scale


def test_the_bound_is_the_published_one():
    assert math.isclose(integer_norm_bound(1.0, 100.0, 10_000), 112.47, rel_tol=1e-4)
    # By hand: 1 + 10^6 / 4 + sqrt(2 ln 10^12) (1 + 500) = 253,725.6.
    assert math.isclose(integer_norm_bound(1.0, 1.0, 10**6, beta=1e-12), 503.71, rel_tol=1e-4)
    assert integer_norm_bound(1.0, 1e6, 4, beta=1e-300) <= 1e6 + 2 + 1e-6  # the worst case


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("beta", [math.exp(-0.5), 0.1, 0.01])
@pytest.mark.parametrize("dimension", [16, 4096])
def test_at_least_one_minus_beta_of_first_draws_keep_the_bound(beta, dimension):
    clip, scale, tries = 1.0, 40.0, 3000
    x = np.full((tries, dimension), clip / math.sqrt(dimension))
    x[:, ::2] = np.floor(x[:, ::2] * scale) / scale + 0.5 / scale
    x *= clip / np.linalg.norm(x, axis=1, keepdims=True)
    bound = integer_norm_bound(clip, scale, dimension, beta)
    drawn = quantization.round_within(x, scale, 1e9, stream())
    kept = int(np.sum(norms(drawn) <= bound**2))
    assert stats.binomtest(kept, tries, 1 - beta, alternative="less").pvalue > 1e-6


@pytest.mark.parametrize("dimension", [1, 2, 33, 1000])
@pytest.mark.parametrize("scale", [0.5, 7.0, 1e4])
def test_no_integer_norm_is_above_the_bound(dimension, scale):
    x = np.random.default_rng(1).normal(size=(400, dimension))
    x /= np.maximum(1.0, np.linalg.norm(x, axis=1, keepdims=True))
    bound = integer_norm_bound(1.0, scale, dimension)
    out = round_within(x, scale, bound, stream())
    assert out.dtype == np.int64
    assert (norms(out) <= bound**2).all()
    assert np.abs(out - x * scale).max() <= 1


def test_no_integer_norm_is_above_the_bound_for_half_fractions():
    x = half_vectors(20_000, 8, scale=16.0)
    bound = integer_norm_bound(float(np.linalg.norm(x, axis=1).max()), 16.0, 8)
    out = round_within(x, 16.0, bound, stream(2))
    assert (norms(out) <= bound**2).all()
    assert np.abs(out.mean() - (x * 16.0).mean()) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("make", ["half", "random", "too large"])
def test_a_million_vectors_never_pass_the_bound(make):
    count, dimension, scale = 1_000_000, 16, 16.0
    if make == "half":
        x = half_vectors(count, dimension, scale)
    else:
        x = np.random.default_rng(3).normal(size=(count, dimension))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    clip = float(np.linalg.norm(x, axis=1).max()) * (0.7 if make == "too large" else 1.0)
    bound = integer_norm_bound(clip, scale, dimension)
    out = round_within(x, scale, bound, stream(4))
    assert (np.sum(out * out, axis=1) <= bound**2).all()


def test_a_vector_that_cannot_be_rounded_into_the_ball_is_shrunk_into_it():
    x = np.array([[0.9] * 100, [-3.0] * 100, [0.0] * 100])
    out = round_within(x, 1.0, 1.5, stream())
    assert (norms(out) <= 1.5**2).all()
    out = round_within(np.array([30.0, -40.0]), 1.0, 5.0, stream())
    assert out.tolist() == [3, -4]


def test_shrinking_does_not_depend_on_randomness():
    x = np.full((1, 50), 0.999)
    results = {round_within(x, 1.0, 1.0, stream(seed)).tobytes() for seed in range(5)}
    assert len(results) == 1


def test_rounding_is_unbiased_where_the_bound_is_wide():
    x = np.tile([0.25, -1.75, 3.5, 0.1], (40_000, 1))
    out = round_within(x, 1.0, 1e6, stream(6))
    deviation = (out.mean(axis=0) - x[0]) / (0.5 / math.sqrt(len(x)))
    assert np.abs(deviation).max() < stats.norm.isf(1e-6 / 8)


def test_integers_and_zero_are_left_alone():
    x = np.array([[3.0, -4.0, 0.0]])
    assert round_within(x, 1.0, 5.0, stream()).tolist() == [[3, -4, 0]]
    assert round_within(np.zeros((2, 3)), 9.0, 1.0, stream()).tolist() == [[0] * 3] * 2
    assert round_within(np.zeros((0, 3)), 9.0, 1.0, stream()).shape == (0, 3)


def test_norms_beyond_64_bits_are_compared_exactly():
    x = np.full((1, 64), 2.0**40)
    bound = 2.0**43
    assert (round_within(x, 1.0, bound, stream()) == 2**40).all()
    smaller = 2**43 - 1024
    assert norms(round_within(x, 1.0, float(smaller), stream()))[0] <= smaller**2


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12),
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e9),
    st.integers(0, 99),
)
def test_whatever_comes_in_what_comes_out_is_within_the_bound(x, scale, bound, seed):
    out = round_within(np.array(x), scale, bound, stream(seed))
    assert int(norms(out[None])[0]) <= bound**2 * (1 + 1e-15)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=30))
def test_l1_bounds_hold_for_integer_vectors(integers):
    norm = math.sqrt(sum(v * v for v in integers))
    if norm:
        assert sum(map(abs, integers)) <= integer_l1_bound(norm, len(integers)) * (1 + 1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_values_that_are_no_integers_are_refused(value):
    with pytest.raises(InvalidEvent, match="Replace a client's non-finite update by zeros"):
        round_within(np.array([0.0, value]), 1.0, 1.0, stream())


@pytest.mark.parametrize(
    "arguments", [(0.0, 1.0, 1), (1.0, -1.0, 1), (1.0, 1.0, 0), (1.0, 1.0, 1.5), (1.0, 1.0, 1, 1.0)]
)
def test_bounds_of_nonsense_are_refused(arguments):
    with pytest.raises(InvalidEvent, match="Expected"):
        integer_norm_bound(*arguments)
