"""The benchmark of certificates runs at a tiny size, and its counts are those of the programs."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "bench_certify.py"


@pytest.mark.slow
def test_the_benchmark_of_certificates_runs(capsys):
    spec = importlib.util.spec_from_file_location("bench_certify", BENCHMARK)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    result = bench.main(["--equations", "60,120", "--repeats", "1"])
    assert capsys.readouterr().out.count("\n") == 1
    for shape in bench.SHAPES:
        small, large = (row["equations"] for row in result[shape]["sizes"])
        assert 50 < small < large < 250
        assert result[f"{shape} with bounds"]["sizes"][0]["certify_s"] > 0
