import numpy as np
import pytest

from secfad.data import minibatches, stack
from secfad.data.stacking import select

RNG = np.random.default_rng(0)
CLIENTS = [
    (RNG.normal(size=(n, 2)).astype(np.float32), np.arange(n, dtype=np.int32)) for n in (5, 1, 3)
]


def test_stacked_rows_are_the_clients_rows_and_padding_is_zero():
    data = stack(CLIENTS)
    assert data.features.dtype == np.float32
    assert data.labels.dtype == np.int32
    assert data.counts.tolist() == [5, 1, 3]
    for row, (x, y) in enumerate(CLIENTS):
        np.testing.assert_array_equal(data.features[row, : len(y)], x)
        np.testing.assert_array_equal(data.labels[row, : len(y)], y)
        assert not data.features[row, len(y) :].any()


def test_cap_keeps_the_first_rows():
    assert stack(CLIENTS, max_rows=2).counts.tolist() == [2, 1, 2]


def test_minibatches_hold_every_example_once_with_and_without_shuffling():
    data = stack(CLIENTS)
    for rng in (None, np.random.default_rng(1)):
        made = minibatches(data, 2, rng=rng)
        assert made["x"].shape == (3, 3, 2, 2)
        for client, (x, _) in enumerate(CLIENTS):
            kept = made["x"][client].reshape(-1, 2)[made["mask"][client].reshape(-1) == 1]
            np.testing.assert_array_equal(np.sort(kept, axis=0), np.sort(x, axis=0))


def test_shuffled_minibatches_put_padding_last():
    mask = minibatches(stack(CLIENTS), 2, rng=np.random.default_rng(1))["mask"].reshape(3, -1)
    assert (np.diff(mask, axis=1) <= 0).all()


def test_select_orders_clients_as_asked():
    assert select(stack(CLIENTS), np.array([2, 0])).counts.tolist() == [3, 5]


def test_features_and_labels_of_different_length_name_the_client():
    with pytest.raises(ValueError, match="at client 0"):
        stack([(np.zeros((2, 1)), np.zeros(3))])
