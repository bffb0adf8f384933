"""Noise by clients needs cohorts of a public size: refused where it is not, and priced right where it is.

The true epsilons are those of explicit neighbouring populations, computed without the accountant.
"""

import dataclasses
import functools
import json

import explicit_pairs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import audits
import privacy
import secfad as fad
from privacy.accounting.filters import Filter
from privacy.accounting.pricing import price
from privacy.accounting.sizes import STATEMENT
from privacy.accounting.terms import FixedSizeGaussian, FixedSizeSkellam, GaussianTerm
from privacy.errors import InvalidEvent, MechanismError, RunRefused, SizeNotPublic, UnsupportedEvent
from privacy.execution.execution import run
from privacy.ledger.planning import Draws, filter_for, louder, noise_that_fits, quote, quote_on
from privacy.relations import Relation

POPULATION, SIZE, DELTA = 40, 10, 1e-5
POISSON = privacy.PoissonSampling(population=POPULATION, rate=0.25)
FIXED = privacy.FixedSampling(population=POPULATION, size=SIZE)
EVERYONE = privacy.FullParticipation(population=POPULATION)
COMMON = {"noise_multiplier": 2.0, "clip_norm": 1.0}
BY_CLIENTS = {
    "Gaussian": privacy.Gaussian(**COMMON, noise="distributed"),
    "Gaussian, rotated": privacy.Gaussian(**COMMON, noise="distributed", rotation=True),
    "Skellam": privacy.Skellam(**COMMON, grid=1 << 10),
}
by_clients = pytest.mark.parametrize("mechanism", BY_CLIENTS.values(), ids=BY_CLIENTS)


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def release(model, x):
    return fad.mean(x - 0 * fad.broadcast(model, name="model"), name="delta")


@functools.cache
def query(mechanism):
    spec = jax.ShapeDtypeStruct((3,), jnp.float32)
    private = privacy.privatize(release, spec, spec, mechanism=mechanism)
    return privacy.Query(private, audits.certify(private))


@pytest.fixture
def ledger_of(tmp_path):
    def make(relation, accountant="rdp@4", slots=()):
        path = tmp_path / f"{relation}-{accountant}.db"
        budget = privacy.Budget(1e4, DELTA)
        terms = {"relation": relation, "accountant": accountant, "slots": slots}
        return privacy.Ledger.create(path, budget, population=POPULATION, **terms)

    return make


def ask(mechanism, ledger, cohort, **changes):
    asked = query(mechanism)
    arguments = [jnp.zeros(3), jnp.zeros((len(cohort.members), 3))]
    settings = {"run_id": "r", "round": 0, "fidelity": "ideal", "ledger": ledger, "cohort": cohort}
    return run(asked.program, arguments, certificate=asked.certificate, **(settings | changes))


# Refused, at every layer, before anything is charged.


@by_clients
@pytest.mark.parametrize("relation", Relation)
def test_a_poisson_draw_with_noise_by_clients_is_refused_by_the_run(mechanism, relation, ledger_of):
    with ledger_of(relation) as ledger:
        head = ledger.head
        with pytest.raises(SizeNotPublic, match=r"FixedSampling.*REPLACE_ONE.*FullParticipation"):
            ask(mechanism, ledger, POISSON.draw())
        assert ledger.head == head


@pytest.mark.parametrize("relation", Relation)
def test_a_reservation_by_hand_is_refused_by_the_ledger(relation, ledger_of):
    noisy = [privacy.Release("delta", 1.0, 2.0, noise_std=9.0, noise_party="clients")]
    silent = [privacy.Release("loss", 1.0, 2.0, noise_std=9.0)]
    with ledger_of(relation) as ledger:
        for releases in (noisy, silent + noisy):
            with pytest.raises(SizeNotPublic):
                ledger.reserve(
                    purpose="training", sampling_rate=0.25, releases=releases, run_id="r", round=0,
                    cohort_id="c",
                )  # fmt: skip
        assert ledger.head == next(ledger.entries()).hash


def test_a_ready_slot_does_not_help(ledger_of):
    slot = privacy.Slot("training", 0.25, 1.0, 1)
    with ledger_of("ADD_OR_REMOVE_ONE", "pld", [slot]) as ledger:
        with pytest.raises(SizeNotPublic, match="size is secret"):
            ask(BY_CLIENTS["Gaussian"], ledger, POISSON.draw())
        assert ledger.remaining("training").slots == (slot,)


@by_clients
@pytest.mark.parametrize("relation", ["ADD_OR_REMOVE_ONE", "REPLACE_SPECIAL"])
def test_a_sample_of_fixed_size_needs_a_replaced_client(mechanism, relation, ledger_of):
    with ledger_of(relation) as ledger:
        with pytest.raises(SizeNotPublic, match="replaces another one"):
            ask(mechanism, ledger, FIXED.draw())
        assert ledger.head == next(ledger.entries()).hash
    with pytest.raises(SizeNotPublic):
        query(mechanism).draws(FIXED, 1, relation)


def test_noise_by_the_server_has_no_bound_there_either():
    terms = ((FixedSizeGaussian(40, 10, 2.0), 1),)
    for relation in ("ADD_OR_REMOVE_ONE", "REPLACE_SPECIAL"):
        with pytest.raises(UnsupportedEvent):
            price(terms, DELTA, accountant="rdp", relation=relation)


@by_clients
def test_a_plan_is_refused_as_the_draw_is(mechanism):
    asked = query(mechanism)
    for relation in Relation:
        with pytest.raises(SizeNotPublic):
            asked.draws(POISSON, 5, relation)
    with pytest.raises(SizeNotPublic):
        asked.slot(POISSON, 5)
    with pytest.raises(MechanismError, match=r"Query\.draws"):
        asked.slot(FIXED, 5)


@by_clients
@pytest.mark.parametrize(
    ("sampling", "relation"), [(POISSON, "REPLACE_ONE"), (FIXED, "ADD_OR_REMOVE_ONE")]
)
def test_training_is_refused_before_its_first_round(
    mechanism, sampling, relation, ledger_of, tmp_path
):
    with ledger_of(relation) as ledger:
        head = ledger.head
        with pytest.raises(SizeNotPublic):
            privacy.train(
                lambda state, ask: state, np.zeros(3), queries={"q": query(mechanism)},
                clients=lambda members: {}, sampling=sampling, ledger=ledger, rounds=1, run_id="r",
                folder=tmp_path / "run",
            )  # fmt: skip
        assert ledger.head == head
    assert not (tmp_path / "run").exists()


@by_clients
def test_a_cohort_of_another_size_than_the_stated_one_is_refused(mechanism, ledger_of):
    with ledger_of("REPLACE_ONE") as ledger:
        for sampling in (FIXED, EVERYONE):
            short = dataclasses.replace(sampling.draw(), members=np.arange(SIZE - 1))
            with pytest.raises(RunRefused, match=r"public size"):
                ask(mechanism, ledger, short)
        assert ledger.head == next(ledger.entries()).hash


# Priced right where the size is public.


@by_clients
def test_a_sample_of_fixed_size_is_charged_two_clip_norms(mechanism, ledger_of):
    with ledger_of("REPLACE_ONE") as ledger:
        ask(mechanism, ledger, FIXED.draw())
        body = next(r.body for r in ledger.entries() if r.kind == "reserve")
        (noisy,) = body["releases"]
        assert noisy["sensitivity"] / noisy["noise_std"] == pytest.approx(2 / 2.0, rel=1e-12)
        ((leaf, count),) = query(mechanism).draws(FIXED, 1, "REPLACE_ONE").terms
        assert count == 1
        assert body["costs"]["total"] == Filter.parse("rdp@4").cost(
            ((leaf, 1),), Relation.REPLACE_ONE
        )
        assert (leaf.dataset_size, leaf.sample_size) == (POPULATION, SIZE)
        assert isinstance(leaf, FixedSizeSkellam | FixedSizeGaussian)
        spent = {view: ledger.spent(view)["training"] for view in ("released", "server")}
        assert 0 < spent["released"] < spent["server"]
        assert ledger.bounds.remarks == (STATEMENT,)
        ledger.verify()


def test_everyone_is_charged_as_before_under_every_relation(ledger_of):
    for relation in Relation:
        with ledger_of(relation) as ledger:
            ask(BY_CLIENTS["Gaussian"], ledger, EVERYONE.draw())
            z = 2.0 if relation is not Relation.REPLACE_ONE else 1.0
            expected = explicit_pairs.gaussian(1 / z, DELTA)
            assert ledger.spent()["training"] == pytest.approx(expected, rel=1e-2)


def test_a_cohort_larger_than_its_sampling_draws_is_refused_whoever_adds_noise(ledger_of):
    central = privacy.Gaussian(**COMMON)
    with ledger_of("REPLACE_ONE") as ledger:
        drawn = FIXED.draw()
        for size in (SIZE + 1, POPULATION):
            large = dataclasses.replace(drawn, members=np.arange(size))
            with pytest.raises(RunRefused, match=r"public size 10"):
                ask(central, ledger, large)
        assert ledger.head == next(ledger.entries()).hash
        ask(central, ledger, dataclasses.replace(drawn, members=drawn.members[1:]))  # hides more


def test_noise_by_the_server_says_nothing_of_sizes(ledger_of):
    with ledger_of("ADD_OR_REMOVE_ONE") as ledger:
        ask(privacy.Gaussian(**COMMON), ledger, POISSON.draw())
        assert ledger.bounds.remarks == ()


def test_a_certificate_says_that_sizes_are_public_where_clients_add_the_noise():
    for mechanism in BY_CLIENTS.values():
        assert STATEMENT in query(mechanism).certificate.assumptions
    assert STATEMENT not in query(privacy.Gaussian(**COMMON)).certificate.assumptions


# Against explicit populations.


def test_the_reference_composes_gaussians_to_their_closed_form_from_below():
    for rounds, std in ((1, 1.0), (16, 2.0), (100, 5.0)):
        pair = explicit_pairs.mixture(1.0, 1.0, std), explicit_pairs.mixture(0.0, 0.0, std)
        found = explicit_pairs.epsilon([(1.0, pair[0], 1.0, pair[1])], rounds, DELTA)
        exact = explicit_pairs.gaussian(rounds**0.5 / std, DELTA)
        assert 0.99 * exact < found <= exact


@pytest.mark.parametrize(
    ("others", "q", "z", "rounds", "honest"),
    [(39, 0.25, 2.0, 1, 0.75), (59, 0.3, 2.0, 40, 1.0)],
)
def test_what_is_refused_has_no_bound_by_amplification(others, q, z, rounds, honest):
    true = explicit_pairs.poisson_known_size(others, q, z, rounds, honest, DELTA)
    assert true > 1.5 * price(((GaussianTerm(z, q), rounds),), DELTA)


def test_charging_everyone_would_not_have_been_a_bound():
    true = explicit_pairs.poisson_known_size(39, 0.25, 2.0, 1, 0.75, DELTA)
    assert true > 1.1 * price(((GaussianTerm(2.0), 1),), DELTA)


@pytest.mark.parametrize(
    ("population", "size", "z", "rounds", "honest"),
    [
        (20, 5, 2.0, 80, 0.75),
        (1000, 10, 0.7, 1, 0.75),
        (40, 39, 3.0, 4, 1.0),
        *(
            pytest.param(population, size, z, rounds, honest, marks=pytest.mark.slow)
            for population, size in ((3, 3), (20, 5), (200, 60), (1000, 10))
            for z, rounds in ((0.7, 1), (2.0, 1), (2.0, 80), (8.0, 500))
            for honest in (0.5, 0.75, 1.0)
        ),
    ],
)
def test_no_quoted_epsilon_is_below_that_of_explicit_populations(
    population, size, z, rounds, honest
):
    mechanism = privacy.Gaussian(
        noise_multiplier=z, clip_norm=1.0, noise="distributed", honest_survivors=honest
    )
    sampling = privacy.FixedSampling(population=population, size=size)
    schedule = [query(mechanism).draws(sampling, rounds, "REPLACE_ONE")]
    plan = quote(schedule, privacy.Budget(100.0, DELTA), relation="REPLACE_ONE")
    true = explicit_pairs.fixed_size(population, size, z, rounds, DELTA)
    assert 0 < true <= plan.released["total"]
    server = explicit_pairs.gaussian(2 * rounds**0.5 / z, DELTA)
    assert server <= plan.server["total"] * (1 + 1e-6)


# Plans on filters.

BUDGET = privacy.Budget(8.0, DELTA)
PURPOSES = {"training": privacy.Budget(7.0, DELTA), "hypergradient": privacy.Budget(3.0, DELTA)}


def schedule(z=12.0, other=40.0, rounds=20):
    return [
        Draws("training", ((FixedSizeGaussian(40, 10, z), 1),), rounds),
        Draws("hypergradient", ((FixedSizeGaussian(40, 10, other), 1),), rounds),
    ]


def test_a_plan_fits_exactly_if_a_ledger_admits_all_of_it(tmp_path):
    planned = schedule(rounds=1)
    terms = {"purposes": {"training": privacy.Budget(1.2, DELTA)}, "relation": "REPLACE_ONE"}
    rounds, fits = 1, True
    while fits:
        rounds += 1
        some = [dataclasses.replace(planned[0], count=rounds)]
        fits = quote(some, BUDGET, accountant="rdp@20", **terms).fits
    with privacy.Ledger.create(
        tmp_path / "l.db", BUDGET, population=40, accountant="rdp@20", **terms
    ) as ledger:
        noisy = privacy.Release("delta", 1.0, 2.0, noise_std=12.0)
        for number in range(rounds):
            draw = {
                "purpose": "training", "sampling_rate": 0.25, "sampling": "fixed", "run_id": "r",
                "round": number, "cohort_id": f"c{number}", "releases": [noisy],
            }  # fmt: skip
            if number < rounds - 1:
                ledger.reserve(**draw)
                continue
            with pytest.raises(privacy.BudgetExceeded):
                ledger.reserve(**draw)


def test_the_order_is_the_one_that_the_plan_uses_least_of():
    one = schedule()[:1]
    chosen = int(filter_for(one, BUDGET, relation="REPLACE_ONE").removeprefix("rdp@"))
    rules = {order: Filter.parse(f"rdp@{order}") for order in range(2, 60)}

    def load(order):
        cost = rules[order].cost(one[0].terms, Relation.REPLACE_ONE)
        return cost / rules[order].capacity(BUDGET)

    orders = [order for order in rules if order > 2]
    assert min(orders, key=load) == chosen


def test_noise_that_fits_makes_a_plan_fit_and_little_less_does_not():
    quiet = schedule(z=2.0, other=200.0)
    terms = {"purposes": PURPOSES, "relation": "REPLACE_ONE"}
    assert not quote(quiet, BUDGET, **terms).fits
    factors = noise_that_fits(quiet, BUDGET, **terms)
    assert factors["training"] > 1.5 > 1.1 > factors["hypergradient"] >= 1.0
    assert quote([louder(d, factors[d.purpose]) for d in quiet], BUDGET, **terms).fits
    less = [louder(d, factors[d.purpose] * 0.98) for d in quiet]
    assert not quote(less, BUDGET, **terms).fits
    assert noise_that_fits(schedule(), BUDGET, **terms) == {"training": 1.0, "hypergradient": 1.0}


def test_budgets_that_hold_nothing_are_refused():
    with pytest.raises((privacy.BudgetExceeded, InvalidEvent)):
        noise_that_fits(schedule(), privacy.Budget(1e-9, 1e-9), relation="REPLACE_ONE")


def test_records_name_who_adds_noise_as_the_reader_looks_for_it(ledger_of):
    # `privacy.ledger.bounds` looks for this text in a record.
    with ledger_of("REPLACE_ONE") as ledger:
        ask(BY_CLIENTS["Skellam"], ledger, FIXED.draw())
        text = next(r.text for r in ledger.entries() if r.kind == "reserve")
        assert '"noise_party":"clients"' in text
        assert json.loads(text)["sampling"] == {"kind": "fixed", "q": 0.25}


def test_a_quote_on_a_ledger_counts_what_was_charged(ledger_of):
    further = [query(BY_CLIENTS["Gaussian"]).draws(FIXED, 3, "REPLACE_ONE")]
    with ledger_of("REPLACE_ONE") as ledger:
        before = quote_on(ledger, further)
        ask(BY_CLIENTS["Gaussian"], ledger, FIXED.draw())
        head, after = ledger.head, quote_on(ledger, further)
        assert before.fits
        assert after.fits
        assert before.released["training"] < after.released["training"] < after.server["total"]
        for number in range(3):
            ask(BY_CLIENTS["Gaussian"], ledger, FIXED.draw(), round=number + 1)
        assert ledger.head != head
        assert ledger.spent()["training"] == pytest.approx(after.released["training"], rel=1e-9)
        many = [dataclasses.replace(further[0], count=10**6)]
        assert not quote_on(ledger, many).fits
    with ledger_of("ADD_OR_REMOVE_ONE", "pld") as planned:
        unpaid = Draws("training", ((GaussianTerm(9.0), 1),), 1)
        assert not quote_on(planned, [unpaid]).fits
