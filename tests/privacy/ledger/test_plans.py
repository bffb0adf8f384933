"""What a ledger admits in advance, what a filter admits without a plan, and what is reported of both."""

import contextlib
import math
import re

import pytest
from ledgers import BUDGET, finish, reserve

from privacy import Budget, BudgetExceeded, Ledger, Release, Slot
from privacy.accounting.pricing import price
from privacy.accounting.terms import GaussianTerm
from privacy.errors import InvalidEvent, LedgerError

# Plans and budgets.


def test_a_plan_beyond_the_budget_leaves_no_file(tmp_path):
    path = tmp_path / "ledger.db"
    with pytest.raises(BudgetExceeded, match="Use more noise"):
        Ledger.create(path, Budget(1.0, 1e-5), population=10, slots=[Slot("training", 1.0, 1.0, 1)])
    assert list(tmp_path.iterdir()) == []


def test_slots_are_admitted_up_to_the_exact_count(create):
    create(Budget(1.0, 1e-6), slots=[Slot("training", 0.001, 0.8, 11_394)])
    with pytest.raises(BudgetExceeded):
        create(Budget(1.0, 1e-6), slots=[Slot("training", 0.001, 0.8, 11_395)])


def test_each_purpose_and_all_together_are_held_to_their_budgets(create):
    purposes = {"training": Budget(2.0, 1e-5), "hypergradient": Budget(2.0, 1e-5)}
    slots = [Slot("training", 1.0, 3.0, 1), Slot("hypergradient", 1.0, 3.0, 1)]
    with pytest.raises(BudgetExceeded, match="'total'"):
        create(Budget(1.5, 1e-5), slots=slots, purposes=purposes)
    with pytest.raises(BudgetExceeded, match="'training'") as caught:
        create(BUDGET, slots=[Slot("training", 1.0, 1.0, 1)], purposes=purposes)
    assert caught.value.purpose == "training"
    ledger = create(Budget(2.0, 1e-5), slots=slots, purposes=purposes)
    with pytest.raises(InvalidEvent, match="purpose among"):
        ledger.declare([Slot("evaluation", 1.0, 50.0, 1)])


def test_later_plans_are_priced_on_top_of_everything_declared(create):
    ledger = create(Budget(2.0, 1e-5), slots=[Slot("training", 1.0, 5.0, 3)])
    one = price(((GaussianTerm(5.0), 3),), 1e-5)
    quote = ledger.declare([Slot("training", 1.0, 5.0, 2)])
    assert math.isclose(
        quote.released["total"], price(((GaussianTerm(5.0), 5),), 1e-5), rel_tol=1e-5
    )
    assert quote.released["total"] > one
    assert ledger.remaining("training").slots == (Slot("training", 1.0, 5.0, 5),)
    head = ledger.head
    with pytest.raises(BudgetExceeded, match="Nothing was declared"):
        ledger.declare([Slot("training", 1.0, 5.0, 5)])
    assert ledger.head == head


def test_after_a_release_a_plan_must_be_said_to_be_independent_of_it(create):
    ledger = create()
    reserve(ledger)
    ledger.declare([Slot("training", 0.01, 5.0, 1)])  # nothing was seen yet
    ledger.find("run")[0].open()
    with pytest.raises(LedgerError, match="data_independent=True"):
        ledger.declare([Slot("training", 0.01, 5.0, 1)])
    ledger.declare([Slot("training", 0.01, 5.0, 1)], data_independent=True)
    plans = [
        record.body["data_independent"] for record in ledger.entries() if record.kind == "plan"
    ]
    assert plans == [True, True, True]


def test_the_adaptive_analyst_is_stopped(create):
    """Both choices fit when priced with what ran; the ledger lets neither follow from an output."""
    options = (Slot("training", 1.0, 1 / 0.641, 1), Slot("training", 3e-5, 0.197, 1))
    ledger = create(Budget(4.0, 1e-5), slots=[Slot("training", 1.0, 1.5, 1)])
    assert all(ledger.plan([option]).fits for option in options)
    finish(reserve(ledger, q=1.0, z=1.5))
    for option in options:
        with pytest.raises(LedgerError, match="before the first release"):
            ledger.declare([option])
        with pytest.raises(BudgetExceeded):
            reserve(ledger, q=option.sampling_rate, z=option.noise_multiplier)
    with pytest.raises(BudgetExceeded):
        create(Budget(4.0, 1e-5), slots=[Slot("training", 1.0, 1.5, 1), *options])


def test_plan_writes_nothing_and_shows_both_views(create):
    ledger = create()
    head = ledger.head
    quote = ledger.plan([Slot("hypergradient", 0.05, 4.0, 5)])
    assert ledger.head == head
    assert quote.fits
    assert quote.server["total"] > quote.released["total"] > ledger.plan().released["total"]
    assert not ledger.plan([Slot("training", 1.0, 0.1, 5)]).fits


# Filters.


def test_unplanned_work_is_admitted_by_a_filter_until_it_is_full(create):
    ledger = create(Budget(4.0, 1e-5), slots=(), accountant="gdp")
    for _ in range(85):
        reserve(ledger, q=1.0, z=10.0)
    with pytest.raises(BudgetExceeded, match="of its capacity") as caught:
        reserve(ledger, q=1.0, z=10.0)
    assert "capacity" in caught.value.left
    assert 3.97 < ledger.spent()["total"] <= 4.0
    assert 0 < ledger.remaining("training").filter_fraction < 0.01
    ledger.find("run")[0].void()
    reserve(ledger, q=1.0, z=10.0)


def test_filters_take_each_purpose_and_all_together_into_account(create):
    purposes = {"training": Budget(4.0, 1e-5), "evaluation": Budget(1.0, 1e-5)}
    ledger = create(Budget(4.0, 1e-5), slots=(), accountant="zcdp", purposes=purposes)
    admitted = {"training": 0, "evaluation": 0}
    for purpose, full in (("evaluation", "evaluation"), ("training", None)):
        with contextlib.suppress(BudgetExceeded):
            while True:
                reserve(ledger, purpose=purpose, q=1.0, z=10.0)
                admitted[purpose] += 1
        with pytest.raises(BudgetExceeded) as caught:
            reserve(ledger, purpose=purpose, q=1.0, z=10.0)
        assert caught.value.purpose == full
    assert admitted["evaluation"] + admitted["training"] == 74
    assert 0 < admitted["evaluation"] < 74


def test_a_plan_on_a_filter_is_paid_in_advance(create):
    plan = [Slot("training", 0.01, 1.0, 100)]
    ledger = create(Budget(2.0, 1e-5), slots=plan, accountant="rdp")
    assert ledger.charter.accountant.startswith("rdp@")
    before = ledger.remaining("training").filter_fraction
    reserve(ledger)
    assert ledger.remaining("training").filter_fraction == before
    reserve(ledger, z=2.0, q=0.02)
    assert ledger.remaining("training").filter_fraction < before


def test_on_a_filter_later_plans_may_depend_on_what_was_released(create):
    ledger = create(Budget(4.0, 1e-5), slots=(), accountant="rdp@6")
    finish(reserve(ledger))
    ledger.declare([Slot("training", 0.01, 1.0, 100)])
    with pytest.raises(BudgetExceeded, match="capacity"):
        ledger.declare([Slot("training", 0.01, 1.0, 4000)])


def test_unplanned_purposes_are_paid_from_what_was_set_aside(create):
    purposes = {"training": Budget(3.0, 5e-6), "evaluation": Budget(1.0, 5e-6)}
    unplanned = {"evaluation": "rdp@20"}
    slots = [Slot("training", 0.01, 1.0, 100)]
    ledger = create(Budget(4.0, 1e-5), slots=slots, purposes=purposes, unplanned=unplanned)
    reserve(ledger, purpose="evaluation", q=0.1, z=6.0)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, q=0.1, z=6.0)
    with pytest.raises(InvalidEvent, match="runs on rdp@20"):
        ledger.declare([Slot("evaluation", 0.1, 6.0, 1)])
    tight = [Slot("training", 1.0, 1.35, 1)]
    assert 2.5 < price(((GaussianTerm(1.35), 1),), 1e-5) < 3.5
    with pytest.raises(BudgetExceeded):
        create(Budget(3.2, 1e-5), slots=tight, purposes=purposes, unplanned=unplanned)
    with pytest.raises(BudgetExceeded, match="sum below"):
        create(Budget(1.0, 1e-5), slots=(), purposes=purposes, unplanned=unplanned)


def test_fixed_size_cohorts_are_priced_as_such_on_an_rdp_filter(create):
    ledger = create(Budget(4.0, 1e-5), slots=(), accountant="rdp@6", relation="REPLACE_ONE")
    doubled = Release("delta", clip_norm=1.0, sensitivity=2.0, noise_std=2.0)
    reserve(ledger, q=0.01, releases=[doubled], sampling="fixed")
    assert 0 < ledger.spent()["total"] < ledger.spent("server")["total"]
    with pytest.raises(InvalidEvent, match="law is not known"):
        reserve(ledger, q=0.01, releases=[doubled], sampling="shuffled")


def test_fixed_size_cohorts_never_spend_a_poisson_slot(create):
    with pytest.raises(BudgetExceeded, match="one fixed draw"):
        reserve(create(), sampling="fixed")


# Reports.


def test_spent_shows_both_views_by_purpose_and_in_total(create):
    ledger = create()
    for _ in range(3):
        reserve(ledger)
    reserve(ledger, purpose="evaluation", q=0.1, z=9.0)
    released, server = ledger.spent(), ledger.spent("server")
    expected = price(((GaussianTerm(1.0, 0.01), 3),), 1e-5)
    assert math.isclose(released["training"], expected, rel_tol=1e-5)
    assert math.isclose(server["training"], price(((GaussianTerm(1.0), 3),), 1e-5), rel_tol=1e-5)
    assert released["hypergradient"] == 0
    assert max(released["training"], released["evaluation"]) < released["total"] < server["total"]
    assert released["total"] <= ledger.plan().released["total"]


def test_spent_follows_the_slots_and_never_exceeds_the_plan(create):
    ledger = create()
    values = []
    for q, z, count in ((0.01, 1.0, 4), (0.1, 4.0, 2)):
        for _ in range(count):
            reserve(ledger, q=q, z=z)
            values.append(ledger.spent()["training"])
    assert values == sorted(values)
    assert math.isclose(values[-1], ledger.plan().released["training"], rel_tol=1e-5)


def test_reading_changes_nothing(create):
    ledger = create()
    reserve(ledger)
    head = ledger.head
    for _ in range(2):
        ledger.spent(), ledger.spent("server"), ledger.remaining("training"), ledger.plan()
        ledger.find("run"), list(ledger.entries()), ledger.verify()
    assert ledger.head == head
    with pytest.raises(InvalidEvent, match="view 'released' or 'server'"):
        ledger.spent("client")


def test_a_resumed_run_sees_that_an_older_file_is_no_descendant(create, tmp_path):
    ledger = create()
    finish(reserve(ledger))
    backup = (tmp_path / "0.db").read_bytes()
    finish(reserve(ledger))
    head = ledger.head
    assert ledger.is_descendant_of(head)
    (tmp_path / "old.db").write_bytes(backup)
    with Ledger.open(tmp_path / "old.db") as old:
        old.verify()
        assert not old.is_descendant_of(head)


def test_a_refusal_names_the_noise_that_fits(create):
    budget = Budget(2.0, 1e-5)
    with pytest.raises(BudgetExceeded, match=r"multiplier of (\S+) would fit") as caught:
        create(budget, slots=[Slot("training", 0.1, 1.0, 1000)])
    z = float(re.search(r"multiplier of (\S+) would fit", str(caught.value)).group(1))
    ledger = create(budget, slots=[Slot("training", 0.1, z, 1000)])
    with pytest.raises(BudgetExceeded):
        create(budget, slots=[Slot("training", 0.1, z * 0.998, 1000)])
    draw = {"purpose": "training", "sampling_rate": 0.1, "run_id": "r", "round": 0}
    less = [Release("sum", 1.0, 1.0, noise_std=1.0)]
    with pytest.raises(BudgetExceeded, match=f"multiplier of {re.escape(repr(z))} would fit"):
        ledger.reserve(releases=less, cohort_id="a", **draw)
    filtered = create(budget, accountant="rdp@8")
    with pytest.raises(BudgetExceeded, match="would fit") as caught:
        filtered.reserve(releases=[Release("sum", 1.0, 1.0, noise_std=0.4)], cohort_id="a", **draw)
    z = float(re.search(r"multiplier of (\S+) would fit", str(caught.value)).group(1))
    filtered.reserve(releases=[Release("sum", 1.0, 1.0, noise_std=z)], cohort_id="a", **draw)


def test_a_mechanism_of_the_largest_cost_fits_no_filter(create):
    ledger = create(Budget(1e9, 1e-5), accountant="rdp@8")
    with pytest.raises(BudgetExceeded):
        ledger.reserve(
            purpose="training",
            sampling_rate=1.0,
            releases=[Release("sum", 1.0, 1.0, noise_std=1e-6)],
            run_id="r",
            round=0,
            cohort_id="a",
        )
