"""Skellam noise and rotation through whole private runs: what is released is what was charged.

Statistical tests state their false-alarm rate; noise comes from the operating system.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import audits
import privacy
import secagg
import secfad as fad
from privacy.accounting.events import parse_event
from privacy.accounting.renyi_pricing import renyi_divergence
from privacy.accounting.terms import SkellamTerm
from privacy.certificates.certificates import CertificateMismatch
from privacy.errors import MechanismError
from privacy.execution.aggregation import SecureAggregator, groups, modulus_bits
from privacy.execution.execution import run
from secfad.engines.local import Upload

POPULATION = 40
SIZE = 8_000
ALARM = 1e-6
CLIP = 1.5
COMMON = {"noise_multiplier": 2.0, "clip_norm": CLIP, "grid": 1 << 10}
MECHANISMS = {
    "Skellam": privacy.Skellam(**COMMON),
    "Skellam, rotated": privacy.Skellam(**COMMON, rotation=True),
    "Gaussian by clients, rotated": privacy.Gaussian(**COMMON, noise="distributed", rotation=True),
    "Gaussian by the server, rotated": privacy.Gaussian(**COMMON, rotation=True),
}


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def mean_step(model, x):
    return model + fad.mean(x - fad.broadcast(model, name="model"), name="delta")


@functools.cache
def private_program(mechanism, size=SIZE):
    spec = jax.ShapeDtypeStruct((size,), jnp.float32)
    return privacy.privatize(mean_step, spec, spec, mechanism=mechanism)


certify = functools.cache(audits.certify)


@pytest.fixture
def ledger(tmp_path):
    budget = privacy.Budget(200.0, 1e-5)
    with privacy.Ledger.create(
        tmp_path / "ledger.db", budget, population=POPULATION, accountant="rdp@4"
    ) as made:
        yield made


def start(private, ledger, data=None, *, dropped=0, **changes):
    size = private.releases[0].sums[0].size
    faults = [secagg.Drop(i, "mask") for i in range(dropped)]
    settings = {
        "certificate": certify(private),
        "ledger": ledger,
        "cohort": privacy.FullParticipation(population=POPULATION).draw(),
        "run_id": "test",
        "round": 0,
        "fidelity": "ideal",
        "faults": lambda _: faults,
    }
    data = jnp.zeros((POPULATION, size)) if data is None else jnp.asarray(data)
    return run(private, [jnp.zeros(size), data], **(settings | changes))


def reserved(ledger):
    return next(r.body for r in ledger.entries() if r.kind == "reserve")


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("dropped", [0, 10])
@pytest.mark.parametrize("name", MECHANISMS)
def test_noise_has_the_charged_deviation(name, dropped, ledger):
    mechanism = MECHANISMS[name]
    result = start(private_program(mechanism), ledger, dropped=dropped)
    release = reserved(ledger)["releases"][0]
    assert release["noise_std"] / release["sensitivity"] == pytest.approx(2.0, rel=1e-12)
    charged = release["noise_std"] / mechanism.grid * CLIP / POPULATION
    # 30 of 40 shares make up the charged noise; what more survivors add is not needed.
    more = (POPULATION - dropped) / 30 if mechanism.by_clients else 1.0
    noise = np.asarray(result.value, np.float64)
    statistic = float(np.sum((noise / charged) ** 2)) / more
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], SIZE)
    assert low <= statistic <= high
    assert abs(noise.mean()) < stats.norm.isf(ALARM) * charged * (more / SIZE) ** 0.5


def test_the_band_rejects_noise_that_was_sized_for_all_instead_of_the_guaranteed():
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], SIZE) / SIZE
    assert 30 / 40 < low < high < 40 / 30


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("fidelity", ["protocol", "ideal"])
def test_the_released_mean_is_that_of_the_clients(name, fidelity, ledger):
    data = np.random.default_rng(0).normal(size=(POPULATION, 6)).astype(np.float32) / 8
    private = private_program(MECHANISMS[name], 6)
    result = start(private, ledger, data, fidelity=fidelity)
    # Deviation 2 x 1.5 / 40 x sqrt(40 / 30) at most; eight deviations in 6 coordinates: 1e-14.
    np.testing.assert_allclose(result.value, data.mean(0), atol=8 * 0.0868)
    assert np.abs(np.asarray(result.value) - data.mean(0)).max() > 1e-6


def test_rotation_does_not_change_a_sum_but_for_rounding():
    release = private_program(MECHANISMS["Skellam, rotated"], 37).releases[0]
    (part,) = groups(release, MECHANISMS["Skellam, rotated"])
    assert (part.size, part.width) == (37, 64)
    one_hot = np.zeros((POPULATION, 37), np.float32)
    one_hot[:, 5] = 1.0
    quiet = privacy.Gaussian(noise_multiplier=1e-3, clip_norm=CLIP, rotation=True)
    values = np.asarray(released_once(quiet, one_hot))
    np.testing.assert_allclose(values, one_hot[0], atol=2e-3)


def released_once(mechanism, data):
    private = private_program(mechanism, data.shape[1])
    aggregator = SecureAggregator(
        releases=private.releases, mechanism=mechanism, expected_size=POPULATION, context=b"test",
        fidelity="ideal", faults=lambda _: (), before_noise=lambda: None,
    )  # fmt: skip
    upload = Upload(0, ("delta",), (jnp.asarray(data),))
    return aggregator(upload).values[0] / POPULATION


@pytest.mark.parametrize("name", ["Skellam", "Gaussian by clients, rotated"])
def test_below_the_guaranteed_survivors_the_release_is_withheld(name, ledger):
    with pytest.raises(secagg.Aborted):
        start(private_program(MECHANISMS[name], 50), ledger, dropped=11)
    assert [r.state for r in ledger.find("test")] == ["open"]  # shares were drawn


def test_skellam_noise_is_charged_as_skellam_noise(ledger):
    start(private_program(MECHANISMS["Skellam"], 50), ledger)
    body = reserved(ledger)
    ((leaf, count),) = parse_event(body["event"])
    (release,) = body["releases"]
    assert isinstance(leaf, SkellamTerm)
    assert count == 1
    assert body["charged_multiplier"] is None
    assert leaf.variance == pytest.approx(release["noise_std"] ** 2, rel=1e-11)
    assert leaf.variance < release["noise_std"] ** 2
    assert (leaf.l2, leaf.l1) == (release["sensitivity"], release["l1_sensitivity"])
    assert leaf.l1 == pytest.approx(leaf.l2 * 50**0.5, rel=1e-12)
    ledger.verify()


def test_a_rotated_run_uploads_fewer_bytes_and_sends_padding():
    sizes = {}
    for rotated in (False, True):
        mechanism = privacy.Skellam(
            noise_multiplier=1.0, clip_norm=CLIP, grid=1 << 8, rotation=rotated
        )
        release = private_program(mechanism, 1000).releases[0]
        sizes[rotated] = modulus_bits(release, mechanism, POPULATION)
    assert sizes[False] == 32
    assert sizes[True] < 16


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(MECHANISMS["Skellam"], rotation=True),
        privacy.Gaussian(noise_multiplier=2.0, clip_norm=CLIP, noise="distributed"),
    ],
)
def test_a_certificate_of_another_mechanism_is_refused(other, ledger):
    private = private_program(MECHANISMS["Skellam"], 50)
    with pytest.raises(CertificateMismatch, match="certified mechanism"):
        start(dataclasses.replace(private, mechanism=other), ledger,
              certificate=certify(private))  # fmt: skip
    assert not ledger.find("test")


def test_sums_that_fit_no_ring_are_refused_before_anything_is_charged(ledger):
    loud = privacy.Skellam(noise_multiplier=1e13, clip_norm=CLIP, grid=1 << 24)
    with pytest.raises(MechanismError, match="ring of 64 bits"):
        start(private_program(loud, 50), ledger)
    assert not ledger.find("test")


@pytest.mark.parametrize("name", [name for name in MECHANISMS if "rotated" in name])
def test_noise_wraps_with_a_rotated_sum(name, ledger, monkeypatch):
    # A ring of half a deviation: what is released is a function of the noisy sum only if all of it
    # lies in the ring. 64 numbers with noise of that size after the wrap: all inside at below 1e-20.
    bits = 11
    monkeypatch.setattr("privacy.execution.aggregation.modulus_bits", lambda *_: bits)
    decoded = SecureAggregator._decoded
    totals = []

    def spy(self, total, *rest):
        totals.append(total)
        return decoded(self, total, *rest)

    monkeypatch.setattr(SecureAggregator, "_decoded", spy)
    start(private_program(MECHANISMS[name], 64), ledger)
    assert np.abs(totals[0]).max() <= 2 ** (bits - 1)


@pytest.mark.parametrize("settings", [{"rotation": 1}, {"grid": 100}, {"honest_survivors": 1.5}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(MechanismError, match="Expected"):
        privacy.Skellam(noise_multiplier=1.0, clip_norm=1.0, **settings)


def test_two_rounds_on_one_cohort_are_one_charge_that_bounds_both(ledger):
    @fad.computation(model=fad.SERVER, x=fad.CLIENTS)
    def objective(model, x):
        first = fad.mean(jnp.tanh(fad.broadcast(model, name="model") * x), name="first")
        return jnp.sum(first**2)

    gradient = fad.value_and_grad(objective, mode="reverse")
    spec = jax.ShapeDtypeStruct((4,), jnp.float32)
    private = privacy.privatize(
        gradient, spec, spec, mechanism=MECHANISMS["Skellam"], purpose="hypergradient"
    )
    certificate = certify(private)
    taken = {obligation.rule for obligation in certificate.obligations}
    start(private, ledger, np.ones((POPULATION, 4), np.float32), acknowledge=taken)
    body = reserved(ledger)
    ((joint, count),) = parse_event(body["event"])
    assert count == 1
    releases = body["releases"]
    assert [release["name"] for release in releases] == ["0:first", "1:model.cotangent"]
    for order in (2, 4, 16):
        apart = sum(
            renyi_divergence(((SkellamTerm(r["noise_std"] ** 2, r["sensitivity"], r["l1_sensitivity"]), 1),),
                             order, ledger.charter.relation)
            for r in releases
        )  # fmt: skip
        charged = renyi_divergence(((joint, 1),), order, ledger.charter.relation)
        assert apart <= charged <= apart * (1 + 1e-9)
