"""How many bits per coordinate does a private sum need, with and without rotation, at what error?

    python benchmarks/bench_rotation.py [--size tiny|normal]

Clients send vectors of norm 1, the clip norm, all of it in the same four coordinates ("sparse", the
worst case for a ring) or spread ("dense"); each adds its share of Skellam noise, and the sum
crosses through secure aggregation. For every grid, with and without rotation: the bits of the ring
that holds the sum (WRAP_PROBABILITY of `privacy.noise.capacity` for the whole round), the bytes of
one upload at that many bits, the measured error of the sum per coordinate in clip norms, the same
over the noise that would be there without any rounding, and epsilon, at delta 1e-5 and with
everyone taking part, of Skellam noise and of continuous Gaussian noise of the same multiplier, both
by Renyi divergence.

Expected: rotation takes several bits away, whatever the vectors, as long as sums and not noise fill the
ring; it changes the error only where the grid is so coarse that rounding counts, and epsilon not at
all. Skellam noise costs what Gaussian noise costs, but for what its bound gives away at Renyi orders
between integers.
One JSON line per row.
"""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np

import privacy
import secfad as fad
from privacy.accounting.draws import draw_terms
from privacy.execution.aggregation import SecureAggregator, charged_releases, groups
from privacy.noise.capacity import ring_bits
from privacy.relations import Relation
from secagg.crypto.ring import packed_bytes
from secfad.engines.local import Upload

SIZES = {
    "tiny": {"n": 10, "d": 60, "grids": [8], "multipliers": [1.0]},
    "normal": {"n": 500, "d": 16_000, "grids": [8, 12, 16], "multipliers": [1.0]},
}


@fad.computation(x=fad.CLIENTS)
def total(x):
    """The sum of all clients' vectors."""
    return fad.sum(x, name="total")


def vectors(kind, n, d):
    """What clients send: [n, d], each of norm 1."""
    rng = np.random.default_rng(0)
    one = np.zeros(d)
    one[:4] = 0.5
    x = np.tile(one, (n, 1)) if kind == "sparse" else rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def epsilon(releases, n):
    """By Renyi divergence, everyone taking part: of Skellam noise, and of Gaussian noise."""
    add = Relation.ADD_OR_REMOVE_ONE
    ((leaf, _),) = draw_terms(releases, add, "poisson", 1.0, population=n)
    event = {"type": "skellam", "variance": leaf.variance, "l2": leaf.l2, "l1": leaf.l1}
    plain = {"type": "gaussian", "noise_multiplier": leaf.variance**0.5 / leaf.l2}
    return [privacy.epsilon(e, 1e-5, accountant="rdp") for e in (event, plain)]


def row(kind, n, d, grid, rotation, multiplier):
    """One line of the table."""
    mechanism = privacy.Skellam(
        noise_multiplier=multiplier, clip_norm=1.0, grid=1 << grid, rotation=rotation
    )
    private = privacy.privatize(total, jax.ShapeDtypeStruct((d,), jnp.float32), mechanism=mechanism)
    (part,) = groups(private.releases[0], mechanism)
    bits = ring_bits([part.load(mechanism, n)])
    x = vectors(kind, n, d)
    aggregator = SecureAggregator(
        releases=private.releases, mechanism=mechanism, expected_size=n, context=b"benchmark",
        fidelity="ideal", faults=lambda _: (), before_noise=lambda: None,
    )  # fmt: skip
    released = aggregator(Upload(0, ("total",), (jnp.asarray(x),))).values[0]
    error = float(np.sqrt(np.mean((released - x.sum(axis=0, dtype=np.float64)) ** 2)))
    survivors = mechanism.guaranteed_survivors(n)
    one, other = epsilon(charged_releases(private.releases, mechanism, n), n)
    return {
        "vectors": kind,
        "n": n,
        "d": d,
        "grid_bits": grid,
        "noise_multiplier": multiplier,
        "rotation": rotation,
        "ring_bits": bits,
        "upload_bytes": packed_bytes(part.width, bits),
        "error": round(error, 4),
        "error_over_noise": round(error / multiplier / (n / survivors) ** 0.5, 4),
        "epsilon_skellam": round(one, 4),
        "epsilon_gaussian": round(other, 4),
    }


def main(command=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="normal")
    size = SIZES[parser.parse_args(command).size]
    for multiplier in size["multipliers"]:
        for grid in size["grids"]:
            for kind in ("sparse", "dense"):
                for rotation in (False, True):
                    answer = row(kind, size["n"], size["d"], grid, rotation, multiplier)
                    print(json.dumps(answer))


if __name__ == "__main__":
    main()
