"""Composition of privacy losses against a contour integral, which shares nothing with it."""

import math

import numpy as np
import pytest
import reference_pld as reference

from privacy.accounting import pricing as accounting
from privacy.accounting.loss_composition import composed_delta, composed_epsilon
from privacy.accounting.loss_distributions import losses, on_grid
from privacy.accounting.pricing import price
from privacy.accounting.slots import Slot
from privacy.accounting.terms import GaussianTerm, Laplace, TruncatedGaussian, make_terms
from privacy.budgets import Budget
from privacy.errors import BudgetExceeded, InvalidEvent, UnsupportedEvent
from privacy.ledger.ledger import Ledger

# The reference itself is good to about this.
NOISE = 1e-6


def terms_of(schedule):
    return make_terms([(GaussianTerm(z, q), count) for z, q, count in schedule])


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("relation", ["ADD_OR_REMOVE_ONE", "REPLACE_ONE"])
@pytest.mark.parametrize("delta", [1e-5, 1e-12, 1e-14])
@pytest.mark.parametrize(
    "schedule",
    [
        [(1.0, 0.01, 10_000)],
        [(2.0, 0.05, 300)],
        [(1.0, 0.1, 3_000)],
        [(3.0, 0.2, 200), (9.0, 0.5, 40)],
    ],
)
def test_epsilon_is_a_bound_and_tight_at_every_delta(schedule, delta, relation):
    claimed = price(terms_of(schedule), delta, relation=relation)
    true = reference.largest_delta(schedule, claimed, relation)
    assert true <= delta * (1 + NOISE)
    assert true >= delta * 0.995


@pytest.mark.parametrize("direction", ["remove", "add", "replace"])
def test_delta_and_epsilon_of_a_composition_are_inverse(direction):
    parts = [(GaussianTerm(1.0, 0.02), 500), (Laplace(8.0), 3)]
    for delta in (1e-3, 1e-9, 1e-13):
        epsilon = composed_epsilon(parts, direction, delta)
        assert composed_delta(parts, direction, epsilon) == pytest.approx(delta, rel=1e-4)


@pytest.mark.parametrize("delta", [1e-5, 1e-12, 1e-100])
@pytest.mark.parametrize("mu", [1e-6, 0.1, 3.0, 40.0])
def test_one_gaussian_is_the_closed_form(mu, delta):
    if 2 * delta > math.erf(mu / math.sqrt(8)):
        return  # epsilon is 0
    epsilon = composed_epsilon([(GaussianTerm(2 / mu), 4)], "remove", delta)
    true = float(reference.gaussian_delta(mu, epsilon))
    assert true <= delta * (1 + 1e-9)
    assert true >= delta * 0.99


@pytest.mark.parametrize("direction", ["remove", "add", "replace"])
@pytest.mark.parametrize(
    "leaf", [GaussianTerm(1.0, 0.01), GaussianTerm(0.05, 0.3), GaussianTerm(20.0), Laplace(2.0)]
)
def test_the_law_on_the_grid_keeps_the_mass_of_both_sides(leaf, direction):
    grid = 1e-2 / leaf.noise_multiplier
    first, law = on_grid(losses(leaf, direction, 1e-30, grid), grid)
    points = (first + np.arange(len(law))) * grid
    assert math.isclose(law.sum(), 1, rel_tol=1e-12)
    assert math.isclose(float(law @ np.exp(-points)), 1, rel_tol=1e-9)


def test_laplace_alone_is_its_pure_epsilon():
    assert price(make_terms([(Laplace(2.0), 1)]), 1e-12) == pytest.approx(0.5, rel=1e-4)
    four = price(make_terms([(Laplace(2.0), 4)]), 1e-300)
    assert four == pytest.approx(2.0, rel=1e-3)
    replaced = price(make_terms([(Laplace(2.0), 1)]), 1e-12, relation="REPLACE_ONE")
    assert replaced == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(("epsilon", "delta"), [(10.31, 1e-12), (10.91, 3e-15)])
def test_a_ledger_refuses_at_a_small_delta_what_costs_more(tmp_path, epsilon, delta):
    plan = [Slot("training", 0.01, 1.0, 10_000)]
    with pytest.raises(BudgetExceeded):
        Ledger.create(tmp_path / "a.db", Budget(epsilon, delta), population=100, slots=plan)
    # The truth is less than 1 in 20 above.
    Ledger.create(tmp_path / "b.db", Budget(epsilon * 1.06, delta), population=100, slots=plan)


@pytest.mark.sample(quick=5)
@pytest.mark.parametrize("relation", ["ADD_OR_REMOVE_ONE", "REPLACE_ONE"])
@pytest.mark.parametrize(
    ("z", "q", "count", "delta"),
    [
        (1e-3, 0.5, 10, 1e-6),
        (1e-5, 0.01, 5, 1e-5),
        (1e-9, 0.01, 5, 1e-5),
        (1e9, 0.5, 1, 1e-12),
        (1.0, 1e-30, 10, 1e-40),
        (3.0, 0.3, 5, 1e-200),
        (1.0, 0.01, 10**12, 1e-6),
        (1.0, 1e-6, 10**7, 1e-15),
    ],
)
def test_a_private_event_has_a_finite_price_at_any_size(z, q, count, delta, relation):
    terms = terms_of([(z, q, count)])
    assert 0 < price(terms, delta, relation=relation) < math.inf


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("relation", ["ADD_OR_REMOVE_ONE", "REPLACE_ONE"])
@pytest.mark.parametrize("z", [0.1, 0.02, 0.013, 0.01, 1e-3, 1e-5, 1e-6, 1e-7, 1e-16, 1e-40])
def test_next_to_no_noise_shows_whoever_is_drawn(z, relation):
    q, event = 0.01, {"type": "poisson", "q": 0.01}
    event |= {"event": {"type": "gaussian", "noise_multiplier": z}}
    assert accounting.delta(event, 10.0, relation=relation) == pytest.approx(q, rel=1e-3)
    # Half of those who are drawn have a loss of at least (1 - 1/2) / z^2 - log((1 - q) / q).
    least = 0.5 / z**2 - 5 - 1 / z
    assert accounting.epsilon(event, q / 2, relation=relation) >= least * (1 - 1e-6)


def test_little_noise_needs_no_more_panels_than_much():
    sizes = {
        z: len(losses(GaussianTerm(z, 0.1), "remove", 1e-20, None).values) for z in (1e-6, 1.0)
    }
    assert sizes[1e-6] < 3 * sizes[1.0]


@pytest.mark.parametrize("b", [0.02, 0.01, 1.4e-3, 1e-5, 1e-40])
def test_a_sampled_laplace_sum_of_little_noise_has_its_pure_epsilon(b):
    q, terms = 0.3, make_terms([(Laplace(b, 0.3), 1)])
    largest = 1 / b + math.log(q)  # log(1 - q + q exp(1 / b)), with a probability of about q / 2
    assert largest - 0.01 <= price(terms, 1e-5) <= 1 / b * (1 + 1e-9)


def test_what_the_library_composes_is_refused_below_its_errors():
    terms = make_terms([(TruncatedGaussian(1000, 0.01, 30, 1.0), 1)])
    with pytest.raises(UnsupportedEvent, match="'rdp', or a larger delta"):
        price(terms, 1e-12)


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_noise_too_small_for_a_float_is_refused(accountant):
    with pytest.raises(InvalidEvent, match="Use"):
        accounting.epsilon(
            {"type": "gaussian", "noise_multiplier": 1e-200}, 1e-5, accountant=accountant
        )
