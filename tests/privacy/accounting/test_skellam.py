"""The price of Skellam noise is an upper bound of the true divergence, and is what is charged."""

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

import privacy
from privacy import Budget, BudgetExceeded, Ledger, Release
from privacy.accounting.draws import draw_terms
from privacy.accounting.events import event_of, parse_event
from privacy.accounting.filters import Filter
from privacy.accounting.renyi_pricing import renyi_divergence
from privacy.accounting.terms import GaussianTerm, SkellamTerm, joint_skellam
from privacy.errors import InvalidEvent, SizeNotPublic, UnsupportedEvent
from privacy.relations import Relation

ADD = Relation.ADD_OR_REMOVE_ONE
REPLACE = Relation.REPLACE_ONE
ORDERS = (2, 3, 5, 8, 16, 32)


@functools.lru_cache(maxsize=32)
def log_pmf(variance, reach):
    """log P(k) for |k| <= reach: the series of the Bessel function, which cannot underflow."""
    k = np.arange(reach + 1)[:, None]
    j = np.arange(int(60 + 2 * variance))
    series = (k + 2 * j) * math.log(variance / 2) - special.gammaln(j + 1)
    half = special.logsumexp(series - special.gammaln(k + j + 1), axis=1) - variance
    return np.concatenate([half[:0:-1], half])


def exact_divergence(variance, shift, order, q=1.0, reverse=False):
    """Renyi divergence of (1 - q) X + q (X + shift) and X, or of X and that, summed out."""
    reach = int(60 + 20 * math.sqrt(variance) + 2 * max(ORDERS) * abs(shift))
    base = log_pmf(variance, reach)
    keep = slice(abs(shift), len(base) - abs(shift))
    moved = np.roll(base, shift)[keep]
    base = base[keep]
    mixed = moved if q == 1 else np.logaddexp(math.log1p(-q) + base, math.log(q) + moved)
    one, other = (base, mixed) if reverse else (mixed, base)
    return float(special.logsumexp(order * one + (1 - order) * other)) / (order - 1)


GRID = list(
    itertools.product(
        (0.5, 2.0, 9.0, 40.0, 400.0),
        [(1,), (3,), (2, 1), (1, 1, 1, 1, 1, 1), (5, -2, 1), (4, 4, -4, 4)],
    )
)


@pytest.mark.parametrize(("variance", "shift"), GRID)
def test_the_charged_divergence_is_above_the_true_one(variance, shift):
    leaf = SkellamTerm(variance, float(np.linalg.norm(shift)), float(np.abs(shift).sum()))
    for order in ORDERS:
        true = sum(exact_divergence(variance, s, order) for s in shift)
        charged = renyi_divergence(((leaf, 1),), order, ADD)
        assert charged >= true * (1 - 1e-9)
        # Not far above where noise is as large as in use.
        if variance >= 400 and order <= 8:
            assert charged <= 1.05 * true + 1e-3


@pytest.mark.parametrize("order", [1.1, 1.5, 2.5, 7.3, 15.9])
@pytest.mark.parametrize(
    ("variance", "shift", "q"), [(9.0, 3, 1.0), (400.0, 20, 1.0), (40.0, 5, 0.2)]
)
def test_between_integer_orders_the_charge_is_above_the_true_divergence_too(
    order, variance, shift, q
):
    terms = ((SkellamTerm(variance, float(shift), float(shift), q), 1),)
    true = exact_divergence(variance, shift, order, q)
    charged = renyi_divergence(terms, order, ADD)
    assert charged >= true * (1 - 1e-9)
    # Convexity loses little: the chord is never above the next integer order.
    assert charged <= renyi_divergence(terms, math.ceil(order), ADD)
    assert Filter.parse(f"rdp@{order}").cost(terms, ADD) > 0


@pytest.mark.parametrize("q", [0.01, 0.2, 0.9])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("variance", "shift"), [(9.0, 3), (40.0, 5), (400.0, 20), (4.0, 1)])
def test_a_poisson_sample_is_charged_above_the_true_divergence(q, reverse, variance, shift):
    leaf = SkellamTerm(variance, float(shift), float(shift), q)
    for order in ORDERS:
        true = exact_divergence(variance, shift, order, q, reverse)
        charged = renyi_divergence(((leaf, 1),), order, ADD)
        assert charged >= true * (1 - 1e-9)
        assert charged <= renyi_divergence(((dataclasses.replace(leaf, q=1.0), 1),), order, ADD)


def test_the_oracle_is_near_the_gaussian_and_knows_the_law_of_the_sampler():
    assert math.isclose(np.exp(log_pmf(40.0, 400)).sum(), 1, rel_tol=1e-12)
    known = stats.skellam.logpmf(np.arange(-40, 41), 20.0, 20.0)
    np.testing.assert_allclose(log_pmf(40.0, 40), known, rtol=1e-9)
    gaussian = 8 * 5**2 / (2 * 40.0)
    assert 0.8 * gaussian < exact_divergence(40.0, 5, 8) <= gaussian


def test_divergence_rises_with_norms_rate_and_order_and_falls_with_noise():
    base = SkellamTerm(500.0, 20.0, 200.0, 0.1)

    def cost(**changes):
        return renyi_divergence(((dataclasses.replace(base, **changes), 1),), 8, ADD)

    assert cost(l2=21.0) > cost() < cost(l1=220.0)
    assert cost(q=0.11) > cost() > cost(variance=510.0) > 0
    curve = [renyi_divergence(((base, 1),), order, ADD) for order in range(2, 40)]
    assert curve == sorted(curve)


def test_much_noise_costs_as_gaussian_noise_does():
    skellam = {"type": "skellam", "variance": 4e9, "l2": 2e4, "l1": 2e7}
    gaussian = {"type": "gaussian", "noise_multiplier": math.sqrt(4e9) / 2e4}
    one, other = (privacy.epsilon(event, 1e-5, accountant="rdp") for event in (skellam, gaussian))
    assert other <= one <= other * 1.02


def test_joining_parts_never_makes_them_cheaper():
    rng = np.random.default_rng(0)
    for _ in range(200):
        parts = []
        for _ in range(rng.integers(1, 5)):
            l2 = float(rng.uniform(1, 30))
            parts.append((SkellamTerm(float(rng.uniform(1, 2000)), l2, l2 * rng.uniform(1, 20)), 2))
        joint = ((joint_skellam(parts), 1),)
        for order in (2, 7, 40):
            apart = sum(n * renyi_divergence(((leaf, 1),), order, ADD) for leaf, n in parts)
            assert renyi_divergence(joint, order, ADD) >= apart * (1 - 1e-12)


def test_events_of_samples_are_read_back_as_the_same_terms():
    terms = ((SkellamTerm(50.0, 3.0, 9.0, 0.25), 4), (SkellamTerm(50.0, 3.0, 9.0), 1))
    assert set(parse_event(event_of(terms))) == set(terms)
    twice = {"type": "skellam", "variance": 50.0, "l2": 3.0, "l1": 9.0, "rounds": 2}
    ((leaf, count),) = parse_event({"type": "poisson", "q": 0.5, "event": twice})
    assert (leaf.q, count) == (0.5, 1)
    assert math.isclose(leaf.l2**2, 2 * 9.0)
    assert math.isclose(leaf.l1, 2 * 9.0)


def test_pld_and_replace_one_samples_have_no_bound_and_say_so():
    event = {"type": "skellam", "variance": 50.0, "l2": 3.0, "l1": 9.0}
    with pytest.raises(UnsupportedEvent, match="accountant 'rdp'"):
        privacy.epsilon(event, 1e-5, accountant="pld")
    sampled = {"type": "poisson", "q": 0.5, "event": event}
    with pytest.raises(UnsupportedEvent, match="REPLACE_ONE"):
        privacy.epsilon(sampled, 1e-5, accountant="rdp", relation="REPLACE_ONE")


NOISY = {
    "noise_party": "clients",
    "units": "grid",
    "noise_kind": "skellam",
    "min_survivors": 30,
}


def release(name="delta", std=600.0, **more):
    fields = {"sensitivity": 300.0, "l1_sensitivity": 4000.0, **NOISY, **more}
    return Release(name, 1.0, noise_std=std, **fields)


def test_jointly_clipped_sums_are_one_mechanism_and_separate_ones_add():
    def leaf(*releases):
        ((leaf, count),) = draw_terms(releases, REPLACE, "fixed", 0.5, population=100)
        assert (count, leaf.dataset_size, leaf.sample_size) == (1, 100, 50)
        return leaf.noise

    together = leaf(release("a", group="all"), release("b", group="all"))
    assert together == leaf(release("a"))
    assert together.q == 1
    apart = leaf(release("a"), release("b"))
    assert math.isclose(apart.l2, 300.0 * math.sqrt(2))
    assert math.isclose(apart.l1, 8000.0)


@pytest.mark.parametrize(
    ("releases", "sampling", "error", "text"),
    [
        ([release(), Release("g", 1.0, 1.0, 1.0)], "fixed", InvalidEvent, "one family"),
        ([release()], "poisson", SizeNotPublic, "public size"),
        ([release()], "shuffle", InvalidEvent, "sampling 'poisson' or 'fixed'"),
    ],
)
def test_draws_without_a_bound_are_refused(releases, sampling, error, text):
    with pytest.raises(error, match=text):
        draw_terms(releases, REPLACE, sampling, 0.5, population=100)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"l1_sensitivity": 299.0}, "at least the sensitivity"),
        ({"l1_sensitivity": None}, "l1_sensitivity"),
        ({"units": "model"}, "units='grid'"),
        ({"min_survivors": None}, "min_survivors"),
    ],
)
def test_releases_that_say_too_little_are_refused(fields, text):
    with pytest.raises(InvalidEvent, match=text):
        release(**fields)


def test_a_ledger_with_a_filter_charges_the_divergence_and_stops(tmp_path):
    ((leaf, _),) = draw_terms([release()], REPLACE, "fixed", 0.2, population=100)
    rule, budget = Filter.parse("rdp@8"), Budget(12.0, 1e-5)
    room = rule.capacity(budget) // rule.cost(((leaf, 1),), REPLACE)
    assert room > 0
    with Ledger.create(
        tmp_path / "ledger.db",
        budget,
        population=100,
        accountant="rdp@8",
        relation=REPLACE,
    ) as ledger:
        for round in range(min(room, 3)):
            ledger.reserve(
                purpose="training", sampling_rate=0.2, releases=[release()], run_id="r",
                round=round, cohort_id=f"c{round}", sampling="fixed",
            )  # fmt: skip
        (reserved, *_) = (r.body for r in ledger.entries() if r.kind == "reserve")
        assert parse_event(reserved["event"]) == ((leaf, 1),)
        assert reserved["costs"]["total"] == rule.cost(((leaf, 1),), REPLACE)
        expected = privacy.epsilon(
            event_of(((leaf, min(room, 3)),)), 1e-5, accountant="rdp", relation=REPLACE
        )
        assert ledger.spent()["total"] == pytest.approx(expected, rel=1e-9)
        assert ledger.spent(view="server")["total"] > ledger.spent()["total"]
        ledger.verify()
        with pytest.raises(BudgetExceeded, match="Skellam noise"):
            ledger.reserve(
                purpose="training", sampling_rate=1.0, releases=[release(std=60.0)], run_id="r",
                round=9, cohort_id="too much",
            )  # fmt: skip


def test_a_ledger_of_gaussian_slots_refuses_skellam_noise_with_the_remedy(tmp_path):
    slots = [privacy.Slot("training", 1.0, 0.1, 5)]
    with (
        Ledger.create(tmp_path / "l.db", Budget(1e4, 1e-5), population=100, slots=slots) as ledger,
        pytest.raises(BudgetExceeded, match="accountant='rdp@8'"),
    ):
        ledger.reserve(
            purpose="training", sampling_rate=1.0, releases=[release()], run_id="r", round=0,
            cohort_id="c",
        )  # fmt: skip


def test_gaussian_draws_are_what_they_were():
    ((leaf, _),) = draw_terms([Release("g", 1.0, 1.0, 2.0)], ADD, "poisson", 0.3, population=9)
    assert leaf == GaussianTerm(2.0, 0.3)
