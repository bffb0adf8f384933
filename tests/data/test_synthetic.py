import numpy as np
import pytest

from secfad.data import synthetic
from secfad.data.synthetic import CLASSES, FEATURES, LEAST_EXAMPLES


@pytest.fixture(scope="module")
def population():
    return synthetic(clients=400, seed=3, max_examples=200)


def test_clients_are_stacked_with_a_mask():
    data = synthetic(clients=5, seed=0, max_examples=70)
    assert data.train.features.shape == (5, 63, FEATURES)
    assert data.test.labels.shape == (5, 7)
    assert data.train.features.dtype == np.float32
    assert data.train.labels.dtype == np.int32
    assert data.train.clients == 5


def test_nine_of_ten_examples_of_a_client_are_for_training(population):
    used = np.minimum(population.drawn_sizes, 200)
    assert (population.train.counts == (0.9 * used).astype(int)).all()
    assert (population.train.counts + population.test.counts == used).all()


def test_padding_is_zero_and_masked(population):
    train = population.train
    for row in range(5):
        count = train.counts[row]
        assert train.mask[row, :count].all()
        assert not train.mask[row, count:].any()
        assert not train.features[row, count:].any()


def test_the_same_seed_gives_the_same_data_and_another_seed_does_not():
    first, again, other = (synthetic(clients=3, seed=s, max_examples=60) for s in (1, 1, 2))
    assert (first.train.features == again.train.features).all()
    assert (first.train.labels == again.train.labels).all()
    assert not (first.train.features == other.train.features).any()


def test_a_client_does_not_depend_on_the_size_of_the_population():
    few, many = (synthetic(clients=n, seed=5, max_examples=60) for n in (2, 6))
    assert (few.train.features == many.train.features[:2]).all()
    assert (few.drawn_sizes == many.drawn_sizes[:2]).all()


def test_a_larger_cap_keeps_the_first_examples():
    small, large = (synthetic(clients=4, seed=5, max_examples=n) for n in (60, 100))
    rows = small.train.features.shape[1]
    common = min(small.train.counts.min(), large.train.counts.min(), rows)
    assert (small.train.features[:, :common] == large.train.features[:, :common]).all()


def test_sizes_are_lognormal_with_standard_deviation_two_above_the_floor():
    # 4000 draws: a mean of log-sizes further than 0.2 from 4, or a deviation further than 0.15 from
    # 2, has probability below 1e-9. Flooring moves small sizes, so only those above the median count.
    sizes = synthetic(clients=4000, seed=11, max_examples=50).drawn_sizes
    assert sizes.min() >= LEAST_EXAMPLES
    exceed = np.sort(sizes - LEAST_EXAMPLES)
    median, upper = np.log(np.quantile(exceed, [0.5, 0.8413]) + 0.5)
    assert abs(median - 4.0) < 0.2
    assert abs((upper - median) - 2.0) < 0.2


def test_inputs_have_variance_j_to_the_minus_1_2():
    # One client's variance estimate over n rows has relative deviation sqrt(2 / n); pooled over all
    # rows of 300 clients that is below 0.7 %, and 5 % is seven deviations.
    data = synthetic(clients=300, seed=7, max_examples=300)
    train = data.train
    squares = np.zeros(FEATURES)
    freedom = 0
    for row in range(train.clients):
        x = train.features[row, : train.counts[row]].astype(np.float64)
        squares += ((x - x.mean(axis=0)) ** 2).sum(axis=0)
        freedom += len(x) - 1
    expected = np.arange(1, FEATURES + 1) ** -1.2
    np.testing.assert_allclose(squares / freedom, expected, rtol=0.05)


def test_labels_of_a_client_are_very_skewed_and_of_the_population_are_not(population):
    labels, mask = population.train.labels, population.train.mask > 0
    counts = np.stack(
        [np.bincount(y[m], minlength=CLASSES) for y, m in zip(labels, mask, strict=True)]
    )
    largest = counts.max(axis=1) / counts.sum(axis=1)
    # The reference probe found a median share of 97 %.
    assert 0.9 < np.median(largest) <= 1.0
    assert (counts.sum(axis=0) / counts.sum()).max() < 0.25


def test_beta_widens_the_spread_of_the_clients_inputs():
    means = {
        beta: [
            synthetic(clients=60, seed=s, beta=beta, max_examples=50).train.features.mean(
                axis=(1, 2)
            )
            for s in range(2)
        ]
        for beta in (0.0, 3.0)
    }
    assert np.std(means[3.0]) > 3 * np.std(means[0.0])


def test_alpha_moves_all_logits_alike_and_so_no_label():
    # u_i enters W_i and b_i as one number, which adds the same to every logit of an example.
    near, far = (synthetic(clients=20, seed=2, alpha=a, max_examples=60) for a in (0.0, 2.0))
    agree = (near.train.labels == far.train.labels)[near.train.mask > 0]
    assert agree.mean() > 0.999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clients": 0, "seed": 0}, "clients of at least 1"),
        ({"clients": 2, "seed": -1}, "seed of at least 0"),
        ({"clients": 2, "seed": 0, "beta": -1.0}, "finite standard deviations"),
        ({"clients": 2, "seed": 0, "alpha": float("inf")}, "finite standard deviations"),
        ({"clients": 2, "seed": 0, "max_examples": 49}, "at least 50"),
    ],
)
def test_impossible_numbers_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic(**arguments)


def test_without_a_cap_a_client_keeps_all_it_drew():
    data = synthetic(clients=3, seed=4)
    assert (data.train.counts + data.test.counts == data.drawn_sizes).all()
