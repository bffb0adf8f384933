"""Every draw by chance is charged, also one whose size is refused."""

import contextlib
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import audits
import privacy
import secagg
import secfad as fad
from privacy.certificates.cohort_ranges import CohortRange
from privacy.errors import BudgetExceeded, CohortTooSmall, PrivacyError, RunRefused

POPULATION = 12
SPEC = jax.ShapeDtypeStruct((2,), jnp.float32)


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def step(model, x):
    return fad.mean(x - fad.broadcast(model, name="model"), name="delta")


@pytest.fixture(scope="module")
def query():
    mechanism = privacy.Gaussian(noise_multiplier=2.0, clip_norm=1.0)
    private = privacy.privatize(step, SPEC, SPEC, mechanism=mechanism)
    return privacy.Query(private, audits.certify(private))


class Scripted:
    """A Poisson sampling whose draws have given sizes, and which counts them."""

    population, rate, kind, expected_size = POPULATION, 0.25, "poisson", 3.0

    def __init__(self, *sizes):
        self.sizes, self.drawn = list(sizes), 0

    def draw(self, stream=None):
        self.drawn += 1
        size = self.sizes.pop(0)
        return privacy.Cohort(os.urandom(16).hex(), np.arange(size), self)


@contextlib.contextmanager
def a_ledger(tmp_path, query, count=20):
    sampling = privacy.PoissonSampling(POPULATION, 0.25)
    path, budget = tmp_path / "ledger.db", privacy.Budget(1e3, 1e-5)
    slots = [query.slot(sampling, count)]
    with privacy.Ledger.create(path, budget, population=POPULATION, slots=slots) as ledger:
        yield ledger
        ledger.verify()


def states(ledger, run_id):
    return [reservation.state for reservation in ledger.find(run_id)]


def run(query, ledger, cohort, round=0, **changes):
    data = np.zeros((len(cohort.members), 2), np.float32)
    return privacy.run(
        query.program, [jnp.zeros(2), jnp.asarray(data)], certificate=query.certificate,
        ledger=ledger, cohort=cohort, run_id="run", round=round, fidelity="ideal", **changes,
    )  # fmt: skip


def test_drawing_until_a_cohort_fits_pays_for_every_draw(tmp_path, query):
    sampling = privacy.PoissonSampling(POPULATION, 0.25)
    with a_ledger(tmp_path, query, 400) as ledger:
        draws = 0
        for number in range(20):
            while True:
                draws += 1
                try:
                    run(query, ledger, sampling.draw(), number)
                except CohortTooSmall:
                    continue
                break
        # A draw is too small with probability 0.39: without any, this test says nothing (6e-5).
        assert draws > 20
        assert states(ledger, "run").count("committed") == 20
        assert len(states(ledger, "run")) == draws
        (left,) = ledger.remaining("training").slots
        assert left.count == 400 - draws


@pytest.mark.parametrize("size", [0, 1, 2])
def test_training_pays_for_a_draw_that_it_refuses(tmp_path, query, size):
    asked = []

    def clients(members):
        asked.append(len(members))
        return {"x": np.zeros((len(members), 2), np.float32)}

    sampling = Scripted(5, size, size, 4)
    with a_ledger(tmp_path, query) as ledger:

        def train():
            return privacy.train(
                lambda state, ask: state + ask("delta", state), jnp.zeros(2),
                queries={"delta": query}, clients=clients, sampling=sampling, ledger=ledger,
                rounds=2, run_id="run", folder=tmp_path / "run", fidelity="ideal",
            )  # fmt: skip

        for _ in range(2):
            with pytest.raises(CohortTooSmall, match="is charged"):
                train()
        assert train().rounds == 2
        assert states(ledger, "run/delta") == ["committed", "reserved", "reserved", "committed"]
        assert sampling.drawn == 4
    assert size not in asked


def test_a_size_that_the_certificate_does_not_cover_is_charged(tmp_path, query):
    narrow = replace(query.certificate, cohort=CohortRange(4, None, "of the test"))
    narrow = replace(query, certificate=narrow)
    with a_ledger(tmp_path, query) as ledger:
        with pytest.raises(PrivacyError, match="FAD605"):
            run(narrow, ledger, Scripted(3).draw())
        assert states(ledger, "run") == ["reserved"]


@pytest.mark.parametrize("size", [0, 1, 2])
def test_one_evaluation_pays_for_a_draw_that_it_refuses(tmp_path, query, size):
    with a_ledger(tmp_path, query) as ledger:
        with pytest.raises(CohortTooSmall):
            run(query, ledger, Scripted(size).draw())
        assert states(ledger, "run") == ["reserved"]


class Larger(Scripted):
    """Draws of six in the mean, for which there is a ring that not every smaller draw has."""

    rate, expected_size = 0.5, 6.0


@pytest.mark.parametrize("size", [3, 4, 5])
def test_a_size_for_which_there_is_no_ring_is_charged(tmp_path, query, size):
    ring = {"graph": "ring", "corrupt": 0.3, "dropout": 0.3}
    sampling = privacy.PoissonSampling(POPULATION, 0.5)
    budget, slots = privacy.Budget(1e3, 1e-5), [query.slot(sampling, 3)]
    settings = {"population": POPULATION, "slots": slots}
    with privacy.Ledger.create(tmp_path / "ledger.db", budget, **settings) as ledger:
        with pytest.raises(RunRefused, match="secure sums"):
            run(query, ledger, Larger(size).draw(), **ring)
        assert states(ledger, "run") == ["reserved"]
        run(query, ledger, Larger(6).draw(), 1, **ring)
        assert states(ledger, "run") == ["reserved", "committed"]


@pytest.mark.parametrize("size", [0, 2, 3, 8])
def test_assumptions_that_no_draw_meets_cost_nothing(tmp_path, query, size):
    with a_ledger(tmp_path, query) as ledger:
        with pytest.raises(RunRefused, match="secure sums"):
            run(query, ledger, Scripted(size).draw(), graph="ring", corrupt=0.6, dropout=0.4)
        assert states(ledger, "run") == []


FILTER = {"accountant": "rdp@8", "relation": "REPLACE_ONE"}


@pytest.mark.parametrize(
    ("sampling", "terms", "state"),
    [
        (privacy.PoissonSampling(POPULATION, 0.99), {"accountant": "rdp@8"}, "reserved"),
        (privacy.FixedSampling(POPULATION, 8), FILTER, "reserved"),
        (privacy.FixedSampling(POPULATION, POPULATION), FILTER, "void"),
        (privacy.FullParticipation(POPULATION), FILTER, "void"),
    ],
    ids=["poisson", "fixed", "fixed, everyone", "everyone"],
)
def test_a_draw_by_chance_of_which_too_few_answer_stays_paid(
    tmp_path, query, sampling, terms, state
):
    # Who answers depends on who was drawn: with free repetitions the sums would be of cohorts in which
    # few enough drop out, and whoever never does would be in more of them than is charged.
    budget, lost = privacy.Budget(1e3, 1e-5), lambda _: [secagg.Drop(i, "mask") for i in range(6)]
    settings = {"population": POPULATION, **terms}
    with privacy.Ledger.create(tmp_path / "ledger.db", budget, **settings) as ledger:
        with pytest.raises(secagg.Aborted):
            run(query, ledger, sampling.draw(), faults=lost)
        assert states(ledger, "run") == [state]
        ledger.verify()


def test_a_draw_without_room_for_it_is_refused_by_the_ledger(tmp_path, query):
    with a_ledger(tmp_path, query, 1) as ledger:
        with pytest.raises(CohortTooSmall):
            run(query, ledger, Scripted(2).draw())
        with pytest.raises(BudgetExceeded):
            run(query, ledger, Scripted(2).draw())
        assert len(states(ledger, "run")) == 1


def test_a_repetition_of_what_was_released_pays_nothing(tmp_path, query):
    journal = privacy.ReleaseJournal(tmp_path / "journal")
    with a_ledger(tmp_path, query) as ledger:
        first = run(query, ledger, Scripted(5).draw(), journal=journal)
        with pytest.raises(CohortTooSmall):
            run(query, ledger, Scripted(2).draw(), journal=journal)
        again = run(query, ledger, Scripted(4).draw(), journal=journal)
        assert again.replayed
        np.testing.assert_array_equal(first.value, again.value)
        assert states(ledger, "run") == ["committed"]


@pytest.mark.parametrize(
    "sampling",
    [privacy.FixedSampling(POPULATION, 2), privacy.PoissonSampling(2, 1.0)],
    ids=["fixed", "everyone"],
)
def test_a_size_that_chance_does_not_decide_is_not_charged(tmp_path, query, sampling):
    path = tmp_path / "ledger.db"
    accountant = {"accountant": "rdp@8", "relation": "REPLACE_ONE"}
    budget = privacy.Budget(1e3, 1e-5)
    population = sampling.population
    with privacy.Ledger.create(path, budget, population=population, **accountant) as ledger:
        with pytest.raises(CohortTooSmall):
            run(query, ledger, sampling.draw())
        assert states(ledger, "run") == []
