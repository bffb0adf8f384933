"""The benchmark of a federated transformer, at a tiny size: its claims that are no times."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import secfad as fad

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
bench = pytest.importorskip("bench_transformer")
work = bench.work


@pytest.mark.sample(quick=0)
@pytest.mark.parametrize(
    "unrolled",
    [pytest.param(False, id="scan"), pytest.param(True, id="unrolled", marks=pytest.mark.slow)],
)
def test_one_broadcast_of_model_and_rate_costs_what_two_do(unrolled):
    row = bench.trace_row(bench.SMALL, unrolled)
    one, two = row["1 messages"], row["2 messages"]
    model = sum(p.size for p in jax.tree.leaves(work.init(2, 8)))
    # The messages, the Jacobian of one by one number, and that of the loss by the model.
    assert one["released"] == two["released"] == 3 * model + 1


@pytest.mark.slow
def test_every_mode_is_the_derivative_of_the_round_by_hand():
    args = work.arguments(**bench.SMALL)
    expected = jax.value_and_grad(work.by_hand())(*args)
    for mode in ("forward", "mixed"):
        got = fad.simulate(fad.value_and_grad(work.by_secfad(), mode=mode))(*args)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


@pytest.mark.slow
def test_it_runs_at_a_tiny_size():
    (row,) = bench.main(["--small", "--only", "run"])
    assert row["forward_vs_jacfwd"] > 0
