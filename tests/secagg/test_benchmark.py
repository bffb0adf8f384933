import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_tiny_benchmark_runs_and_answers_every_question(capsys):
    load("bench_secagg").main(["--size", "tiny"])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({answer["question"] for answer in answers}) == 9
    assert all(answer["ratio"] > 0 for answer in answers if "limit" in answer)


def test_a_tiny_round_of_flower_runs_and_gives_the_mean():
    pytest.importorskip("flwr", reason="flwr is an optional dependency of the benchmark")
    x = np.linspace(-1, 1, 500, dtype=np.float32)
    settings = {"clients": 12, "neighbours": 4, "threshold": 3, "dropped": 2}
    seconds = load("flower_round").round_seconds(x, **settings)
    assert min(seconds.values()) > 0
