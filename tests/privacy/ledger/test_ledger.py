"""What a ledger grants: slots, the states of a reservation, and the file it is in."""

import itertools
import math

import pytest
from ledgers import BUDGET, PLAN, finish, release, reserve

from privacy import Budget, BudgetExceeded, Ledger, LedgerCorrupt, Release, Slot
from privacy.accounting.pricing import price
from privacy.accounting.terms import GaussianTerm
from privacy.errors import CohortReused, InvalidEvent, LedgerError, ReservationState


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
    assert ledger.spent()["total"] > price(((GaussianTerm(1.0, 0.01), 1),), 1e-5)


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
    ledger = create(slots=[Slot("training", 1.0, 1.0, 1)])
    noisy = release(noise_party="clients", min_survivors=40)
    draw = reserve(ledger, q=1.0, releases=[noisy])
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
