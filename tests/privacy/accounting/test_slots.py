import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from privacy.accounting.events import parse_event
from privacy.accounting.pricing import price
from privacy.accounting.slots import (
    Release,
    Slot,
    effective_noise_multiplier,
    fits_multiplier,
    plan,
    slot_terms,
    tally_key,
)
from privacy.accounting.terms import GaussianTerm
from privacy.budgets import Budget
from privacy.errors import InvalidEvent
from privacy.relations import Relation

GRID = {"noise_kind": "discrete_gaussian", "units": "grid", "noise_std": 50.0}
ADD, REPLACE = Relation.ADD_OR_REMOVE_ONE, Relation.REPLACE_ONE


def release(name="a", clip=1.0, std=1.0, group=None, factor=1, **more):
    return Release(name, clip, factor * clip, std, group=group, **more)


def test_sums_clipped_jointly_cost_as_much_as_the_loudest():
    sums = [release("a", 1.0, 3.0, "g"), release("b", 5.0, 15.0, "g"), release("c", 2.0, 8.0, "g")]
    assert math.isclose(effective_noise_multiplier(sums, ADD), 3.0, rel_tol=1e-15)


def test_sums_clipped_apart_add_in_inverse_squares():
    sums = [release(name, 2.0, 6.0) for name in "abc"]
    assert math.isclose(effective_noise_multiplier(sums, ADD), 3 / math.sqrt(3), rel_tol=1e-15)
    assert math.isclose(price(((GaussianTerm(3.0), 1),), 1e-5), 1.271, rel_tol=1e-3)
    separate = GaussianTerm(effective_noise_multiplier(sums, ADD))
    assert math.isclose(price(((separate, 1),), 1e-5), 2.341, rel_tol=1e-3)


def test_groups_and_single_sums_mix():
    sums = [
        release("a", std=2.0, group="g"),
        release("b", std=4.0, group="g"),
        release("c", std=2.0),
    ]
    assert math.isclose(effective_noise_multiplier(sums, ADD), math.sqrt(2), rel_tol=1e-15)


def test_a_group_named_like_a_sum_is_not_that_sum():
    sums = [release("a", std=1.0), release("b", std=1.0, group="a")]
    assert math.isclose(effective_noise_multiplier(sums, ADD), math.sqrt(0.5), rel_tol=1e-15)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(1e-3, 1e3), st.floats(1e-2, 1e2))
def test_the_multiplier_of_one_sum_is_sigma_over_sensitivity_to_rounding(clip, z):
    got = effective_noise_multiplier([release(clip=clip, std=z * clip)], ADD)
    assert math.isclose(got, z, rel_tol=1e-12)
    doubled = effective_noise_multiplier([release(clip=clip, std=z * clip, factor=2)], REPLACE)
    assert math.isclose(doubled, z, rel_tol=1e-12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(1e-3, 1e3), st.floats(1e-2, 1e2), st.integers(1, 8))
def test_rounding_errors_never_cost_a_slot_and_never_gain_one(clip, z, parts):
    sums = [release(str(k), clip, z * clip * math.sqrt(parts)) for k in range(parts)]
    computed = effective_noise_multiplier(sums, ADD)
    assert fits_multiplier(computed) >= z
    ((priced, _),) = slot_terms([Slot("training", 1.0, fits_multiplier(computed), 1)])
    assert priced.noise_multiplier < computed


def test_integer_sensitivity_larger_than_the_clip_is_what_counts():
    grid = Release("a", 1.0, 112.5, 100.0, units="grid", noise_kind="discrete_gaussian")
    assert math.isclose(effective_noise_multiplier([grid], ADD), 100 / 112.5, rel_tol=1e-15)


def hockey_stick(p, q, epsilon):
    return max(
        np.maximum(p - math.exp(epsilon) * q, 0).sum(),
        np.maximum(q - math.exp(epsilon) * p, 0).sum(),
    )


@pytest.mark.parametrize(("sigma", "shift"), [(8, 1), (8, 8), (8, 24), (20, 7), (64, 64)])
@pytest.mark.parametrize("q", [1.0, 0.1, 0.001])
def test_discrete_noise_is_never_worse_than_the_gaussian_it_is_charged_as(sigma, shift, q):
    grid = Release("a", 1.0, shift, sigma, units="grid", noise_kind="discrete_gaussian")
    z = effective_noise_multiplier([grid], ADD, charged=True)
    assert z < effective_noise_multiplier([grid], ADD) == sigma / shift
    x = np.arange(-40 * sigma - shift, 40 * sigma + shift)
    without = np.exp(-(x**2) / (2 * sigma**2))
    moved = np.exp(-((x - shift) ** 2) / (2 * sigma**2))
    without, moved = without / without.sum(), moved / moved.sum()
    true = (1 - q) * without + q * moved
    for epsilon in (0.01, 0.1, 0.5, 1.0, 2.0, 4.0):
        add = z**2 * math.log((math.expm1(epsilon) + q) / q) + 0.5
        tail = norm.sf(add, 0, z)
        charged = q * norm.sf(add, 1, z) + (1 - q) * tail - math.exp(epsilon) * tail
        assert hockey_stick(true, without, epsilon) <= charged * (1 + 1e-9) + 1e-15


def test_discrete_noise_may_be_worse_than_a_gaussian_of_the_same_deviation():
    x = np.arange(-400, 400)
    pair = [np.exp(-((x - shift) ** 2) / (2 * 8**2)) for shift in (1, 0)]
    true = hockey_stick(pair[0] / pair[0].sum(), pair[1] / pair[1].sum(), 0.5)
    crossing = 64 * 0.5 + 0.5
    same = norm.sf(crossing, 1, 8) - math.exp(0.5) * norm.sf(crossing, 0, 8)
    assert true > same * 1.01


def test_a_fine_grid_fits_a_slot_of_the_same_multiplier():
    grid = Release("a", 1.0, 5000.0, 5000.0, units="grid", noise_kind="discrete_gaussian")
    charged = effective_noise_multiplier([grid], ADD, charged=True)
    assert charged < 1.0 <= fits_multiplier(charged)
    coarse = Release("a", 1.0, 50.0, 50.0, units="grid", noise_kind="discrete_gaussian")
    assert fits_multiplier(effective_noise_multiplier([coarse], ADD, charged=True)) < 1.0


def test_replace_one_with_add_remove_sensitivity_is_refused():
    with pytest.raises(InvalidEvent, match="2 x clip_norm"):
        effective_noise_multiplier([release()], REPLACE)


def test_no_releases_and_equal_names_are_refused():
    for sums in ([], [release(), release()]):
        with pytest.raises(InvalidEvent, match="distinct names"):
            effective_noise_multiplier(sums, ADD)


@pytest.mark.parametrize("field", ["clip_norm", "sensitivity", "noise_std"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, True, "1"])
def test_a_release_needs_positive_finite_numbers(field, value):
    numbers = {"clip_norm": 1.0, "sensitivity": 1.0, "noise_std": 1.0, field: value}
    with pytest.raises(InvalidEvent, match=field):
        Release("a", **numbers)


@pytest.mark.parametrize(
    "change",
    [
        {"noise_party": "nobody"},
        {"units": "pounds"},
        {"noise_kind": "laplace"},
        {"noise_kind": "discrete_gaussian"},
        {"noise_kind": "discrete_gaussian", "units": "grid", "noise_std": 7.9},
        {**GRID, "noise_party": "clients"},
        {**GRID, "noise_party": "clients", "min_survivors": 401},
        {"name": ""},
        {"group": ""},
        {"min_survivors": 0},
    ],
)
def test_a_release_must_be_described_fully(change):
    with pytest.raises(InvalidEvent, match="Expected"):
        Release(**{"name": "a", "clip_norm": 1.0, "sensitivity": 1.0, "noise_std": 1.0, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"purpose": ""},
        {"purpose": "total"},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": 0.0},
        {"count": 0},
        {"count": True},
        {"count": 1.5},
    ],
)
def test_a_slot_must_make_sense(change):
    fields = {"purpose": "training", "sampling_rate": 0.1, "noise_multiplier": 1.0, "count": 1}
    with pytest.raises(InvalidEvent, match="Expected"):
        Slot(**{**fields, **change})


def test_plan_shows_both_views_by_purpose_and_in_total():
    slots = [Slot("training", 0.01, 1.0, 1000), Slot("hypergradient", 0.05, 4 / math.sqrt(2), 50)]
    quote = plan(slots, Budget(2.0, 1e-5))
    assert math.isclose(quote.released["training"], 1.828, rel_tol=1e-3)
    assert math.isclose(quote.released["total"], 1.900, rel_tol=1e-3)
    assert math.isclose(quote.server["training"], 634, rel_tol=5e-3)
    assert quote.server["total"] > quote.server["training"]
    assert quote.fits
    assert not plan(slots, Budget(1.89, 1e-5)).fits
    assert not plan(slots, Budget(2.0, 1e-5), purposes={"training": Budget(1.8, 1e-5)}).fits


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(1e-6, 1.0), st.floats(1e-2, 1e3))
def test_tallies_round_to_more_sampling_and_less_noise(q, z):
    ((leaf, count),) = parse_event(json.loads(tally_key(((GaussianTerm(z, q), 1),))))
    assert count == 1
    assert leaf.q >= q * (1 - 1e-12)
    assert leaf.noise_multiplier <= z * (1 + 1e-12)
    assert leaf.q <= q * 1.011
    assert leaf.noise_multiplier >= z / 1.011
