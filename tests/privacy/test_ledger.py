import contextlib
import itertools
import math

import pytest

from privacy import Budget, BudgetExceeded, Ledger, LedgerCorrupt, Release, Slot
from privacy.accounting import price
from privacy.errors import CohortReused, InvalidEvent, LedgerError, ReservationState
from privacy.terms import Gaussian

BUDGET = Budget(8.0, 1e-5)
PLAN = (
    Slot("training", 0.01, 1.0, 4),
    Slot("training", 0.1, 4.0, 2),
    Slot("evaluation", 0.1, 9.0, 1),
)
cohorts = (f"cohort {number}" for number in itertools.count())


def release(z=1.0, name="delta", **more):
    return Release(name, clip_norm=2.0, sensitivity=2.0, noise_std=2.0 * z, **more)


def reserve(ledger, *, purpose="training", q=0.01, z=1.0, round=0, **more):
    fields = {"run_id": "run", "cohort_id": next(cohorts), "releases": [release(z)], **more}
    return ledger.reserve(purpose=purpose, sampling_rate=q, round=round, **fields)


def finish(draw):
    draw.open()
    draw.commit("00")
    return draw


@pytest.fixture
def create(tmp_path):
    made = []

    def make(budget=BUDGET, *, slots=PLAN, **more):
        path = tmp_path / f"{len(made)}.db"
        ledger = Ledger.create(path, budget, population=1000, slots=slots, **more)
        made.append(ledger)
        return ledger

    yield make
    for ledger in made:
        ledger.verify()
        ledger.close()


def test_every_slot_can_be_spent_and_not_one_more(create):
    ledger = create()
    for _ in range(4):
        finish(reserve(ledger))
    assert ledger.remaining("training").slots == (Slot("training", 0.1, 4.0, 2),)
    head = ledger.head
    with pytest.raises(BudgetExceeded, match="slot of 'training' that dominates") as caught:
        reserve(ledger)
    assert caught.value.purpose == "training"
    assert "z=" not in caught.value.needed or "q=0.01" in caught.value.needed
    assert "2 x (q<=0.1, z>=4)" in caught.value.left
    assert ledger.head == head


@pytest.mark.parametrize(
    ("q", "z", "fits"),
    [
        (0.01, 1.0, True),
        (0.01, 1.0 - 1e-5, False),
        (0.01 + 1e-12, 1.0, False),
        (0.005, 3.0, True),
        (0.1, 4.0, True),
        (0.05, 3.9, False),
    ],
)
def test_a_draw_spends_a_slot_only_if_the_slot_dominates_it(create, q, z, fits):
    ledger = create()
    if fits:
        assert reserve(ledger, q=q, z=z).state == "reserved"
    else:
        with pytest.raises(BudgetExceeded):
            reserve(ledger, q=q, z=z)


def test_the_cheapest_slot_that_fits_is_spent(create):
    ledger = create()
    reserve(ledger, q=0.005, z=10.0)
    cheap = min(PLAN[:2], key=lambda slot: slot.weight)
    left = {slot.noise_multiplier: slot.count for slot in ledger.remaining("training").slots}
    assert left[cheap.noise_multiplier] == cheap.count - 1


def test_a_slot_of_one_purpose_never_pays_for_another(create):
    ledger = create()
    with pytest.raises(BudgetExceeded, match="evaluation"):
        reserve(ledger, purpose="evaluation", q=0.01, z=1.0)
    with pytest.raises(InvalidEvent, match="purpose among"):
        reserve(ledger, purpose="curiosity")


def test_several_releases_on_one_cohort_are_one_draw_with_their_joint_noise(create):
    ledger = create()
    sums = [release(math.sqrt(2), "delta"), release(math.sqrt(2), "cotangent")]
    draw = reserve(ledger, releases=sums)
    assert math.isclose(draw.noise_multiplier, 1.0, rel_tol=1e-12)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, releases=[*sums, release(50.0, "loss")])


def test_noise_is_computed_from_sigma_and_sensitivity(create):
    ledger = create(slots=[Slot("training", 1.0, 2.0, 5)])
    assert reserve(ledger, q=1.0, z=2.0).noise_multiplier == 2.0
    weaker = Release("delta", clip_norm=1.0, sensitivity=1.5, noise_std=2.0)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, q=1.0, releases=[weaker])


def test_replace_one_ledgers_demand_the_doubled_sensitivity(create):
    ledger = create(
        Budget(20.0, 1e-5), slots=[Slot("training", 0.01, 1.0, 9)], relation="REPLACE_ONE"
    )
    with pytest.raises(InvalidEvent, match="2 x clip_norm"):
        reserve(ledger)
    doubled = Release("delta", clip_norm=2.0, sensitivity=4.0, noise_std=2.0)
    assert reserve(ledger, releases=[doubled]).noise_multiplier == 1.0
    assert ledger.spent()["total"] > price(((Gaussian(1.0, 0.01), 1),), 1e-5)


def test_a_cohort_can_be_charged_once_whatever_its_state(create):
    ledger = create()
    finish(reserve(ledger, cohort_id="a"))
    reserve(ledger, cohort_id="b").void()
    for name in "ab":
        with pytest.raises(CohortReused, match="one reservation"):
            reserve(ledger, cohort_id=name)


# States.


def test_only_an_unopened_reservation_can_be_voided(create):
    ledger = create()
    draw = reserve(ledger)
    before = ledger.remaining("training").slots
    draw.void()
    assert draw.state == "void"
    assert ledger.remaining("training").slots != before
    opened = reserve(ledger)
    opened.open()
    for step in (opened.void, opened.open):
        with pytest.raises(ReservationState, match="'reserved'"):
            step()
    opened.commit("00")
    with pytest.raises(ReservationState, match="'open'"):
        opened.commit("00")
    with pytest.raises(ReservationState, match="got 'void'"):
        draw.open()


def test_a_commit_needs_an_open_reservation(create):
    draw = reserve(create())
    with pytest.raises(ReservationState, match="'reserved'"):
        draw.commit("00")


def test_what_was_never_committed_is_spent_after_reopening(create, tmp_path):
    ledger = create()
    reserve(ledger)
    reserve(ledger).open()
    with Ledger.open(tmp_path / "0.db") as again:
        assert sum(slot.count for slot in again.remaining("training").slots) == 4
        assert [draw.state for draw in again.find("run")] == ["reserved", "open"]
        assert again.spent() == ledger.spent()


def test_a_retry_is_a_new_number(create):
    ledger = create()
    first, second = reserve(ledger), reserve(ledger)
    assert second.seq > first.seq
    assert {draw.seq for draw in ledger.find("run", 0)} == {first.seq, second.seq}


def test_too_few_survivors_cannot_be_committed(create):
    ledger = create()
    noisy = release(noise_party="clients", min_survivors=40)
    draw = reserve(ledger, releases=[noisy])
    draw.open()
    with pytest.raises(ReservationState, match="at least 40 survivors"):
        draw.commit("00", survivors=39)
    assert draw.state == "open"
    draw.commit("00", survivors=40)


def test_find_returns_what_a_resumed_run_needs(create):
    ledger = create()
    finish(reserve(ledger, round=0))
    reserve(ledger, round=1, q=0.1, z=4.0)
    reserve(ledger, round=1, purpose="evaluation", q=0.1, z=9.0)
    reserve(ledger, round=1, run_id="other")
    assert [draw.purpose for draw in ledger.find("run", 1)] == ["training", "evaluation"]
    (draw,) = ledger.find("run", 1, purpose="training")
    assert (draw.sampling_rate, draw.noise_multiplier, draw.state) == (0.1, 4.0, "reserved")
    assert ledger.find("run", 7) == ()


# Plans and budgets.


def test_a_plan_beyond_the_budget_leaves_no_file(tmp_path):
    path = tmp_path / "ledger.db"
    with pytest.raises(BudgetExceeded, match="Use more noise"):
        Ledger.create(path, Budget(1.0, 1e-5), population=10, slots=[Slot("training", 1.0, 1.0, 1)])
    assert list(tmp_path.iterdir()) == []


def test_slots_are_admitted_up_to_the_exact_count(create):
    create(Budget(1.0, 1e-6), slots=[Slot("training", 0.001, 0.8, 11_393)])
    with pytest.raises(BudgetExceeded):
        create(Budget(1.0, 1e-6), slots=[Slot("training", 0.001, 0.8, 11_394)])


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
    one = price(((Gaussian(5.0), 3),), 1e-5)
    quote = ledger.declare([Slot("training", 1.0, 5.0, 2)])
    assert math.isclose(quote.released["total"], price(((Gaussian(5.0), 5),), 1e-5), rel_tol=1e-5)
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
    assert 2.5 < price(((Gaussian(1.35), 1),), 1e-5) < 3.5
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
    expected = price(((Gaussian(1.0, 0.01), 3),), 1e-5)
    assert math.isclose(released["training"], expected, rel_tol=1e-5)
    assert math.isclose(server["training"], price(((Gaussian(1.0), 3),), 1e-5), rel_tol=1e-5)
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


# Files.


def test_a_ledger_is_never_created_over_a_file(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_text("mine")
    with pytest.raises(LedgerError, match="never started over"):
        Ledger.create(path, BUDGET, population=10)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_opening_nothing_or_something_else_is_an_error(tmp_path):
    with pytest.raises(LedgerError, match=r"Ledger\.create"):
        Ledger.open(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "text.db").write_text("not a database at all, and long enough to be read" * 30)
    with pytest.raises(LedgerCorrupt, match="readable ledger"):
        Ledger.open(tmp_path / "text.db")
    (tmp_path / "empty.db").touch()
    with pytest.raises(LedgerCorrupt, match="readable ledger"):
        Ledger.open(tmp_path / "empty.db")


def test_the_clock_is_an_argument_and_is_recorded(tmp_path):
    times = itertools.count(100.0)
    with Ledger.create(
        tmp_path / "l.db", BUDGET, population=9, slots=PLAN, clock=lambda: next(times)
    ) as ledger:
        finish(reserve(ledger))
        assert [record.body["time"] for record in ledger.entries()] == [100, 101, 102, 103, 104]


@pytest.mark.parametrize(
    "change",
    [
        {"round": -1},
        {"round": True},
        {"round": 1.0},
        {"run_id": ""},
        {"cohort_id": None},
        {"q": 0.0},
        {"q": math.nan},
        {"releases": []},
    ],
)
def test_a_reservation_that_makes_no_sense_writes_nothing(create, change):
    ledger = create()
    head = ledger.head
    with pytest.raises(InvalidEvent, match="Expected"):
        reserve(ledger, **change)
    assert ledger.head == head


@pytest.mark.parametrize("population", [0, -1, True, 1.5])
def test_a_population_is_a_positive_integer(tmp_path, population):
    with pytest.raises(InvalidEvent, match="population"):
        Ledger.create(tmp_path / "l.db", BUDGET, population=population)


@pytest.mark.parametrize(
    "terms",
    [
        {"accountant": "moments"},
        {"accountant": "rdp"},
        {"accountant": "gdp", "unplanned": {"evaluation": "gdp"}},
        {"unplanned": {"evaluation": "rdp@8"}},
        {"purposes": {"total": Budget(1.0, 1e-5)}},
    ],
)
def test_terms_that_cannot_be_kept_are_refused(tmp_path, terms):
    with pytest.raises(InvalidEvent, match="Expected"):
        Ledger.create(tmp_path / "l.db", BUDGET, population=10, **terms)
