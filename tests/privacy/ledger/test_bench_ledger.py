"""The benchmark runs, at a tiny size, and the claims that do not depend on the machine hold."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "bench_ledger.py"


@pytest.mark.slow
def test_the_ledger_benchmark_runs(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("bench_ledger", BENCHMARK)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    options = ["--entries", "60", "--charges", "3", "--draws", "1000", "--folder", str(tmp_path)]
    result = bench.main(options)
    assert result["entries"] >= 60
    assert capsys.readouterr().out.count("\n") == 1
