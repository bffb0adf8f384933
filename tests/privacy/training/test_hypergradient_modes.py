"""FedAvgM hypergradients, certified and run privately in every mode, and charged for what they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import audits
import privacy
import secfad as fad
from privacy.certificates.certificates import Certificate

POPULATION = 60
FLOAT = jnp.float32
SPECS = tuple(jax.ShapeDtypeStruct(s, FLOAT) for s in ((2,), (3,), (3,), (8, 3), (8,)))
MECHANISM = privacy.Gaussian(noise_multiplier=1.7, clip_norm={"delta": 0.3, "*": 4.0})


def squared_loss(v, x, y):
    return jnp.mean((x @ v - y) ** 2)


@fad.computation(
    hyper=fad.SERVER, model=fad.SERVER, buffer=fad.SERVER, x=fad.CLIENTS, y=fad.CLIENTS
)
def round_loss(hyper, model, buffer, x, y):
    local = fad.broadcast(model, name="model")
    delta = fad.mean(0.1 * jax.grad(squared_loss)(local, x, y), name="delta")
    new = model - hyper[0] * (hyper[1] * buffer + delta)
    return fad.mean(squared_loss(fad.broadcast(new, name="new"), x, y), name="loss")


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(3)
    shapes = [(3,), (3,), (POPULATION, 8, 3), (POPULATION, 8)]
    return [jnp.array([0.5, 0.9], FLOAT)] + [
        jnp.asarray(draw.normal(size=s), FLOAT) for s in shapes
    ]


# Reverse mode goes back to the clients of an earlier round: a run must say that it knows.
CASES = [("forward", 2, ()), ("reverse", 3, ("FAD306",)), ("mixed", 2, ())]


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize(("mode", "releases", "obligations"), CASES)
def test_mode_is_certified_run_and_charged(tmp_path, data, mode, releases, obligations):
    private = privacy.privatize(
        fad.value_and_grad(round_loss, mode=mode),
        *SPECS,
        mechanism=MECHANISM,
        purpose="hypergradient",
    )
    certificate = Certificate.from_json(audits.certify(private).to_json())
    assert len(private.releases) == releases
    joint = MECHANISM.noise_multiplier / releases**0.5
    with privacy.Ledger.create(
        tmp_path / "ledger.db",
        privacy.Budget(60.0, 1e-5),
        population=POPULATION,
        slots=[privacy.Slot("hypergradient", 1.0, joint * (1 - 1e-9), 1)],
    ) as ledger:
        result = evaluate(private, certificate, ledger, data, obligations)
        (reserve,) = (r.body for r in ledger.entries() if r.kind == "reserve")
    value, gradient = result.value
    assert np.isfinite(float(value))
    assert gradient.shape == (2,)
    assert result.noise_multiplier == pytest.approx(joint, rel=1e-12)
    assert reserve["noise_multiplier"] == pytest.approx(
        from_certificate(certificate, reserve["releases"]), rel=1e-12
    )


def evaluate(private, certificate, ledger, data, obligations):
    return privacy.run(
        private,
        data,
        certificate=certificate,
        ledger=ledger,
        cohort=privacy.FullParticipation(population=POPULATION).draw(),
        run_id="modes",
        round=0,
        fidelity="ideal",
        acknowledge=obligations,
    )


def from_certificate(certificate, released):
    """The multiplier from the certified bounds and the noise in the ledger's record alone."""
    groups = {}
    for bound in certificate.bounds["primal"]:
        groups.setdefault(bound.group, []).append(bound)
    total = 0.0
    for index, bounds in enumerate(groups.values()):
        ratios = set()
        for bound in bounds:
            record = next(r for r in released if r["name"] == f"{index}:{bound.sum}")
            assert record["clip_norm"] == pytest.approx(bound.norm, rel=1e-12)
            # In units of the certified norm: the integers' norm, and the noise on their sum.
            sensitivity = record["sensitivity"] / MECHANISM.grid
            assert 1 <= sensitivity < 1.001
            noise = record["noise_std"] / MECHANISM.grid
            ratios.add(round(noise / sensitivity, 12))
        assert len(ratios) == 1
        total += ratios.pop() ** -2
    return total**-0.5
