"""The curve of a budget ends where `spent` is, and each of its points is a prefix of the records."""

import pytest

from privacy import Budget, Ledger, Release, Slot
from privacy.ledger.spending import spending


def reserve(ledger, number, *, purpose="training", std=1.0, rate=0.01):
    return ledger.reserve(
        purpose=purpose,
        sampling_rate=rate,
        releases=[Release("delta", 1.0, 1.0, noise_std=std)],
        run_id="run",
        round=number,
        cohort_id=f"{purpose} {number}",
    )


@pytest.fixture
def ledger(tmp_path):
    slots = [Slot("training", 0.01, 1.0, 100), Slot("hypergradient", 0.05, 4.0, 50)]
    with Ledger.create(
        tmp_path / "l.db", Budget(4.0, 1e-5), population=10_000, slots=slots
    ) as made:
        yield made


def test_curve_ends_at_what_was_spent_in_both_views(ledger):
    for number in range(6):
        reserve(ledger, number)
        reserve(ledger, number, purpose="hypergradient", std=4.0, rate=0.05)
    reserve(ledger, 6).void()
    curve = spending(ledger, points=4)
    assert [point.draws for point in curve] == [3, 6, 9, 12]
    for view in ("released", "server"):
        spent = ledger.spent(view)
        assert curve[-1].epsilon[view] == {
            name: spent[name] for name in ("training", "hypergradient", "total")
        }
        totals = [point.epsilon[view]["total"] for point in curve]
        assert totals == sorted(set(totals))


def test_point_is_what_a_ledger_of_the_prefix_would_say(ledger, tmp_path):
    for number in range(8):
        reserve(ledger, number)
    with Ledger.create(
        tmp_path / "short.db",
        Budget(4.0, 1e-5),
        population=10_000,
        slots=[Slot("training", 0.01, 1.0, 100)],
    ) as short:
        for number in range(4):
            reserve(short, number)
        assert spending(ledger, points=2)[0].epsilon["released"]["total"] == short.spent()["total"]


def test_unplanned_draws_are_priced_by_their_event(tmp_path):
    with Ledger.create(
        tmp_path / "rdp.db", Budget(4.0, 1e-5), population=10_000, accountant="rdp@8"
    ) as ledger:
        for number in range(3):
            reserve(ledger, number, std=2.0)
        assert spending(ledger, points=1)[0].epsilon["released"] == {
            name: ledger.spent()[name] for name in ("training", "total")
        }


def test_empty_ledger_has_no_curve(ledger):
    assert spending(ledger) == []
