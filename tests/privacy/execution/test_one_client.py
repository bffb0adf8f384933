"""What one client holds neither stops a round nor shows in it, except by the noisy sum.

A refusal, an error or a report that depends on one client's data is a release without noise and
without a charge. Bands are seven deviations: false alarms below 1e-11 per number.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import privacy
import secfad as fad
from audits import certify

POPULATION = 40
SPEC = jax.ShapeDtypeStruct((4,), jnp.float32)
NOISE = 2.0


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def mean_of_logarithms(model, x):
    return model + fad.mean(jnp.log(x), name="delta")


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def logarithms_twice(model, x):
    logarithm = jnp.log(x)
    first = fad.broadcast(model + fad.sum(logarithm, name="first"))
    return fad.sum(logarithm * first, name="second")


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def double_and_square(model, x):
    return model + fad.sum(2 * x, name="double"), fad.sum(x**2, name="square")


@pytest.fixture
def ledger(tmp_path):
    slots = [privacy.Slot("training", 1.0, NOISE / 2, 5)]
    with privacy.Ledger.create(
        tmp_path / "ledger.db", privacy.Budget(90.0, 1e-5), population=POPULATION, slots=slots
    ) as made:
        yield made


def release(computation, data, ledger, **mechanism):
    settings: dict[str, Any] = {"noise_multiplier": NOISE, "clip_norm": 1.0} | mechanism
    private = privacy.privatize(computation, SPEC, SPEC, mechanism=privacy.Gaussian(**settings))
    certificate = certify(private)
    return privacy.run(
        private,
        [jnp.zeros(4), data],
        certificate=certificate,
        ledger=ledger,
        cohort=privacy.FullParticipation(POPULATION).draw(),
        run_id="test",
        round=0,
        fidelity="ideal",
        acknowledge=[obligation.rule for obligation in certificate.obligations],
    )


def ones_but(first):
    data = np.ones((POPULATION, 4), np.float32)
    data[0] = first
    return data


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, 0.0])
def test_what_is_not_finite_counts_as_zero(ledger, bad):
    result = release(mean_of_logarithms, ones_but(bad), ledger)
    assert np.all(np.abs(result.value) < 7 * 1.01 * NOISE / POPULATION)


@pytest.mark.parametrize("flag", ["debug_nans", "debug_infs"])
def test_a_hunt_for_nan_does_not_stop_a_round(ledger, flag):
    with getattr(jax, flag)(True):
        release(logarithms_twice, ones_but(0.0 if flag == "debug_infs" else -1.0), ledger)
    assert [found.state for found in ledger.find("test")] == ["committed"]


def test_an_overflow_that_gets_past_the_clip_counts_as_zero(ledger):
    # 2 x overflows; XLA computes its norm, in clip norms, without the overflow.
    huge = np.finfo(np.float32).max
    double, _ = release(
        double_and_square, ones_but(huge), ledger, clip_norm=1e30, joint=False
    ).value
    assert np.all(np.abs(double / 1e30) < 7 * 1.01 * NOISE)


def test_a_transcript_never_holds_a_sum_without_noise(ledger):
    central = release(mean_of_logarithms, ones_but(2.0), ledger)
    assert central.transcripts == ()
    shared = release(mean_of_logarithms, ones_but(2.0), ledger, noise="distributed")
    total = np.frombuffer(shared.transcripts[0].sum, "<u4").astype(np.int32) / 2**16
    np.testing.assert_allclose(total / POPULATION, shared.value, atol=1e-6)
