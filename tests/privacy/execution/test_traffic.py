"""Reported bytes are those of a cohort of the public size, and nothing else is written down."""

import json

import jax
import jax.numpy as jnp
import numpy as np

import audits
import privacy
import secfad as fad
from privacy.execution.traffic import public_traffic

CLIENTS = 12
SPEC = jax.ShapeDtypeStruct((5,), jnp.float32)


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def distance(model, x):
    return fad.mean(fad.broadcast(model, name="model") - x, name="distance")


def test_rehearsal_counts_what_a_run_of_that_size_sends(tmp_path):
    mechanism = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
    private = privacy.privatize(distance, SPEC, SPEC, mechanism=mechanism)
    query = privacy.Query(private, audits.certify(private))
    everyone = privacy.FullParticipation(population=CLIENTS)
    with privacy.Ledger.create(
        tmp_path / "l.db",
        privacy.Budget(50.0, 1e-5),
        population=CLIENTS,
        slots=[query.slot(everyone, 1)],
    ) as ledger:
        result = privacy.run(
            private,
            (
                jnp.zeros(5),
                jnp.asarray(np.random.default_rng(0).normal(size=(CLIENTS, 5)), "float32"),
            ),
            certificate=query.certificate,
            ledger=ledger,
            cohort=everyone.draw(),
            run_id="traffic",
            round=0,
        )
    traffic = public_traffic(private, CLIENTS - 0.5)
    assert (traffic.up, traffic.down) == (result.bytes_up, result.bytes_down)
    other = public_traffic(private, 2 * CLIENTS)
    assert other.up > traffic.up  # so measured bytes would tell the size of a cohort
    assert set(result.public_record()) == {"seq", "replayed", "clipping"}
    assert "bytes" not in json.dumps(result.public_record())
