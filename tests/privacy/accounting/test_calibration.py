import pytest

from privacy import BudgetExceeded, epsilon
from privacy.accounting.calibration import noise_multiplier_for, rounds_for
from privacy.budgets import Budget


def schedule(q, z, count):
    sample = {"type": "poisson", "q": q, "event": {"type": "gaussian", "noise_multiplier": z}}
    return {"type": "self_composed", "event": sample, "count": count}


def both(*events):
    return {"type": "composed", "events": list(events)}


SPENT = schedule(0.02, 2.0, 20)


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize(
    ("q", "rounds", "accountant", "spent"),
    [
        (0.02, 20, "pld", SPENT),
        (0.01, 1000, "rdp", None),
        (0.01, 1000, "rdp", SPENT),
        (1.0, 10, "gdp", None),
        (1.0, 10, "gdp", schedule(1.0, 20.0, 2)),
        (1.0, 1, "pld", None),
    ],
)
def test_noise_is_enough_and_hardly_more_than_enough(q, rounds, accountant, spent):
    budget = Budget(3.0, 1e-5)
    z = noise_multiplier_for(
        budget, sampling_rate=q, rounds=rounds, spent=spent, accountant=accountant
    )

    def total(z):
        events = [schedule(q, z, rounds)] + ([spent] if spent else [])
        return epsilon(both(*events), budget.delta, accountant=accountant)

    assert total(z) <= budget.epsilon
    assert total(z * (1 - 2e-4)) > budget.epsilon


@pytest.mark.parametrize(
    ("budget", "q", "z", "accountant", "spent", "count"),
    [
        (Budget(1.0, 1e-6), 0.001, 0.8, "rdp", None, 0),
        (Budget(4.0, 1e-5), 1.0, 10.0, "gdp", None, 85),
        (Budget(4.0, 1e-5), 1.0, 10.0, "zcdp", None, 74),
        (Budget(4.0, 1e-5), 1.0, 10.0, "gdp", schedule(1.0, 10.0, 80), 5),
        (Budget(4.0, 1e-5), 1.0, 10.0, "gdp", schedule(1.0, 10.0, 85), 0),
        (Budget(4.0, 1e-5), 1.0, 10.0, "gdp", schedule(1.0, 0.1, 1), 0),
    ],
)
def test_rounds_are_counted_exactly(budget, q, z, accountant, spent, count):
    got = rounds_for(
        budget, sampling_rate=q, noise_multiplier=z, accountant=accountant, spent=spent
    )
    assert got == count


@pytest.mark.parametrize(("q", "z", "accountant"), [(0.02, 2.0, "pld"), (0.3, 5.0, "rdp")])
@pytest.mark.parametrize("spent", [None, SPENT])
def test_rounds_fit_and_one_more_does_not(q, z, accountant, spent):
    budget = Budget(2.5, 1e-5)
    count = rounds_for(
        budget, sampling_rate=q, noise_multiplier=z, accountant=accountant, spent=spent
    )
    assert count > 1

    def total(count):
        events = [schedule(q, z, count)] + ([spent] if spent else [])
        return epsilon(both(*events), budget.delta, accountant=accountant)

    assert total(count) <= budget.epsilon < total(count + 1)


def test_a_budget_that_is_gone_is_said_to_be_gone():
    with pytest.raises(BudgetExceeded, match="beside what was spent"):
        noise_multiplier_for(
            Budget(1.0, 1e-5), sampling_rate=0.1, rounds=10, spent=schedule(1.0, 1.0, 1)
        )
