"""Cohorts are drawn as they are charged.

Statistical tests use a fixed seed; the false-alarm rate of each is below 1e-6 over seeds.
"""

import numpy as np
import pytest

from privacy import Cohort, FixedSampling, FullParticipation, PoissonSampling
from privacy.errors import MechanismError
from secagg import SecureStream

DRAWS = 2000


def stream(seed=1):
    return SecureStream(bytes([seed]) * 32)


def test_poisson_sizes_have_mean_and_variance_of_a_binomial():
    sampling, source = PoissonSampling(population=400, rate=0.1), stream()
    sizes = np.array([len(sampling.draw(source).members) for _ in range(DRAWS)])
    # Mean 40, variance 36. Bands of five standard errors; a fixed-size draw has variance 0.
    assert abs(sizes.mean() - 40) < 5 * 6 / DRAWS**0.5
    assert abs(sizes.var() - 36) < 5 * 36 * (2 / DRAWS) ** 0.5


def test_poisson_members_take_part_independently():
    sampling, source = PoissonSampling(population=50, rate=0.3), stream(2)
    taken = np.zeros((DRAWS, 50))
    for row in taken:
        row[sampling.draw(source).members] = 1
    correlation = np.corrcoef(taken.T) - np.eye(50)
    # 1225 pairs at 1e-10 each: 6.5 standard errors.
    assert np.abs(correlation).max() < 6.5 / DRAWS**0.5


def test_fixed_draws_are_uniform_subsets_without_repetition():
    sampling, source = FixedSampling(population=20, size=5), stream(3)
    counts = np.zeros(20)
    for _ in range(DRAWS):
        members = sampling.draw(source).members
        assert len(set(members)) == 5
        counts[members] += 1
    assert np.abs(counts - DRAWS / 4).max() < 6 * (DRAWS * 0.25 * 0.75) ** 0.5


def test_full_participation_is_everyone_with_a_fresh_name():
    first, second = (FullParticipation(population=7).draw() for _ in range(2))
    np.testing.assert_array_equal(first.members, np.arange(7))
    assert first.id != second.id


def test_draws_differ_without_a_seed():
    sampling = PoissonSampling(population=200, rate=0.5)
    assert not np.array_equal(sampling.draw().members, sampling.draw().members)


def test_public_size_does_not_depend_on_the_draw():
    assert PoissonSampling(population=1000, rate=0.05).expected_size == 50
    assert FixedSampling(population=1000, size=30).expected_size == 30


def test_an_empty_draw_is_a_cohort_of_nobody():
    # It is a draw like any other, and is charged as one; see test_refused_draws.
    cohort = PoissonSampling(population=1, rate=1e-9).draw(stream())
    assert (len(cohort.members), len(cohort.id)) == (0, 32)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PoissonSampling(population=0, rate=0.1),
        lambda: PoissonSampling(population=10, rate=0.0),
        lambda: PoissonSampling(population=10, rate=1.5),
        lambda: PoissonSampling(population=10, rate=float("nan")),
        lambda: FixedSampling(population=10, size=11),
        lambda: FullParticipation(population=2.5),
    ],
)
def test_senseless_sampling_is_refused(make):
    with pytest.raises(MechanismError, match="Expected"):
        make()


@pytest.mark.parametrize("members", [[0, 1, 1], [2, 1], [-1, 0], [0, 5], [0.5, 1.5]])
def test_a_client_is_in_a_cohort_once_or_not_at_all(members):
    with pytest.raises(MechanismError, match="once or not at all"):
        Cohort("name", np.array(members), FullParticipation(population=5))


def test_a_rate_is_never_exceeded_by_the_grid_of_random_numbers():
    class Smallest:
        def uniform(self, size):
            return np.zeros(size)

    with pytest.raises(MechanismError, match=r"2\^-53"):
        PoissonSampling(10, 1e-17)
    assert len(PoissonSampling(10, 2**-53).draw(Smallest()).members) == 10
