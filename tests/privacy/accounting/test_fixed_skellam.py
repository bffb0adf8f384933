"""Skellam noise on samples of a fixed size: what is charged is above every explicit pair's divergence.

The laws are summed out exactly in one dimension, over all cohorts of small populations.
"""

import functools
import itertools
import math

import numpy as np
import pytest
from scipy import special

import privacy
from privacy.accounting.events import event_of, parse_event
from privacy.accounting.renyi_pricing import renyi_divergence
from privacy.accounting.slots import without_sampling
from privacy.accounting.terms import FixedSizeSkellam, SkellamTerm, joint_skellam
from privacy.errors import UnsupportedEvent
from privacy.relations import Relation

REPLACE = Relation.REPLACE_ONE
ORDERS = (2, 3, 4, 7, 12, 24)


@functools.lru_cache(maxsize=16)
def log_pmf(variance, reach):
    """log P(k) for |k| <= reach, by the series of the Bessel function, which cannot underflow."""
    k = np.arange(reach + 1)[:, None]
    j = np.arange(int(60 + 2 * variance))
    series = (k + 2 * j) * math.log(variance / 2) - special.gammaln(j + 1)
    half = special.logsumexp(series - special.gammaln(k + j + 1), axis=1) - variance
    return np.concatenate([half[:0:-1], half])


def law_of_release(clients, size, variance, reach):
    """Log law, on |k| <= reach, of the sum over a random cohort of `size` of these clients, with noise."""
    sums = [sum(cohort) for cohort in itertools.combinations(clients, size)]
    far = max(abs(s) for s in sums)
    base = log_pmf(variance, reach + far)
    shifted = [base[far - s : len(base) - far - s] for s in sums]
    return special.logsumexp(shifted, axis=0) - math.log(len(sums))


def divergence(one, other, order):
    return float(special.logsumexp(order * one + (1 - order) * other)) / (order - 1)


def populations(population, largest):
    """Others all alike, all different, or nothing; the target at one end and at the other, or at 0."""
    for others in ([0] * population, [-largest] * population, [largest] * population,
                   [largest if i % 2 else -largest for i in range(population)]):  # fmt: skip
        for target, replaced in ((largest, -largest), (largest, 0), (0, -largest)):
            yield [*others[1:], target], [*others[1:], replaced]


@pytest.mark.parametrize(("population", "size"), [(4, 1), (5, 2), (6, 5), (3, 3), (12, 1)])
@pytest.mark.parametrize(("variance", "largest"), [(2.0, 1), (9.0, 2), (60.0, 3), (400.0, 5)])
def test_the_charge_is_above_every_explicit_pair(population, size, variance, largest):
    reach = int(60 + 20 * math.sqrt(variance) + 4 * max(ORDERS) * largest)
    # Also where the target moves by less: what counts is by how much any client could.
    leaf = FixedSizeSkellam(population, size, SkellamTerm(variance, 2.0 * largest, 2.0 * largest))
    for one, other in populations(population, largest):
        laws = [law_of_release(clients, size, variance, reach) for clients in (one, other)]
        for order in ORDERS:
            charged = renyi_divergence(((leaf, 1),), order, REPLACE)
            for first, second in (laws, laws[::-1]):
                assert charged >= divergence(first, second, order) * (1 - 1e-9)


def test_sampling_is_worth_something_and_everyone_is_the_mechanism_itself():
    noise = SkellamTerm(4e6, 2000.0, 2000.0)
    whole = renyi_divergence(((noise, 1),), 4, REPLACE)
    costs = [
        renyi_divergence(((FixedSizeSkellam(1000, size, noise), 1),), 4, REPLACE)
        for size in (1, 10, 100, 1000)
    ]
    assert costs == sorted(costs)
    assert costs[0] < 1e-3 * whole
    assert costs[-1] == pytest.approx(whole)


def test_much_noise_costs_little_more_than_gaussian_noise():
    skellam = {"type": "skellam", "variance": 4e9, "l2": 4e4, "l1": 4e6}
    gaussian = {"type": "gaussian", "noise_multiplier": 2 * math.sqrt(4e9) / 4e4}
    sample = {"type": "sampled_without_replacement", "dataset_size": 1000, "sample_size": 20}
    one, other = (
        privacy.epsilon({**sample, "event": event}, 1e-5, accountant="rdp", relation="REPLACE_ONE")
        for event in (skellam, gaussian)
    )
    assert 0.99 * other <= one <= 1.2 * other


def test_orders_between_integers_and_very_quiet_noise_are_bounded_too():
    leaf = FixedSizeSkellam(10, 3, SkellamTerm(1.0, 50.0, 50.0))
    curve = [renyi_divergence(((leaf, 1),), a, REPLACE) for a in (1.5, 2, 2.5, 3, 40, 1024)]
    assert curve == sorted(curve)
    assert all(math.isfinite(value) for value in curve)


@pytest.mark.parametrize("relation", ["ADD_OR_REMOVE_ONE", "REPLACE_SPECIAL"])
def test_other_relations_have_no_bound(relation):
    terms = ((FixedSizeSkellam(10, 3, SkellamTerm(9.0, 2.0, 2.0)), 1),)
    with pytest.raises(UnsupportedEvent, match="REPLACE_ONE"):
        renyi_divergence(terms, 4, Relation.parse(relation))


def test_events_are_read_back_and_a_server_sees_the_cohort():
    noise = SkellamTerm(50.0, 3.0, 9.0)
    terms = ((FixedSizeSkellam(10, 3, noise), 4),)
    assert parse_event(event_of(terms)) == terms
    assert without_sampling(terms) == ((noise, 4),)
    twice = {"type": "composed", "events": [{"type": "skellam", **vars_of(noise)}] * 2}
    ((leaf, _),) = parse_event(
        {"type": "sampled_without_replacement", "population": 10, "sample_size": 3, "event": twice}
    )
    assert leaf.noise == joint_skellam([(noise, 2)])


def vars_of(noise):
    return {"variance": noise.variance, "l2": noise.l2, "l1": noise.l1}
