"""Every algorithm of the table equals its centralised form, in value and in every derivative."""

import functools

import jax
import numpy as np
import pytest
from algorithm_table import TABLE

import privacy
import secfad as fad

# Rounding of a few hundred operations in float64; a missing term is 1e-3 or more here. The forward
# difference divides its rounding by a step of 1e-3.
TOLERANCE = 1e-10
# What has a sibling in the table with the same structure runs in the longer profile.
LONG = {
    "fedavg", "fedyogi", "fedadagrad", "perfedavg", "learned_server", "igc_static_fastfood",
    "igc_subspace", "igc_time_varying", "forward_gradient", "aggitd_reverse",
    "aggitd_forward_matrix",
}  # fmt: skip
EACH = pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(a, id=n, marks=[pytest.mark.slow] if n in LONG else [])
        for n, a in TABLE.items()
    ],
)
ALL = pytest.mark.parametrize("algorithm", TABLE.values(), ids=TABLE)
# The programs are tiny: most of the time goes into optimising them.
UNOPTIMISED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@functools.cache
def outcomes(name):
    """Value and derivatives, federated and centralised, as one compiled program."""
    algorithm = TABLE[name]

    def everything(*args):
        found = {
            "value": algorithm.server_results(fad.simulate(algorithm.computation)(*args)),
            "central value": algorithm.reference(*args),
        }
        if algorithm.modes:
            central = jax.grad(algorithm.central_objective, argnums=algorithm.wrt)
            found["central derivative"] = central(*args)
        for mode in algorithm.modes:
            derivative = fad.grad(algorithm.objective, algorithm.wrt, mode=mode)
            found[mode] = fad.simulate(derivative)(*args)
        return found

    args = algorithm.make(3)
    return jax.jit(everything).lower(*args).compile(UNOPTIMISED)(*args)


@functools.cache
def program(name):
    algorithm = TABLE[name]
    return fad.trace(algorithm.computation, *algorithm.specs())


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.sample(quick=1, slow=16)
@EACH
def test_value_and_every_derivative_equal_the_centralised_ones(algorithm):
    found = outcomes(algorithm.name)
    assert_equal(found["value"], found["central value"])
    for mode in algorithm.modes:
        assert_equal(found[mode], found["central derivative"])
        assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(found[mode])), mode


@pytest.mark.sample(quick=1)
@EACH
def test_executed_value_equals_the_simulated_value(algorithm):
    got = fad.execute(program(algorithm.name), *algorithm.make(3))
    assert_equal(algorithm.server_results(got), outcomes(algorithm.name)["value"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "mode"), [(a, m) for a in TABLE.values() for m in a.modes],
    ids=[f"{a.name}-{m}" for a in TABLE.values() for m in a.modes],
)  # fmt: skip
def test_executed_derivative_equals_the_simulated_derivative(algorithm, mode):
    derivative = fad.grad(algorithm.objective, algorithm.wrt, mode=mode)
    got = fad.execute(fad.trace(derivative, *algorithm.specs()), *algorithm.make(3))
    assert_equal(got, outcomes(algorithm.name)[mode])


@pytest.mark.sample(quick=8)
@ALL
def test_counted_bytes_equal_the_closed_forms(algorithm):
    costs = program(algorithm.name).costs
    assert costs.down_bytes == 8 * (algorithm.down + algorithm.keys)
    assert costs.up_bytes == 8 * algorithm.up


@pytest.mark.sample(quick=2)
@ALL
def test_algorithm_is_certified_in_every_mode_and_its_evidence_is_confirmed(algorithm):
    import audits

    subject = algorithm.objective if algorithm.modes else algorithm.computation
    modes = ("primal", *algorithm.modes)
    results = audits.certifying.check_modes(
        subject, *algorithm.specs(), modes=modes, argnums=algorithm.wrt
    )
    assert set(results) == set(modes)
    assert all(report.kind != "reject" for report, _ in results.values())
    certificate = audits.certifying.issue(subject, results)
    for mode, (_, traced) in results.items():
        audits.verify(certificate, traced, mode)


@pytest.mark.sample(quick=2)
@ALL
def test_algorithm_and_its_mixed_derivative_can_be_made_private(algorithm):
    mechanism = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
    private = privacy.privatize(algorithm.computation, *algorithm.specs(), mechanism=mechanism)
    assert len(private.releases) == program(algorithm.name).rounds
    if "mixed" in algorithm.modes:
        derivative = fad.grad(algorithm.objective, algorithm.wrt, mode="mixed")
        assert privacy.privatize(derivative, *algorithm.specs(), mechanism=mechanism).releases
