"""The benchmark runs at a tiny size and its three implementations agree."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(
        "bench_federated_ad", BENCHMARKS / "bench_federated_ad.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.sample(quick=0)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_small_row_compares_three_implementations(bench):
    (row,) = bench.main(["--small", "--only", "logreg/sgd", "--repetitions", "1"])
    assert {"mono", "drjax", "secfad", "run_vs_mono", "compile_vs_drjax"} <= row.keys()
    assert all(row[name]["run_ms"] > 0 for name in ("mono", "drjax", "secfad"))


@pytest.mark.slow
def test_small_staging_row_counts_equations(bench):
    (row,) = bench.main(["--small", "--only", "staging"])
    shorter, longer = row["sweep"]
    assert 1.8 * shorter["equations"] < longer["equations"] < 2.2 * shorter["equations"]


@pytest.mark.sample(quick=0)
def test_small_chunks_row_compares_with_all_clients_at_once(bench):
    (row,) = bench.main(["--small", "--only", "chunks"])
    compared = [(line["mode"], line["chunk"]) for line in row["sweep"]]
    assert compared == [(m, n) for m in ("sgd", "hvp") for n in ("whole", 6)]
    assert all(line["vs_whole"] == 1 for line in row["sweep"] if line["chunk"] == "whole")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_small_benchmark_has_a_row_per_question(bench):
    rows = bench.main(["--small", "--repetitions", "1"])
    names = [row["row"] for row in rows]
    compared = [f"{workload}/{mode}" for workload in bench.SIZES for mode in bench.MODES]
    assert names == [*compared, "cohorts", "round", "chunks", "staging"]
    assert next(row for row in rows if row["row"] == "cohorts")["peak_rss_gib"] > 0
