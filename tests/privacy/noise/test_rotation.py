import numpy as np
import pytest
from scipy import stats

from privacy.errors import InvalidEvent
from privacy.noise.quantization import integer_norm_bound, round_within
from privacy.noise.rotation import Rotation, padded_size
from secagg import SecureStream

SEED = b"seed of a test"


@pytest.mark.parametrize("size", [1, 2, 3, 63, 64, 65, 100, 4096, 5000])
def test_rotation_keeps_norms_and_is_undone_exactly_enough(size):
    x = np.random.default_rng(size).normal(size=(3, size))
    turn = Rotation(size, SEED)
    turned = turn.forward(x)
    assert turned.shape == (3, padded_size(size))
    np.testing.assert_allclose(
        np.linalg.norm(turned, axis=1), np.linalg.norm(x, axis=1), rtol=1e-13
    )
    for row, back in zip(x, turned, strict=True):
        np.testing.assert_allclose(turn.backward(back), row, atol=1e-13)


def test_rotation_is_the_matrix_of_walsh_functions_and_signs():
    turn = Rotation(256, SEED)
    matrix = turn.forward(np.eye(256)) * 16
    np.testing.assert_allclose(np.abs(matrix), 1, atol=1e-12)
    np.testing.assert_allclose(matrix.T @ matrix, 256 * np.eye(256), atol=1e-9)


def test_rotating_a_sum_is_the_sum_of_the_rotated():
    x = np.random.default_rng(1).normal(size=(10, 700))
    turn = Rotation(700, SEED)
    np.testing.assert_allclose(turn.backward(turn.forward(x).sum(0)), x.sum(0), atol=1e-12)


def test_a_one_hot_vector_is_spread_evenly():
    x = np.zeros((1, 1000))
    x[0, 17] = 3.0
    np.testing.assert_allclose(np.abs(Rotation(1000, SEED).forward(x)), 3 / 32, rtol=1e-12)


def test_coordinates_over_seeds_have_the_tails_that_are_claimed():
    x = np.ones((1, 64)) / 8
    seeds = [bytes([i, j]) for i in range(100) for j in range(50)]
    drawn = np.concatenate([Rotation(64, seed).forward(x)[0, :4] for seed in seeds])
    # Deviation 1/8; P(|coordinate| > 3/8) is at most 2 exp(-4.5), here estimated 20,000 times.
    assert np.abs(drawn.mean()) < stats.norm.isf(1e-9) / 8 / np.sqrt(20_000)
    assert (np.abs(drawn) > 3 / 8).mean() < 2 * np.exp(-4.5)
    assert abs(drawn.std() * 8 - 1) < 0.05


def test_seeds_matter():
    x = np.random.default_rng(2).normal(size=(1, 128))
    one, other = (Rotation(128, seed).forward(x) for seed in (b"a", b"b"))
    assert np.abs(one - other).max() > 0.1
    assert (one == Rotation(128, b"a").forward(x)).all()


@pytest.mark.parametrize("kind", ["random", "half after the rotation", "one hot"])
def test_integers_of_rotated_vectors_stay_within_the_bound(kind):
    size, grid, count = 48, 256, 3000
    turn = Rotation(size, SEED)
    x = np.random.default_rng(3).normal(size=(count, size))
    if kind == "one hot":
        x = np.eye(size)[np.arange(count) % size]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    turned = turn.forward(x)
    if kind == "half after the rotation":
        turned = (np.trunc(turned * grid) + np.copysign(0.5, turned)) / grid
        turned /= np.maximum(1, np.linalg.norm(turned, axis=1, keepdims=True))
    bound = integer_norm_bound(1.0, grid, turn.padded, beta=0.5)
    integers = round_within(turned, grid, bound, SecureStream(bytes(16)))
    assert (np.sum(integers**2, axis=1) <= bound**2).all()


def test_an_empty_vector_is_refused():
    with pytest.raises(InvalidEvent, match="a vector's size"):
        padded_size(0)
