"""Clip activity is found on both sides, and rarely where it is not so."""

import numpy as np
import pytest

from privacy.execution.clip_activity import (
    HIGH,
    LOW,
    RARE,
    activity_of_counts,
    activity_of_norms,
    cohort_range,
)
from privacy.execution.cohorts import FixedSampling, FullParticipation, PoissonSampling

SIZE, STD, CLIENTS = 50, 2.0, 400
SAMPLINGS = [FullParticipation(CLIENTS), PoissonSampling(population=10 * CLIENTS, rate=0.1)]


def norms(share, rounds, sampling, seed, trials=1):
    """Squared norms of noisy sums of aligned contributions of that length, (trials, rounds)."""
    draw = np.random.default_rng(seed)
    shape = (trials, rounds)
    full = isinstance(sampling, FullParticipation)
    clients = CLIENTS if full else draw.binomial(10 * CLIENTS, 0.1, shape)
    noisy = STD * draw.normal(size=(*shape, SIZE))
    noisy[..., 0] += share * clients
    return np.sum(noisy**2, axis=-1)


def judged(squares, sampling, **options):
    return activity_of_norms(
        list(squares), sums=("delta",), size=SIZE, std=STD, sampling=sampling, **options
    )


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_norm_tells_both_sides(sampling):
    assert judged(norms(0.02, 10, sampling, 0)[0], sampling).finding == "hardly ever"
    assert judged(norms(0.5, 10, sampling, 1)[0], sampling).finding == ""
    high = judged(norms(0.99, 10, FullParticipation(CLIENTS), 2)[0], FullParticipation(CLIENTS))
    assert high.finding == "nearly always"
    assert high.share == pytest.approx(0.99, abs=0.01)
    assert "Raise clip_norm" in high.statement
    assert "0.001" in high.statement


@pytest.mark.parametrize(("share", "wrong"), [(HIGH, "nearly always"), (LOW, "hardly ever")])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_norm_alarms_falsely_at_most_as_stated(share, wrong, sampling):
    # At the limit itself and a stated rate of 0.1, more than 140 false alarms in 1000 trials have a
    # probability below 5e-5 (binomial tail); four such tests, so below 2e-4 together.
    trials = norms(share, 5, sampling, 3, trials=1000)
    found = [judged(row, sampling, false_alarm=0.1).finding for row in trials]
    assert found.count(wrong) <= 140


def test_norm_bound_is_not_idle():
    # Without sampling the bound is within a factor of the truth: a sum a little beyond is found.
    full = FullParticipation(CLIENTS)
    found = [
        judged(row, full, false_alarm=0.1).finding for row in norms(0.93, 5, full, 4, trials=200)
    ]
    assert found.count("nearly always") == 200


def test_noise_that_hides_the_sum_gives_no_verdict():
    few = FullParticipation(20)
    noisy = np.random.default_rng(5).normal(size=(3, 10_000)) * 5.0
    found = activity_of_norms(
        list(np.sum(noisy**2, axis=1)), sums=("delta",), size=10_000, std=5.0, sampling=few
    )
    assert (found.finding, found.statement) == ("", "")


def counts(below, rounds, seed, trials=1):
    draw = np.random.default_rng(seed)
    clients = draw.binomial(10 * CLIENTS, 0.1, (trials, rounds))
    number = draw.binomial(clients, below)
    return number - clients / 2 + 5.0 * draw.normal(size=(trials, rounds))


def counted(row, **options):
    return activity_of_counts(list(row), sums=("delta",), std=5.0, sampling=SAMPLINGS[1], **options)


def test_count_tells_both_sides_and_the_middle():
    assert counted(counts(1.0, 20, 0)[0]).finding == "hardly ever"
    assert counted(counts(0.0, 20, 1)[0]).finding == "nearly always"
    assert counted(counts(0.5, 20, 2)[0]).finding == ""


@pytest.mark.parametrize(("below", "wrong"), [(1 - RARE, "hardly ever"), (RARE, "nearly always")])
def test_count_alarms_falsely_at_most_as_stated(below, wrong):
    # As above: at most 140 of 1000 at a stated rate of 0.1, else with probability below 5e-5.
    found = [counted(row, false_alarm=0.1).finding for row in counts(below, 20, 3, trials=1000)]
    assert found.count(wrong) <= 140


def test_size_of_a_cohort_is_known_where_it_is_fixed():
    assert cohort_range(FixedSampling(population=100, size=30), 1e-6) == (30, 30)
    low, high = cohort_range(PoissonSampling(population=100, rate=0.3), 1e-6)
    sizes = np.random.default_rng(6).binomial(100, 0.3, 10_000)
    assert low < sizes.min()
    assert sizes.max() < high
