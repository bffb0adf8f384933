import importlib.util
import json
from pathlib import Path


def test_a_tiny_benchmark_runs_and_answers_every_question(capsys):
    path = Path(__file__).parents[2] / "benchmarks" / "bench_secagg.py"
    spec = importlib.util.spec_from_file_location("bench_secagg", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--size", "tiny"])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({answer["question"] for answer in answers}) == 9
    assert all(answer["ratio"] > 0 for answer in answers if "limit" in answer)
