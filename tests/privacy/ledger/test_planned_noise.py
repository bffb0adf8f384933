"""Noise for a budget: the plan is admitted, all of it can be spent, and a little less noise could not."""

import dataclasses
import random

import jax.numpy as jnp
import pytest

import audits
import privacy
import secfad as fad
from privacy import Budget, FixedSampling, FullParticipation, PoissonSampling
from privacy.errors import BudgetExceeded, MechanismError
from privacy.execution.aggregation import charged_releases
from privacy.execution.queries import Query
from privacy.ledger.ledger import Ledger
from privacy.ledger.planning import filter_for
from privacy.mechanisms.mechanisms import Gaussian
from privacy.relations import Relation
from privacy.training.planned_noise import calibrated

POPULATION = 500


@fad.computation(model=fad.SERVER, own=fad.CLIENTS)
def two_rounds(model, own):
    first = fad.sum(fad.broadcast(model) * own, name="first")
    return fad.sum((fad.broadcast(first) - own) ** 2, name="second")


@fad.computation(model=fad.SERVER, own=fad.CLIENTS)
def one_round(model, own):
    return fad.sum(fad.broadcast(model) * own, name="first"), fad.sum(own, name="second")


SPECS = (jnp.zeros(3), jnp.zeros(3))


def query(computation, mechanism, purpose):
    private = privacy.privatize(computation, *SPECS, mechanism=mechanism, purpose=purpose)
    return Query(private, audits.certify(private))


def spend(ledger, query, sampling, number, relation):
    """Reserves one draw of a query as a run does."""
    size = round(sampling.expected_size)
    ledger.reserve(
        purpose=query.program.purpose,
        sampling_rate=sampling.rate,
        sampling=sampling.kind,
        releases=charged_releases(
            query.program.releases,
            query.program.mechanism,
            max(3, size),
            Relation.parse(relation).sensitivity_factor,
        ),
        run_id="run",
        round=number,
        cohort_id=f"{query.program.purpose}-{number}",
    )


def quieter(mechanism, factor):
    noise = mechanism.noise_multiplier
    less = (
        noise * factor
        if isinstance(noise, float)
        else {name: z * factor for name, z in noise.items()}
    )
    return dataclasses.replace(mechanism, noise_multiplier=less)


def setting(seed):
    """A random budget, sampling, plan and mechanism."""
    rng = random.Random(seed)
    relation = rng.choice(["ADD_OR_REMOVE_ONE", "REPLACE_ONE"])
    sampling = rng.choice(
        [FullParticipation(POPULATION), PoissonSampling(POPULATION, rng.choice([0.02, 0.1, 0.4]))]
    )
    budget = Budget(rng.uniform(0.3, 12.0), 10 ** rng.uniform(-12, -5))
    names = rng.sample(["training", "hypergradient", "evaluation"], rng.randint(1, 3))
    programs = {name: rng.choice([one_round, two_rounds]) for name in names}
    like = {}
    for name in names:
        joint = rng.random() < 0.6
        noise = 1.0 if joint or rng.random() < 0.5 else {"first": 1.0, "*": rng.uniform(0.5, 2.0)}
        like[name] = Gaussian(
            noise_multiplier=noise,
            clip_norm=rng.uniform(0.1, 10.0),
            joint=joint,
            grid=1 << rng.randint(8, 20),
            rotation=rng.random() < 0.3,
        )
    counts = {name: rng.randint(1, 12) for name in names}
    purposes = None
    if rng.random() < 0.4:
        purposes = {n: Budget(budget.epsilon * rng.uniform(0.3, 0.9), budget.delta) for n in names}
    shares = {n: rng.uniform(0.2, 1.0) for n in names} if rng.random() < 0.4 else None
    return relation, sampling, budget, programs, like, counts, purposes, shares


def check(seed, folder):
    relation, sampling, budget, programs, like, counts, purposes, shares = setting(seed)
    drafts = {n: query(programs[n], like[n], n).program for n in programs}
    found = calibrated(
        budget,
        sampling,
        {n: (counts[n], drafts[n]) for n in programs},
        like=like,
        purposes=purposes,
        shares=shares,
        relation=relation,
    )
    queries = {n: query(programs[n], found[n], n) for n in programs}
    slots = [queries[n].slot(sampling, counts[n]) for n in programs]
    options = {"population": POPULATION, "purposes": purposes, "relation": relation}
    with Ledger.create(folder / "ledger.db", budget, slots=slots, **options) as ledger:
        for name in programs:
            for number in range(counts[name]):
                spend(ledger, queries[name], sampling, number, relation)
        total = purposes or {}
        for name, value in ledger.spent().items():
            assert value <= total.get(name, budget).epsilon
        one = next(iter(queries.values()))
        with pytest.raises(BudgetExceeded):
            spend(ledger, one, sampling, 10_000, relation)
    less = [query(programs[n], quieter(found[n], 1 - 1e-3), n) for n in programs]
    slots = [one.slot(sampling, counts[one.program.purpose]) for one in less]
    with pytest.raises(BudgetExceeded):
        Ledger.create(folder / "less.db", budget, slots=slots, **options)


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("seed", range(4))
def test_the_plan_fits_is_spent_whole_and_less_noise_would_not_do(seed, tmp_path):
    check(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.sample(slow=20)
@pytest.mark.parametrize("seed", range(4, 120))
def test_many_plans_fit_are_spent_whole_and_less_noise_would_not_do(seed, tmp_path):
    check(seed, tmp_path)


def test_the_ordinary_case_is_one_line(tmp_path):
    budget, sampling = Budget(2.0, 1e-5), PoissonSampling(POPULATION, 0.1)
    mechanisms = privacy.calibrated(budget, sampling, {"training": 30}, clip_norm=0.5)
    one = query(one_round, mechanisms["training"], "training")
    slots = [one.slot(sampling, 30)]
    Ledger.create(tmp_path / "ledger.db", budget, population=POPULATION, slots=slots)


def test_releases_may_be_told_by_their_number(tmp_path):
    budget, sampling = Budget(2.0, 1e-5), FullParticipation(POPULATION)
    mechanisms = calibrated(budget, sampling, {"training": (5, 2)}, clip_norm=0.5)
    one = query(two_rounds, mechanisms["training"], "training")
    slots = [one.slot(sampling, 5)]
    Ledger.create(tmp_path / "ledger.db", budget, population=POPULATION, slots=slots)
    assert one.noise_multiplier == pytest.approx(
        calibrated(budget, sampling, {"training": 5}, clip_norm=1.0)["training"].noise_multiplier,
        rel=1e-3,
    )


@pytest.mark.parametrize("noise", ["central", "distributed"])
def test_cohorts_of_a_fixed_size_are_planned_on_a_filter(noise, tmp_path):
    budget, sampling = Budget(4.0, 1e-6), FixedSampling(POPULATION, 50)
    like = Gaussian(noise_multiplier=1.0, clip_norm=1.0, noise=noise)
    asked = {"training": 8, "evaluation": 2}
    found = calibrated(budget, sampling, asked, like=like, relation="REPLACE_ONE")
    queries = [query(one_round, found[name], name) for name in asked]
    schedule = [q.draws(sampling, asked[q.program.purpose], "REPLACE_ONE") for q in queries]
    accountant = filter_for(schedule, budget, relation="REPLACE_ONE")
    options = {"population": POPULATION, "relation": "REPLACE_ONE", "accountant": accountant}
    with Ledger.create(tmp_path / "ledger.db", budget, **options) as ledger:
        for one in queries:
            for number in range(asked[one.program.purpose]):
                spend(ledger, one, sampling, number, "REPLACE_ONE")
        with pytest.raises(BudgetExceeded):
            spend(ledger, queries[0], sampling, 99, "REPLACE_ONE")


def purposes_on_a_filter(seed, folder):
    """A random plan of fixed-size draws, where purposes have budgets of their own."""
    rng, relation = random.Random(seed), "REPLACE_ONE"
    budget = Budget(rng.uniform(0.5, 15.0), 10 ** rng.uniform(-10, -4))
    sampling = FixedSampling(POPULATION, rng.choice([3, 10, 50, 200, 499]))
    names = rng.sample(["training", "hypergradient", "evaluation"], rng.randint(1, 3))
    counts = {name: rng.randint(1, 10) for name in names}
    own = rng.sample(names, rng.randint(1, len(names)))
    purposes = dict.fromkeys(("training", "hypergradient", "evaluation"), budget)
    purposes |= {n: Budget(budget.epsilon * rng.uniform(0.3, 0.9), budget.delta) for n in own}
    shares = {name: rng.uniform(0.2, 1.0) for name in names} if rng.random() < 0.4 else None
    options = {"purposes": purposes, "relation": relation}
    asked = {"clip_norm": 1.0, "shares": shares, **options}
    found = calibrated(budget, sampling, counts, **asked)

    def spent(number, factor):
        queries = [query(one_round, quieter(found[n], factor), n) for n in names]
        schedule = [q.draws(sampling, counts[q.program.purpose], relation) for q in queries]
        accountant = filter_for(schedule, budget, **options)
        settings = {"population": POPULATION, "accountant": accountant, **options}
        with Ledger.create(folder / f"{number}.db", budget, **settings) as ledger:
            for one in queries:
                for draw in range(counts[one.program.purpose]):
                    spend(ledger, one, sampling, draw, relation)

    spent(0, 1.0)
    with pytest.raises(BudgetExceeded):
        spent(1, 1 - 1e-3)


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("seed", [1, 4, 5, 6])
def test_budgets_of_purposes_share_the_order_of_a_filter(seed, tmp_path):
    purposes_on_a_filter(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.sample(slow=12)
@pytest.mark.parametrize("seed", range(7, 60))
def test_many_budgets_of_purposes_share_the_order_of_a_filter(seed, tmp_path):
    purposes_on_a_filter(seed, tmp_path)


@pytest.mark.parametrize("grid", [1 << 8, 1 << 10, 1 << 16, 1 << 24])
@pytest.mark.parametrize("z", [0.05, 1.0, 30.0])
def test_a_slot_of_a_query_admits_that_query(grid, z, tmp_path):
    mechanism = Gaussian(noise_multiplier=z, clip_norm=1.0, grid=grid)
    one, sampling = query(one_round, mechanism, "training"), PoissonSampling(POPULATION, 0.1)
    slots = [one.slot(sampling, 1)]
    budget = Budget(1e6, 1e-5)
    with Ledger.create(tmp_path / "a.db", budget, population=POPULATION, slots=slots) as ledger:
        spend(ledger, one, sampling, 0, "ADD_OR_REMOVE_ONE")


def test_shares_divide_the_privacy_loss():
    budget, sampling = Budget(2.0, 1e-5), FullParticipation(POPULATION)
    found = calibrated(
        budget,
        sampling,
        {"training": 10, "evaluation": 10},
        clip_norm=1.0,
        shares={"training": 4, "evaluation": 1},
    )
    ratio = found["evaluation"].noise_multiplier / found["training"].noise_multiplier
    assert ratio == pytest.approx(2.0, rel=1e-6)


def test_what_makes_no_sense_is_refused():
    budget, sampling = Budget(2.0, 1e-5), FullParticipation(POPULATION)
    with pytest.raises(MechanismError, match="either clip_norm or like"):
        calibrated(budget, sampling, {"training": 1})
    with pytest.raises(MechanismError, match="at least one purpose"):
        calibrated(budget, sampling, {}, clip_norm=1.0)
    skellam = privacy.Skellam(noise_multiplier=1.0, clip_norm=1.0)
    with pytest.raises(MechanismError, match="noise_that_fits"):
        calibrated(budget, sampling, {"training": 1}, like=skellam)
    like = Gaussian(noise_multiplier={"a": 1.0, "*": 2.0}, clip_norm=1.0, joint=False)
    with pytest.raises(MechanismError, match=r"privatize\(\.\.\.\)"):
        calibrated(budget, sampling, {"training": 1}, like=like)
    with pytest.raises(MechanismError, match="shares for"):
        calibrated(budget, sampling, {"training": 1}, clip_norm=1.0, shares={})
