"""Reports of any mixture: never an error, and never above the budget for what was admitted."""

import math

import pytest

from privacy.accounting.slots import Release, Slot, report
from privacy.accounting.terms import FixedSizeGaussian, GaussianTerm, SkellamTerm, make_terms
from privacy.budgets import Budget
from privacy.ledger.ledger import Ledger
from privacy.relations import Relation

RELATIONS = ["ADD_OR_REMOVE_ONE", "REPLACE_ONE"]


def released(z, relation):
    factor = Relation.parse(relation).sensitivity_factor
    return [Release("sum", 1.0, float(factor), noise_std=z)]


def plan_of(types):
    return [Slot("training", 0.05 + 0.01 * k, 8.0 + k, 2) for k in range(types)]


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_plan_of_many_types_is_reported_within_its_budget(tmp_path, relation):
    slots = plan_of(20)
    budget = Budget(50.0, 1e-6)
    with Ledger.create(
        tmp_path / "a.db", budget, population=100, slots=slots, relation=relation
    ) as ledger:
        exact = Budget(ledger.plan().released["total"] * (1 + 1e-12), 1e-6)
    with Ledger.create(
        tmp_path / "b.db", exact, population=100, slots=slots, relation=relation
    ) as ledger:
        for number, slot in enumerate(s for s in slots for _ in range(s.count)):
            ledger.reserve(
                purpose="training",
                sampling_rate=slot.sampling_rate,
                releases=released(slot.noise_multiplier, relation),
                run_id="r",
                round=number,
                cohort_id=f"c{number}",
            )
        assert 0.999 * exact.epsilon < ledger.spent()["training"] <= exact.epsilon
        assert ledger.spent()["total"] <= exact.epsilon
        assert math.isfinite(ledger.spent(view="server")["total"])


def test_slots_beside_samples_of_a_fixed_size_are_reported_within_the_budget(tmp_path):
    relation = "REPLACE_ONE"  # the one that fixed sizes are priced under
    purposes = {"training": Budget(2.0, 5e-7), "evaluation": Budget(1.0, 5e-7)}
    z = 24.0
    with Ledger.create(
        tmp_path / "a.db",
        Budget(3.0, 1e-6),
        population=100,
        purposes=purposes,
        relation=relation,
        slots=[Slot("training", 0.1, z, 40)],
        unplanned={"evaluation": "rdp@24"},
    ) as ledger:
        options = {"releases": released(z, relation), "run_id": "r"}
        for number in range(40):
            ledger.reserve(
                purpose="training",
                sampling_rate=0.1,
                round=number,
                cohort_id=f"t{number}",
                **options,
            )
        ledger.reserve(
            purpose="evaluation",
            sampling_rate=0.1,
            sampling="fixed",
            round=0,
            cohort_id="e0",
            **options,
        )
        for view in ("released", "server"):
            spent = ledger.spent(view=view)
            assert 0 < spent["evaluation"] < spent["total"] < math.inf
        assert ledger.spent()["total"] <= 3.0
        assert ledger.remaining("evaluation").epsilon <= 1.0


MIXTURES = [
    (Relation.REPLACE_ONE, FixedSizeGaussian(100, 10, 6.0)),
    (Relation.REPLACE_ONE, SkellamTerm(900.0, 2.0, 4.0)),
    (Relation.ADD_OR_REMOVE_ONE, SkellamTerm(900.0, 2.0, 4.0)),
]


@pytest.mark.parametrize(("relation", "leaf"), MIXTURES)
def test_a_mixture_is_at_most_the_sum_of_its_kinds_at_half_of_delta(relation, leaf):
    sampled, other = make_terms([(GaussianTerm(3.0, 0.1), 20)]), make_terms([(leaf, 5)])
    both = report(make_terms([*sampled, *other]), 1e-6, relation)
    halves = report(sampled, 5e-7, relation) + report(other, 5e-7, relation)
    assert max(report(sampled, 1e-6, relation), report(other, 1e-6, relation)) < both
    assert both <= halves * (1 + 1e-9)


@pytest.mark.parametrize("accountant", ["pld", "rdp@6", "gdp", "zcdp"])
def test_budgets_of_purposes_may_overlap_on_every_accountant(tmp_path, accountant):
    # What each purpose may spend sums to more than the whole; the whole counts all the same.
    purposes = {"training": Budget(3.5, 1e-5), "hypergradient": Budget(2.5, 1e-5)}
    path = tmp_path / "ledger.db"
    slots = [Slot(name, 1.0, 9.0, 2) for name in purposes]
    with Ledger.create(
        path,
        Budget(4.0, 1e-5),
        population=50,
        purposes=purposes,
        accountant=accountant,
        slots=slots,
    ) as ledger:
        for number, name in enumerate(purposes):
            ledger.reserve(
                purpose=name,
                sampling_rate=1.0,
                run_id="run",
                round=number,
                releases=[Release("sum", 1.0, 1.0, noise_std=9.0)],
                cohort_id=f"{number:032x}",
            )
        spent = ledger.spent()
        assert 0 < max(spent[name] for name in purposes) < spent["total"]
        assert spent == ledger.spent("server")
