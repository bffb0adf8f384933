"""A private run releases noisy sums, once, after they were paid for; everything else is refused.

Statistical tests state their false-alarm rate; noise comes from the operating system.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import privacy
import secagg
import secfad as fad
from privacy.certificates.certificates import Certificate, CertificateMismatch, current_environment
from privacy.certificates.cohort_ranges import CohortRange
from privacy.errors import BudgetExceeded, CohortTooSmall, NonFiniteData, RunRefused
from privacy.execution.execution import run

POPULATION = 40
SPEC = jax.ShapeDtypeStruct((4,), jnp.float32)
MECHANISM = privacy.Gaussian(noise_multiplier=2.0, clip_norm=1.5)
EVERYONE = privacy.FullParticipation(population=POPULATION)


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def mean_step(model, x):
    return model + fad.mean(x - fad.broadcast(model, name="model"), name="delta")


@pytest.fixture(scope="module")
def private():
    return privacy.privatize(mean_step, SPEC, SPEC, mechanism=MECHANISM)


def certificate_of(private, **changes):
    issued = Certificate(
        subject=private.name,
        digests={"primal": private.program.digest},
        profile="secagg+dp",
        environment=current_environment(),
        mechanism=private.mechanism.record(),
        purpose=private.purpose,
        cohort=CohortRange(2, None, "no axis of clients"),
    )
    return dataclasses.replace(issued, **changes)


@pytest.fixture
def ledger(tmp_path):
    slots = [privacy.Slot("training", 1.0, 1.99, 5)]
    with privacy.Ledger.create(
        tmp_path / "ledger.db", privacy.Budget(50.0, 1e-5), population=POPULATION, slots=slots
    ) as made:
        yield made


@pytest.fixture
def data():
    return np.random.default_rng(0).normal(size=(POPULATION, 4)).astype(np.float32) / 8


def start(private, data, ledger, **changes):
    settings = {
        "certificate": certificate_of(private),
        "ledger": ledger,
        "cohort": EVERYONE.draw(),
        "run_id": "test",
        "round": 0,
        "fidelity": "ideal",
    }
    return run(private, [jnp.zeros(4), jnp.asarray(data)], **(settings | changes))


def states(ledger):
    return [reservation.state for reservation in ledger.find("test")]


@pytest.mark.parametrize("fidelity", ["protocol", "ideal"])
def test_release_is_the_mean_of_clipped_values_plus_noise(private, data, ledger, fidelity):
    result = start(private, data, ledger, fidelity=fidelity)
    # Noise on the mean has deviation 2 * 1.5 / 40 = 0.075; seven deviations in 4 coordinates: 1e-11.
    np.testing.assert_allclose(result.value, data.mean(0), atol=7 * 0.076)
    assert np.abs(np.asarray(result.value) - data.mean(0)).max() > 1e-6
    assert states(ledger) == ["committed"]
    assert result.noise_multiplier == pytest.approx(2.0, rel=1e-12)


def test_charged_multiplier_is_noise_over_certified_sensitivity(private, data, ledger):
    result = start(private, data, ledger)
    (reserve,) = (r.body for r in ledger.entries() if r.kind == "reserve")
    (release,) = reserve["releases"]
    assert release["noise_std"] / release["sensitivity"] == pytest.approx(2.0, rel=1e-12)
    assert result.noise_multiplier == pytest.approx(MECHANISM.noise_multiplier, rel=1e-12)
    # The integer sensitivity covers the clip norm in grid steps.
    assert release["sensitivity"] >= MECHANISM.grid


WIDE = jax.ShapeDtypeStruct((20_000,), jnp.float32)
DISTRIBUTED = privacy.Gaussian(
    noise_multiplier=2.0, clip_norm=1.5, noise="distributed", honest_survivors=0.75
)


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize(
    ("mechanism", "dropped", "expected"),
    [
        (MECHANISM, 0, 1.0),
        (MECHANISM, 10, 1.0),
        # 30 of 40 shares make up the charged noise; all 40 make up sqrt(40 / 30) of it.
        (DISTRIBUTED, 0, (40 / 30) ** 0.5),
        (DISTRIBUTED, 10, 1.0),
    ],
)
def test_noise_has_the_charged_deviation(tmp_path, mechanism, dropped, expected):
    wide = privacy.privatize(mean_step, WIDE, WIDE, mechanism=mechanism)
    with wide_ledger(tmp_path) as ledger:
        result = start_wide(wide, ledger, dropped)
        (reserve,) = (r.body for r in ledger.entries() if r.kind == "reserve")
    charged = reserve["releases"][0]["noise_std"] / mechanism.grid * 1.5 / POPULATION
    ratio = np.asarray(result.value, np.float64).std() / charged / expected
    # Chi-square with 20,000 degrees of freedom: two-sided 1e-9 is within 3.1 % of 1.
    assert abs(ratio - 1) < 0.031


def test_distributed_noise_is_withheld_below_the_guaranteed_survivors(tmp_path):
    wide = privacy.privatize(mean_step, WIDE, WIDE, mechanism=DISTRIBUTED)
    with wide_ledger(tmp_path) as ledger:
        with pytest.raises(secagg.Aborted):
            start_wide(wide, ledger, dropped=11)
        # Clients had drawn their shares: the charge stays.
        assert states(ledger) == ["open"]


def wide_ledger(tmp_path):
    slots = [privacy.Slot("training", 1.0, 1.99, 1)]
    budget = privacy.Budget(50.0, 1e-5)
    return privacy.Ledger.create(tmp_path / "w.db", budget, population=POPULATION, slots=slots)


def start_wide(private, ledger, dropped):
    faults = [secagg.Drop(i, "mask") for i in range(dropped)]
    return run(
        private,
        [jnp.zeros(20_000), jnp.zeros((POPULATION, 20_000))],
        certificate=certificate_of(private),
        ledger=ledger,
        cohort=EVERYONE.draw(),
        run_id="test",
        round=0,
        fidelity="ideal",
        faults=lambda _: faults,
    )


def test_huge_client_moves_the_sum_by_at_most_its_clip_norm(private, data, ledger):
    data = np.zeros_like(data)
    data[3] = 1e30
    value = np.asarray(start(private, data, ledger).value)
    # The direction is (1, 1, 1, 1) / 2, the norm 1.5, over 40 clients; noise as above.
    assert np.all(np.abs(value - 0.75 / 40) < 7 * 0.076)


def test_denominator_is_public_and_not_the_number_of_members(private, tmp_path):
    sampling = privacy.PoissonSampling(population=POPULATION, rate=0.5)
    cohort = dataclasses.replace(sampling.draw(), members=np.arange(10))
    with privacy.Ledger.create(
        tmp_path / "half.db",
        privacy.Budget(80.0, 1e-5),
        population=POPULATION,
        slots=[privacy.Slot("training", 0.5, 1.99, 1)],
    ) as ledger:
        data = np.full((10, 4), 0.7)
        value = start(private, data.astype(np.float32), ledger, cohort=cohort).value
    # Ten of 0.7 over the public 20 is 0.35; over the actual 10 it would be 0.7.
    np.testing.assert_allclose(value, 0.35, atol=7 * 2 * 1.5 / 20 / 1)
    assert abs(float(np.mean(value)) - 0.35) < 0.5


def test_repeated_run_replays_the_release_without_a_charge(private, data, ledger, tmp_path):
    journal = privacy.ReleaseJournal(tmp_path / "journal")
    first = start(private, data, ledger, journal=journal)
    again = start(private, data, ledger, journal=journal)
    assert again.replayed
    np.testing.assert_array_equal(first.value, again.value)
    assert states(ledger) == ["committed"]


def test_release_that_was_durable_but_not_committed_is_committed(private, data, ledger, tmp_path):
    journal = privacy.ReleaseJournal(tmp_path / "journal")
    journal.write = lambda *release: _write_then_die(journal, *release)
    with pytest.raises(KeyboardInterrupt):
        start(private, data, ledger, journal=journal)
    assert states(ledger) == ["open"]
    again = start(private, data, ledger, journal=privacy.ReleaseJournal(tmp_path / "journal"))
    assert again.replayed
    assert states(ledger) == ["committed"]


def _write_then_die(journal, *release):
    privacy.ReleaseJournal.write(journal, *release)
    raise KeyboardInterrupt


def test_noise_that_was_drawn_stays_paid(private, data, ledger, tmp_path):
    journal = privacy.ReleaseJournal(tmp_path / "journal")
    journal.write = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        start(private, data, ledger, journal=journal)
    again = start(private, data, ledger, journal=privacy.ReleaseJournal(tmp_path / "journal"))
    assert not again.replayed
    assert states(ledger) == ["open", "committed"]


def test_failed_aggregation_releases_nothing_and_costs_nothing(private, data, ledger):
    faults = [secagg.Drop(i, "advertise") for i in range(POPULATION - 2)]
    with pytest.raises(secagg.Aborted):
        start(private, data, ledger, faults=lambda _: faults)
    assert states(ledger) == ["void"]


def test_dropped_clients_are_not_in_the_sum(private, data, ledger):
    data = np.zeros_like(data)
    data[0] = 0.7
    faults = [secagg.Drop(0, "mask")]
    result = start(private, data, ledger, faults=lambda _: faults)
    assert np.all(np.abs(result.value) < 7 * 0.076)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_model_is_refused_before_anything(private, data, ledger, bad):
    with pytest.raises(NonFiniteData, match=r"`model`.*Nothing was sent or charged"):
        run(
            private,
            [jnp.full(4, bad), jnp.asarray(data)],
            certificate=certificate_of(private),
            ledger=ledger,
            cohort=EVERYONE.draw(),
            run_id="test",
            round=0,
        )
    assert states(ledger) == []


def test_wrong_shape_is_refused_before_anything(private, data, ledger):
    with pytest.raises(RunRefused, match=r"shape \(4,\) at each client in `x`, got \(3,\)"):
        start(private, data[:, :3], ledger)
    assert states(ledger) == []


def test_data_of_other_clients_than_the_cohort_are_refused(private, data, ledger):
    with pytest.raises(RunRefused, match="40 members of the cohort, got 39"):
        start(private, data[:39], ledger)


def test_tiny_cohort_is_refused(private, data, ledger):
    cohort = dataclasses.replace(EVERYONE.draw(), members=np.arange(2))
    with pytest.raises(CohortTooSmall, match="at least 3 clients"):
        start(private, data[:2], ledger, cohort=cohort)
    assert states(ledger) == []


def test_cohort_of_another_population_is_refused(private, data, ledger):
    other = privacy.FullParticipation(population=41)
    cohort = dataclasses.replace(other.draw(), members=np.arange(40))
    with pytest.raises(RunRefused, match="population of 40"):
        start(private, data, ledger, cohort=cohort)


def test_uncertified_program_is_refused(private, data, ledger):
    with pytest.raises(RunRefused, match=r"audits\.certify"):
        start(private, data, ledger, certificate=None)


def test_certificate_of_another_program_is_refused(private, data, ledger):
    @fad.computation(model=fad.SERVER, x=fad.CLIENTS)
    def altered(model, x):
        return model + 2.0 * fad.mean(x - fad.broadcast(model, name="model"), name="delta")

    other = privacy.privatize(altered, SPEC, SPEC, mechanism=MECHANISM)
    with pytest.raises(CertificateMismatch, match="FAD006"):
        start(private, data, ledger, certificate=certificate_of(other))
    assert states(ledger) == []


def test_certificate_of_another_noise_is_refused(private, data, ledger):
    weaker = dataclasses.replace(
        private, mechanism=privacy.Gaussian(noise_multiplier=0.1, clip_norm=1.5)
    )
    with pytest.raises(CertificateMismatch, match="certified mechanism"):
        start(weaker, data, ledger, certificate=certificate_of(private))
    assert states(ledger) == []


def test_exhausted_budget_is_refused_before_anything(private, data, ledger):
    for round in range(5):
        start(private, data, ledger, round=round)
    with pytest.raises(BudgetExceeded):
        start(private, data, ledger, round=5)
    assert states(ledger) == ["committed"] * 5


def test_reverse_mode_pays_for_all_rounds_of_its_cohort(tmp_path):
    @fad.computation(model=fad.SERVER, x=fad.CLIENTS)
    def objective(model, x):
        first = fad.mean(jnp.tanh(fad.broadcast(model, name="model") * x), name="first")
        return jnp.sum(first**2)

    gradient = fad.value_and_grad(objective, mode="reverse")
    private = privacy.privatize(gradient, SPEC, SPEC, mechanism=MECHANISM, purpose="hypergradient")
    assert [r.name for r in private.releases] == ["first", "model.cotangent"]
    with privacy.Ledger.create(
        tmp_path / "two.db",
        privacy.Budget(80.0, 1e-5),
        population=POPULATION,
        slots=[privacy.Slot("hypergradient", 1.0, 1.41, 1)],
    ) as ledger:
        result = start(private, np.ones((POPULATION, 4), np.float32), ledger)
    # Two releases of multiplier 2 by one cohort are one of 2 / sqrt(2).
    assert result.noise_multiplier == pytest.approx(2**0.5, rel=1e-12)


def test_client_results_are_not_part_of_the_released_value(data, ledger):
    @fad.computation(model=fad.SERVER, x=fad.CLIENTS)
    def personal(model, x):
        return {"mean": fad.mean(x, name="delta"), "own": x * fad.broadcast(model)}

    private = privacy.privatize(personal, SPEC, SPEC, mechanism=MECHANISM)
    result = start(private, data, ledger)
    assert result.value["own"] is None
    assert result.at_clients["mean"] is None
    assert result.at_clients["own"].shape == data.shape
    assert result.value["mean"].shape == (4,)
