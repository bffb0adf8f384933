import importlib.util
import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_tiny_benchmark_gives_a_row_for_every_setting(capsys):
    path = Path(__file__).parents[3] / "benchmarks" / "bench_rotation.py"
    spec = importlib.util.spec_from_file_location("bench_rotation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--size", "tiny"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(row["vectors"], row["rotation"]) for row in rows} == {
        (kind, rotated) for kind in ("sparse", "dense") for rotated in (False, True)
    }
    # 60 coordinates: the error is within a factor two of the noise with overwhelming probability.
    assert all(0.5 < row["error_over_noise"] < 2 for row in rows)
    assert all(row["epsilon_skellam"] >= row["epsilon_gaussian"] for row in rows)
