"""A membership test through whole private runs wins no more than what is charged allows.

Everyone but the target sends -e1. The adversary knows that, the mechanism, and, where clients add the
noise, the size of every cohort; it says "the target is in" if the released first coordinate is above a
threshold of false alarms at 2 %. Counts of alarms are binomial: each assertion fails with a probability
below 1e-6 over noise and cohorts, which come from the operating system.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import audits
import privacy
import secfad as fad
from privacy.accounting.pricing import delta
from privacy.execution.execution import run

ALARM = 1e-6
LEVEL = 0.02
ROUNDS = 500
DELTA = 1e-5


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def release(model, x):
    return fad.mean(x - 0 * fad.broadcast(model, name="model"), name="delta")


def alarms(mechanism, sampling, sends, threshold, path, relation):
    """How many of the releases are above the threshold, and what the ledger was charged for one."""
    spec = jax.ShapeDtypeStruct((2,), jnp.float32)
    private = privacy.privatize(release, spec, spec, mechanism=mechanism)
    certificate = audits.certify(private)
    budget = privacy.Budget(1e6, DELTA)
    count = 0
    with privacy.Ledger.create(
        path, budget, population=sampling.population, accountant="rdp@2", relation=relation
    ) as ledger:
        for number in range(ROUNDS):
            cohort = sampling.draw()
            while len(cohort.members) < 3:  # with probability below 1e-4
                cohort = sampling.draw()
            data = np.zeros((len(cohort.members), 2), np.float32)
            data[:, 0] = sends[cohort.members]
            result = run(
                private, [jnp.zeros(2), data], certificate=certificate, ledger=ledger,
                cohort=cohort, run_id="r", round=number, fidelity="ideal",
            )  # fmt: skip
            count += float(result.value[0]) * sampling.expected_size > threshold
        event = next(r.body["event"] for r in ledger.entries() if r.kind == "reserve")
    return count, event


def at_most(share):
    """The largest count that is expected of events with this probability."""
    return stats.binom.isf(ALARM, ROUNDS, min(share, 1.0))


def allowed(event, relation):
    """The largest power at the level, of any test of one release, by the charged divergence."""
    return min(
        math.exp(e) * LEVEL + delta(event, e, accountant="rdp", relation=relation)
        for e in np.linspace(0.0, 8.0, 33)
    )


@pytest.mark.slow
def test_noise_by_clients_on_cohorts_of_a_fixed_size(tmp_path):
    z, population, size, guaranteed = 1.0, 12, 6, 4
    mechanism = privacy.Gaussian(noise_multiplier=z, clip_norm=1.0, noise="distributed")
    sampling = privacy.FixedSampling(population=population, size=size)
    std = z * math.sqrt(size / guaranteed)
    threshold = -size + std * stats.norm.isf(LEVEL)
    sends = np.full(population, -1.0)
    false, event = alarms(mechanism, sampling, sends, threshold, tmp_path / "out.db", "REPLACE_ONE")
    sends[5] = 1.0
    true, _ = alarms(mechanism, sampling, sends, threshold, tmp_path / "in.db", "REPLACE_ONE")

    # Rounding to the grid moves probabilities by less than 1 in 100.
    assert false <= at_most(1.01 * LEVEL)
    share = size / population
    exact = (1 - share) * LEVEL + share * stats.norm.sf(stats.norm.isf(LEVEL) - 2 / std)
    assert true <= at_most(1.01 * exact)
    assert true >= stats.binom.ppf(ALARM, ROUNDS, 0.99 * exact)
    assert exact <= allowed(event, "REPLACE_ONE")
    # The test would have noticed a charge of one clip norm.
    one_norm = (1 - share) * LEVEL + share * stats.norm.sf(stats.norm.isf(LEVEL) - 1 / z)
    assert at_most(one_norm) < ROUNDS * exact


@pytest.mark.slow
def test_noise_by_the_server_on_poisson_cohorts(tmp_path):
    z, others, rate = 0.5, 40, 0.25
    sizes = np.arange(others + 1)

    def above(threshold):
        return float(stats.binom.pmf(sizes, others, rate) @ stats.norm.sf((threshold + sizes) / z))

    grid = np.linspace(-others, 0, 40_001)
    threshold = grid[np.argmax([above(t) <= LEVEL for t in grid])]
    mechanism = privacy.Gaussian(noise_multiplier=z, clip_norm=1.0)
    sends = np.full(others, -1.0)
    out = privacy.PoissonSampling(population=others, rate=rate)
    # A mean divides by the expected size, which is public in both worlds.
    false, event = alarms(
        mechanism, out, sends, threshold, tmp_path / "out.db", "ADD_OR_REMOVE_ONE"
    )
    inside = privacy.PoissonSampling(population=others + 1, rate=rate)
    true, _ = alarms(
        mechanism, inside, np.append(sends, 1.0), threshold, tmp_path / "in.db",
        "ADD_OR_REMOVE_ONE",
    )  # fmt: skip
    assert false <= at_most(1.01 * LEVEL)
    charged = (1 - rate) * LEVEL + rate * stats.norm.sf(stats.norm.isf(LEVEL) - 1 / z)
    assert true <= at_most(charged)
    assert charged <= 1.001 * allowed(event, "ADD_OR_REMOVE_ONE")
