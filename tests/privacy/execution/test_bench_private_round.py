import importlib.util
import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_tiny_benchmark_compares_graphs_and_liars(capsys):
    path = Path(__file__).parents[3] / "benchmarks" / "bench_private_round.py"
    spec = importlib.util.spec_from_file_location("bench_private_round", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--size", "tiny"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({row["question"] for row in rows}) == 5
    assert all(row["seconds"] > 0 for row in rows)
