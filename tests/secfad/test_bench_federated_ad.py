"""The benchmark runs at a tiny size and its three implementations agree."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_small_benchmark_has_a_row_per_workload_and_mode():
    path = ROOT / "benchmarks" / "bench_federated_ad.py"
    spec = importlib.util.spec_from_file_location("bench_federated_ad", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    rows = bench.main(["--small", "--repetitions", "1"])
    assert len(rows) == 2 * len(bench.MODES) + 1
    assert all(row["secfad"]["run_ms"] > 0 for row in rows[:-1])
