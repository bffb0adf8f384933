"""One algorithm of each kind from trace to ledger: privatized, certified, run and charged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_table import TABLE

import privacy
import secfad as fad

audits = pytest.importorskip("audits")

CLIENTS = 6
EVERYONE = privacy.FullParticipation(population=CLIENTS)
SHARP = privacy.Gaussian(noise_multiplier=1e-3, clip_norm=100.0, grid=1 << 20)
# Name, and the mode in which its objective is differentiated; None for a round of the algorithm.
KINDS = [
    ("fedavgm", None),
    ("learned_server", "forward"),
    ("learned_server", "mixed"),
    ("scaffold", None),
    ("aggitd_shared_rounds", None),
    ("baffle", None),
    ("igc_static_dense", None),
]


def single(args):
    return jax.tree.map(
        lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, args
    )


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize(("name", "mode"), KINDS)
def test_certified_run_is_the_algorithm_plus_the_charged_noise(name, mode, tmp_path):
    algorithm = TABLE[name]
    computation = algorithm.computation
    if mode is not None:
        computation = fad.grad(algorithm.objective, algorithm.wrt, mode=mode)
    args, specs = single(algorithm.make(CLIENTS)), single(algorithm.specs())
    private = privacy.privatize(computation, *specs, mechanism=SHARP)
    certificate = audits.certify(private)
    # All rounds are released on one draw, so they compose inside it.
    joint = 0.99e-3 / len(private.releases) ** 0.5
    slots = [privacy.Slot("training", 1.0, joint, 1)]
    budget = privacy.Budget(1e9, 1e-5)
    with privacy.Ledger.create(
        tmp_path / "ledger.db", budget, population=CLIENTS, slots=slots
    ) as ledger:
        result = privacy.run(
            private, args, certificate=certificate, ledger=ledger, cohort=EVERYONE.draw(),
            run_id="laws", round=0, fidelity="ideal",
            acknowledge=[o.rule for o in certificate.obligations],
        )  # fmt: skip
        assert len(list(ledger.find("laws"))) == 1
    expected = fad.simulate(computation)(*args)
    if mode is None:
        got, expected = (algorithm.server_results(r) for r in (result.value, expected))
    else:
        got = result.value
    # Noise of deviation 0.1 on each sum over six clients, after a few server steps.
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, atol=0.6)
        assert not np.array_equal(a, b)
