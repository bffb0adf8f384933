import numpy as np
import pytest

from secfad.data import partitions

LABELS = np.repeat(np.arange(5), 40)


@pytest.mark.parametrize(
    "parts",
    [
        partitions.iid(200, 7, seed=1),
        partitions.dirichlet(LABELS, 7, concentration=0.3, seed=1),
        partitions.shards(LABELS, 10, seed=1),
        list(partitions.by_id(LABELS).values()),
    ],
    ids=["iid", "dirichlet", "shards", "by_id"],
)
def test_every_row_goes_to_exactly_one_client(parts):
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(200))


def test_iid_sizes_differ_by_at_most_one():
    sizes = [len(p) for p in partitions.iid(200, 7, seed=1)]
    assert max(sizes) - min(sizes) <= 1


def test_two_shards_per_client_hold_at_most_two_labels():
    for part in partitions.shards(LABELS, 10, shards_per_client=2, seed=3):
        assert len(np.unique(LABELS[part])) <= 2


def test_small_concentration_gives_more_unequal_labels_than_a_large_one():
    def spread(concentration):
        parts = partitions.dirichlet(LABELS, 5, concentration=concentration, seed=0)
        shares = [np.bincount(LABELS[p], minlength=5) / len(p) for p in parts]
        return np.mean([np.max(s) for s in shares])

    assert spread(0.1) > 0.5 > 0.3 > spread(1000.0)


def test_same_seed_gives_the_same_partition_and_another_seed_another():
    draw = lambda seed: partitions.dirichlet(LABELS, 4, concentration=1.0, seed=seed)
    assert all(np.array_equal(a, b) for a, b in zip(draw(1), draw(1)))
    assert not all(np.array_equal(a, b) for a, b in zip(draw(1), draw(2)))


def test_dirichlet_says_so_when_clients_cannot_all_have_enough():
    with pytest.raises(ValueError, match="at least 190 of 200 rows"):
        partitions.dirichlet(LABELS, 4, concentration=1.0, seed=0, least=190)


def test_by_id_leaves_out_clients_with_too_few_rows():
    assert list(partitions.by_id(np.array(["b", "a", "b"]), least=2)) == ["b"]
    np.testing.assert_array_equal(partitions.by_id(np.array(["b", "a", "b"]))["b"], [0, 2])


@pytest.mark.parametrize("clients", [0, 201])
def test_impossible_number_of_clients_is_refused(clients):
    with pytest.raises(ValueError, match="between 1 and 200"):
        partitions.iid(200, clients, seed=0)
