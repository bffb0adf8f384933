import json
import math
from pathlib import Path

import dp_accounting
import pytest
from dp_accounting import rdp
from dp_accounting.privacy_accountant import NeighboringRelation
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import privacy
from privacy.accounting import pricing as accounting
from privacy.accounting.events import parse_event
from privacy.accounting.renyi_pricing import renyi_divergence
from privacy.accounting.terms import GaussianTerm
from privacy.errors import InvalidEvent, UnsupportedEvent
from privacy.relations import Relation

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "accounting.json").read_text())


def gaussian(z):
    return {"type": "gaussian", "noise_multiplier": z}


def poisson(q, event):
    return {"type": "poisson", "q": q, "event": event}


def repeated(event, count):
    return {"type": "self_composed", "event": event, "count": count}


def composed(*events):
    return {"type": "composed", "events": list(events)}


@pytest.mark.sample(quick=14)
@pytest.mark.parametrize(
    ("case", "accountant"),
    [(case, accountant) for case in VECTORS["cases"] for accountant in case["epsilon"]],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_epsilon_matches_published_and_independent_values(case, accountant):
    got = privacy.epsilon(
        case["event"], case["delta"], accountant=accountant, relation=case["relation"]
    )
    assert math.isclose(got, case["epsilon"][accountant], rel_tol=1e-3)


@pytest.mark.parametrize(("q", "z"), [(0.2, 0.7), (0.01, 1.0), (0.5, 3.0)])
def test_one_sampled_release_equals_its_hockey_stick_in_closed_form(q, z):
    delta = 1e-5
    claimed = privacy.epsilon(poisson(q, gaussian(z)), delta)
    # The likelihood ratio q exp((2x - 1) / (2 z^2)) + 1 - q rises with x, so each direction of the
    # hockey stick is a tail beyond the point where the ratio crosses exp(+-epsilon).
    add = z**2 * math.log((math.expm1(claimed) + q) / q) + 0.5
    with_client = q * stats.norm.sf(add, 1, z) + (1 - q) * stats.norm.sf(add, 0, z)
    true = with_client - math.exp(claimed) * stats.norm.sf(add, 0, z)
    if math.exp(-claimed) > 1 - q:
        drop = z**2 * math.log((math.expm1(-claimed) + q) / q) + 0.5
        with_client = q * stats.norm.cdf(drop, 1, z) + (1 - q) * stats.norm.cdf(drop, 0, z)
        removed = stats.norm.cdf(drop, 0, z) - math.exp(claimed) * with_client
        true = max(true, removed)
    assert true <= delta * (1 + 1e-9)  # the claim holds
    assert true >= delta * 0.99  # and is tight


# What the library answers, and what is right. Each of these fails if the work-around goes.


def test_nan_noise_is_refused_where_the_library_prices_it_as_free():
    upstream = rdp.RdpAccountant()
    upstream.compose(dp_accounting.GaussianDpEvent(math.nan))
    assert upstream.get_epsilon(1e-5) == 0
    for event in (gaussian(math.nan), poisson(0.1, gaussian(math.nan))):
        with pytest.raises(ValueError, match="finite"):
            privacy.epsilon(event, 1e-5, accountant="rdp")


def test_a_nested_negative_count_is_refused_where_the_library_refunds_it():
    upstream = rdp.RdpAccountant()
    upstream.compose(dp_accounting.GaussianDpEvent(1.0), 5)
    refund = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(1.0), -5)
    upstream.compose(dp_accounting.ComposedDpEvent([refund]))
    assert upstream.get_epsilon(1e-5) == 0
    event = composed(repeated(gaussian(1.0), 5), composed(repeated(gaussian(1.0), -5)))
    for accountant in accounting.ACCOUNTANTS:
        with pytest.raises(ValueError, match="at least 1"):
            privacy.epsilon(event, 1e-5, accountant=accountant)


def test_rdp_doubles_the_sensitivity_of_a_replaced_client_where_the_library_does_not():
    upstream = rdp.RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    upstream.compose(dp_accounting.GaussianDpEvent(2.0))
    replaced = privacy.epsilon(gaussian(2.0), 1e-5, accountant="rdp", relation="REPLACE_ONE")
    assert upstream.get_epsilon(1e-5) < replaced / 2
    assert replaced == privacy.epsilon(gaussian(1.0), 1e-5, accountant="rdp")


def test_randomized_response_is_refused_because_its_count_would_be_lost():
    event = repeated({"type": "randomized_response", "noise_parameter": 0.5, "num_buckets": 2}, 10)
    with pytest.raises(ValueError, match="event type among"):
        privacy.epsilon(event, 1e-5, accountant="pld", relation="REPLACE_ONE")


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_a_count_is_never_lost(accountant):
    for event in (
        {"type": "laplace", "noise_multiplier": 20.0},
        poisson(0.1, {"type": "laplace", "noise_multiplier": 2.0}),
        poisson(0.1, gaussian(2.0)),
        {"type": "zcdp", "rho": 0.01},
        {"type": "skellam", "variance": 4000.0, "l2": 20.0, "l1": 400.0},
    ):
        try:
            once = privacy.epsilon(event, 1e-5, accountant=accountant)
        except UnsupportedEvent:
            continue
        tenfold = privacy.epsilon(repeated(event, 10), 1e-5, accountant=accountant)
        listed = privacy.epsilon(composed(*[event] * 10), 1e-5, accountant=accountant)
        assert tenfold == listed
        assert tenfold > 1.5 * once


def test_a_refused_part_leaves_nothing_behind():
    before = privacy.epsilon(gaussian(1.0), 1e-5)
    with pytest.raises(UnsupportedEvent):
        privacy.epsilon(composed(gaussian(1.0), {"type": "zcdp", "rho": 0.1}), 1e-5)
    assert privacy.epsilon(gaussian(1.0), 1e-5) == before


def test_orders_that_do_not_converge_are_bounded_by_the_unsampled_curve():
    event = poisson(0.5, gaussian(1e6))
    upstream = rdp.RdpAccountant([1.1])
    upstream.compose(dp_accounting.PoissonSampledDpEvent(0.5, dp_accounting.GaussianDpEvent(1e6)))
    assert upstream.rdp[0] < 0 or math.isinf(upstream.rdp[0])
    relation = Relation.ADD_OR_REMOVE_ONE
    assert 0 < renyi_divergence(parse_event(event), 1.1, relation) <= 1.1 / 2e12


def test_a_divergence_that_comes_out_negative_is_not_taken_for_zero():
    leaf, order = GaussianTerm(1e9, 0.5), 3.0
    upstream = rdp.RdpAccountant([order])
    upstream.compose(dp_accounting.PoissonSampledDpEvent(0.5, dp_accounting.GaussianDpEvent(1e9)))
    assert upstream.rdp[0] < 0
    paid = renyi_divergence(((GaussianTerm(100.0), 1),), order, Relation.ADD_OR_REMOVE_ONE)
    both = ((GaussianTerm(100.0), 1), (leaf, 10**12))
    assert renyi_divergence(both, order, Relation.ADD_OR_REMOVE_ONE) > paid


def test_pld_holds_many_rounds_where_rdp_admits_none():
    event = repeated(poisson(0.001, gaussian(0.8)), 11_393)
    assert privacy.epsilon(event, 1e-6) <= 1.0
    assert privacy.epsilon(poisson(0.001, gaussian(0.8)), 1e-6, accountant="rdp") > 1.0


def test_a_caller_who_changes_the_event_later_does_not_change_the_price():
    events = [gaussian(1.0)]
    terms = parse_event({"type": "composed", "events": events})
    events.append(gaussian(0.1))
    assert terms == parse_event(gaussian(1.0))


# Laws.

EVENTS = st.tuples(st.floats(1e-4, 1.0), st.floats(0.3, 50.0), st.integers(1, 500))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(EVENTS, st.sampled_from(["pld", "rdp"]), st.floats(1e-10, 1e-2))
def test_epsilon_is_never_negative_and_falls_with_noise_and_rises_with_rate(event, accountant, d):
    q, z, count = event

    def price(q, z, count):
        return privacy.epsilon(repeated(poisson(q, gaussian(z)), count), d, accountant=accountant)

    here = price(q, z, count)
    room = 1e-3 * here + 1e-3  # the loss grid
    assert math.isfinite(here)
    assert here >= 0
    assert price(q, z * 1.5, count) <= here + room
    assert price(q / 2, z, count) <= here + room
    assert price(q, z, count + 5) >= here - room


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(1e-6, 1e12), st.floats(1e-300, 0.999), st.sampled_from(accounting.ACCOUNTANTS))
def test_one_gaussian_is_priced_at_any_size(z, delta, accountant):
    value = privacy.epsilon(gaussian(z), delta, accountant=accountant)
    assert 0 <= value < math.inf
    if accountant != "pld":
        assert value >= privacy.epsilon(gaussian(z), delta) * (1 - 1e-9)


@pytest.mark.sample(quick=4)
@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("z", [0.05, 1e3, 1e9])
@pytest.mark.parametrize("q", [1e-300, 0.9999999])
def test_extreme_samples_have_a_price_that_is_a_number(accountant, q, z):
    value = privacy.epsilon(repeated(poisson(q, gaussian(z)), 10), 1e-6, accountant=accountant)
    assert 0 <= value < math.inf


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_delta_and_epsilon_are_inverse(accountant):
    event = repeated(poisson(0.02, gaussian(1.1)), 300)
    epsilon = privacy.epsilon(event, 1e-5, accountant=accountant)
    assert math.isclose(accounting.delta(event, epsilon, accountant=accountant), 1e-5, rel_tol=0.02)


def test_a_sampled_release_never_costs_more_than_with_everyone():
    for z in (0.05, 0.3, 1.0, 10.0):
        everyone = privacy.epsilon(repeated(gaussian(z), 50), 1e-5)
        sampled = privacy.epsilon(repeated(poisson(0.999, gaussian(z)), 50), 1e-5)
        assert sampled <= everyone * (1 + 2e-3)


def test_non_private_parts_cost_everything_at_any_depth():
    hidden = poisson(0.1, {"type": "non_private"})
    search = {"type": "repeat_and_select", "event": hidden, "mean": 3, "shape": 1}
    for event in (hidden, composed(gaussian(1.0), {"type": "non_private"}), search):
        for accountant in accounting.ACCOUNTANTS:
            assert privacy.epsilon(event, 1e-5, accountant=accountant) == math.inf
        assert accounting.delta(event, 3.0) == 1.0


def test_nothing_costs_nothing():
    for event in ({"type": "no_op"}, composed(), poisson(0.1, {"type": "no_op"})):
        assert privacy.epsilon(event, 1e-5) == 0


@pytest.mark.parametrize("delta", [0, 1, -1e-5, math.nan, True, "1e-5", None])
def test_delta_out_of_range_is_refused(delta):
    with pytest.raises(InvalidEvent, match="delta"):
        privacy.epsilon(gaussian(1.0), delta)


def test_unknown_names_are_refused_and_listed():
    with pytest.raises(InvalidEvent, match="accountant among"):
        privacy.epsilon(gaussian(1.0), 1e-5, accountant="moments")
    with pytest.raises(InvalidEvent, match="relation among ADD_OR_REMOVE_ONE"):
        privacy.epsilon(gaussian(1.0), 1e-5, relation="add")


@pytest.mark.parametrize(
    ("event", "accountant", "relation"),
    [
        (poisson(0.1, gaussian(1.0)), "gdp", "ADD_OR_REMOVE_ONE"),
        (poisson(0.1, gaussian(1.0)), "zcdp", "ADD_OR_REMOVE_ONE"),
        (poisson(0.1, gaussian(1.0)), "rdp", "REPLACE_ONE"),
        ({"type": "tree", "noise_multiplier": 2.0, "steps": 8}, "rdp", "ADD_OR_REMOVE_ONE"),
        ({"type": "zcdp", "rho": 0.1}, "pld", "ADD_OR_REMOVE_ONE"),
    ],
)
def test_what_an_accountant_cannot_bound_it_refuses_with_a_way_out(event, accountant, relation):
    with pytest.raises(UnsupportedEvent, match=r"Use|Charge"):
        privacy.epsilon(event, 1e-5, accountant=accountant, relation=relation)
