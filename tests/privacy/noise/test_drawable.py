"""What is charged can be drawn: noise out of the samplers' range is refused before a reservation."""

import math
import random

import jax.numpy as jnp
import numpy as np
import pytest

import privacy
import secfad as fad
from privacy.accounting.slots import Release
from privacy.errors import InvalidEvent, MechanismError
from privacy.execution.aggregation import SecureAggregator, charged_releases, groups, modulus_bits
from privacy.ledger.ledger import Ledger
from privacy.mechanisms.mechanisms import Gaussian, Skellam
from privacy.noise.samplers import MAX_SCALE
from secagg.crypto import ring


@fad.computation(model=fad.SERVER, own=fad.CLIENTS)
def ask(model, own):
    return fad.sum(fad.broadcast(model) * own, name="first"), fad.sum(own, name="second")


def random_mechanism(rng):
    options = {
        "noise_multiplier": 10 ** rng.uniform(-3, 3),
        "clip_norm": 10 ** rng.uniform(-3, 3),
        "grid": 1 << rng.randint(8, 24),
        "joint": rng.random() < 0.5,
        "rotation": rng.random() < 0.5,
        "honest_survivors": rng.choice([0.34, 0.75, 1.0]),
    }
    # Tables of Skellam noise are slow to make.
    kind = rng.choice(["central", "distributed"] + ["skellam"] * (rng.random() < 0.2))
    return Skellam(**options) if kind == "skellam" else Gaussian(noise=kind, **options)


def refused_or_drawn(seed):
    rng = random.Random(seed)
    mechanism, clients = (
        random_mechanism(rng),
        round(math.exp(rng.uniform(math.log(3), math.log(1000)))),
    )
    private = privacy.privatize(ask, jnp.zeros(3), jnp.zeros(3), mechanism=mechanism)
    factor = rng.choice([1, 2])
    try:
        charged = charged_releases(private.releases, mechanism, clients, factor)
    except (InvalidEvent, MechanismError):
        return False
    assert charged
    unused = {"expected_size": 1.0, "context": b"", "fidelity": "ideal", "faults": None}
    aggregator = SecureAggregator(private.releases, mechanism, before_noise=lambda: None, **unused)
    for release in private.releases:
        bits = modulus_bits(release, mechanism, clients)
        for group in groups(release, mechanism):
            if mechanism.by_clients:
                noise = aggregator._drawn(group.share_std(mechanism, clients), (2, group.width))
            else:
                noise = aggregator._drawn(group.noise_std, (group.width,))
            assert noise.dtype == np.int64
            assert np.all(ring.centred(ring.wrapped(noise, bits), bits) == noise)
    return True


def test_noise_is_refused_before_the_charge_or_can_be_drawn():
    drawn = [refused_or_drawn(seed) for seed in range(30)]
    assert 5 < sum(drawn) < 28


@pytest.mark.slow
def test_noise_of_many_mechanisms_is_refused_before_the_charge_or_can_be_drawn():
    drawn = [refused_or_drawn(seed) for seed in range(30, 530)]
    assert 100 < sum(drawn) < 450


@pytest.mark.parametrize(
    ("mechanism", "clients"),
    [
        (Skellam(noise_multiplier=4.0, clip_norm=1.0), 10),
        (Skellam(noise_multiplier=20.0, clip_norm=1.0), 100),
        (Gaussian(noise_multiplier=100.0, clip_norm=1.0, grid=1 << 24), 10),
        (Gaussian(noise_multiplier=300.0, clip_norm=1.0, grid=1 << 24, noise="distributed"), 10),
        (Gaussian(noise_multiplier=1e-3, clip_norm=1.0, grid=1 << 8), 10),
    ],
)
def test_a_run_whose_noise_cannot_be_drawn_is_not_charged(mechanism, clients, tmp_path):
    import audits

    private = privacy.privatize(ask, jnp.zeros(3), jnp.zeros(3), mechanism=mechanism)
    certificate = audits.certify(private)
    options = {"population": clients, "accountant": "rdp@4"}
    with Ledger.create(tmp_path / "l.db", privacy.Budget(1e9, 1e-5), **options) as ledger:
        head = ledger.head
        with pytest.raises(InvalidEvent, match="grid"):
            privacy.run(
                private,
                (jnp.zeros(3), jnp.zeros((clients, 3))),
                certificate=certificate,
                ledger=ledger,
                cohort=privacy.FullParticipation(clients).draw(),
                run_id="run",
                round=0,
                fidelity="ideal",
                acknowledge=[o.rule for o in certificate.obligations],
            )
        assert ledger.head == head


def test_a_release_that_cannot_be_drawn_is_refused():
    fine = {"units": "grid", "noise_kind": "discrete_gaussian"}
    Release("sum", 1.0, 1.0, noise_std=float(MAX_SCALE), **fine)
    with pytest.raises(InvalidEvent, match=r"from 2\^-20 to 2\^30 grid steps"):
        Release("sum", 1.0, 1.0, noise_std=1.01 * MAX_SCALE, **fine)
    shares = fine | {"noise_party": "clients", "min_survivors": 4}
    Release("sum", 1.0, 1.0, noise_std=1.5 * MAX_SCALE, **shares)
