"""Filters, and the analyst who overspends a filter that is none (docs/ledger-slots.md, section 5)."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from privacy.accounting.filters import UNITS, Filter, best_order
from privacy.accounting.pricing import price
from privacy.accounting.terms import GaussianTerm, make_terms
from privacy.budgets import Budget
from privacy.errors import InvalidEvent, UnsupportedEvent
from privacy.relations import Relation

BUDGET = Budget(4.0, 1e-5)
ADD = Relation.ADD_OR_REMOVE_ONE


def admitted(rule, budget, leaf, relation=ADD):
    rule = Filter.parse(rule)
    return rule.capacity(budget) // rule.cost(((leaf, 1),), relation)


@pytest.mark.parametrize(
    ("rule", "budget", "leaf", "count"),
    [
        ("rdp@3.8", Budget(8.0, 1e-5), GaussianTerm(2.0, 0.05), 3371),
        ("rdp@6", BUDGET, GaussianTerm(1.0, 0.01), 3835),
        ("gdp", BUDGET, GaussianTerm(10.0), 85),
        ("zcdp", BUDGET, GaussianTerm(10.0), 74),
    ],
)
def test_filters_admit_exactly_as_many_releases_as_their_capacity_holds(rule, budget, leaf, count):
    assert admitted(rule, budget, leaf) == count


def test_a_replaced_client_costs_four_times_as_much():
    assert admitted("gdp", BUDGET, GaussianTerm(10.0), Relation.REPLACE_ONE) == 85 // 4


def test_the_best_order_of_a_plan_admits_most():
    terms = ((GaussianTerm(1.0, 0.01), 3000),)
    order = best_order([(terms, BUDGET)], ADD)[0]
    counts = {a: admitted(f"rdp@{a}", BUDGET, GaussianTerm(1.0, 0.01)) for a in (5, 6, 7)}
    assert counts[order] == max(counts.values())


def test_an_order_too_low_for_the_budget_is_refused_with_a_way_out():
    with pytest.raises(InvalidEvent, match="higher order"):
        Filter.parse("rdp@2").capacity(BUDGET)


@pytest.mark.parametrize(
    "rule", ["rdp", "rdp@1", "rdp@x", "rdp@nan", "rdp@inf", "pld", "gdp@2", ""]
)
def test_unknown_rules_are_refused(rule):
    with pytest.raises(InvalidEvent, match="Expected a filter"):
        Filter.parse(rule)


@pytest.mark.parametrize("rule", ["rdp@6", "rdp@3.8", "gdp", "zcdp"])
def test_rules_round_trip_as_text(rule):
    assert str(Filter.parse(rule)) == rule


def test_a_sample_has_no_price_under_gdp():
    with pytest.raises(UnsupportedEvent, match="q=1"):
        Filter.parse("gdp").cost(((GaussianTerm(1.0, 0.5), 1),), ADD)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(["rdp@6", "gdp", "zcdp"]),
    st.floats(0.2, 1e4),
    st.integers(1, 10_000),
)
def test_one_charge_of_n_never_costs_more_than_n_charges(rule, z, count):
    rule = Filter.parse(rule)
    together, single = (rule.cost(((GaussianTerm(z), n),), ADD) for n in (count, 1))
    assert 0 < together <= count * single
    assert together >= count * (single - 2) * (1 - 1e-9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.5, 20.0), min_size=1, max_size=5), st.sampled_from(["rdp@6", "gdp"]))
def test_what_fits_a_filter_is_within_the_budget_by_pld(zs, rule):
    rule = Filter.parse(rule)
    terms = make_terms([(GaussianTerm(z), 1) for z in zs])
    if rule.cost(terms, ADD) <= rule.capacity(BUDGET):
        assert price(terms, BUDGET.delta) <= BUDGET.epsilon * (1 + 1e-9)


def test_costs_are_integers_rounded_up_and_nothing_is_free():
    tiny = Filter.parse("gdp").cost(((GaussianTerm(1e12), 1),), ADD)
    assert tiny == 1
    assert isinstance(tiny, int)
    assert Filter.parse("gdp").cost(((GaussianTerm(1.0), 1),), ADD) >= UNITS


# The analyst: Gaussian with z=1.5, then one of two mechanisms, chosen from the realised loss.

FIRST = GaussianTerm(1.5)
OPTIONS = (GaussianTerm(1 / 0.641), GaussianTerm(0.197, 3e-5))


def hockey_stick(leaf, t):
    """sup over sets of P(S) - e^t Q(S), P with the client and Q without, for one mechanism."""
    z, q = leaf.noise_multiplier, leaf.q
    crossing = (np.expm1(t) + q) / q
    x = np.where(crossing > 0, z**2 * np.log(np.maximum(crossing, 1e-300)) + 0.5, -np.inf)
    with_client = q * norm.sf(x, 1, z) + (1 - q) * norm.sf(x, 0, z)
    return with_client - np.exp(t) * norm.sf(x, 0, z)


def realised_delta(options, epsilon):
    """The hockey stick of the adaptive whole: at each first output, the worse option is taken."""
    x = np.linspace(1 - 14 * 1.5, 1 + 14 * 1.5, 400_001)
    loss = (x - 0.5) / FIRST.noise_multiplier**2
    worst = np.max([hockey_stick(option, epsilon - loss) for option in options], axis=0)
    return float(np.trapezoid(norm.pdf(x, 1, FIRST.noise_multiplier) * worst, x))


def test_the_numerical_oracle_agrees_with_pld_for_each_fixed_choice():
    for option in OPTIONS:
        terms = make_terms([(FIRST, 1), (option, 1)])
        epsilon = price(terms, 1e-5)
        assert math.isclose(realised_delta([option], epsilon), 1e-5, rel_tol=5e-3)


def test_admitting_by_the_price_of_what_ran_is_overspent_by_an_adaptive_analyst():
    for option in OPTIONS:
        assert price(make_terms([(FIRST, 1), (option, 1)]), BUDGET.delta) <= BUDGET.epsilon
    assert realised_delta(OPTIONS, BUDGET.epsilon) > 1.9 * BUDGET.delta


@pytest.mark.parametrize("rule", [f"rdp@{order}" for order in (4, 5, 6, 7, 8, 10, 16)])
def test_a_filter_at_one_order_holds_against_the_same_analyst(rule):
    rule = Filter.parse(rule)
    left = rule.capacity(BUDGET) - rule.cost(((FIRST, 1),), ADD)
    open_options = [option for option in OPTIONS if rule.cost(((option, 1),), ADD) <= left]
    if left >= 0 and open_options:
        assert realised_delta(open_options, BUDGET.epsilon) <= BUDGET.delta
    assert left < 0 or open_options != list(OPTIONS)
