"""Tiny runs of every experiment, and the page that is written from full ones."""

import json
import os
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.outcomes import Options, run_and_save
from experiments.registry import EXPERIMENTS
from experiments.report import write_report
from experiments.statistics import best_of, interval

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
# These compile programs for most of a minute.
LONGEST = {"baf-1", "baf-2", "igc-1"}
NAMES = [pytest.param(n, marks=[pytest.mark.night] if n in LONGEST else []) for n in EXPERIMENTS]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_tiny_run_gives_criteria_a_record_and_a_picture(name, tmp_path):
    if name.startswith(("agg-2", "baf", "igc", "dp-d-training")):
        pytest.importorskip("sklearn")
    outcome, _ = run_and_save(EXPERIMENTS[name], Options(tiny=True), tmp_path)
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["name"] == name
    assert record["tiny"]
    assert record["criteria"]
    assert all(criterion.figure for criterion in outcome.criteria)
    assert (tmp_path / f"{name}.png").exists() == bool(outcome.curves)


def record(**changes):
    return {
        "name": "x-1", "shows": "That", "matches": "Fig. 1", "tiny": False, "seconds": 3.2,
        "processor_seconds": 5.1,
        "criteria": [{"claim": "a is above b", "figure": "1 [0, 2]", "passed": False}],
        "settings": {"seeds": 3}, "notes": ["Ours."], "table": [["k"], ["1"]],
        "versions": {"jax": "1"},
    } | changes  # fmt: skip


def test_page_says_what_did_not_hold(tmp_path):
    (tmp_path / "x-1.json").write_text(json.dumps(record()))
    write_report(tmp_path, tmp_path)
    page = (tmp_path / "reproductions.md").read_text()
    assert not (tmp_path / "findings.md").exists()
    assert "| **no** | a is above b | 1 [0, 2] |" in page
    assert "| `x-1` | That | 0 of 1 | 5 s | 3 s |" in page
    assert "- Ours." in page
    assert "![" not in page


def test_page_shows_the_picture_beside_the_result(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "x-1.json").write_text(json.dumps(record()))
    (results / "x-1.png").write_bytes(b"")
    write_report(results, tmp_path)
    assert "![That](results/x-1.png)" in (tmp_path / "reproductions.md").read_text()


def test_private_results_have_a_page_of_their_own(tmp_path):
    (tmp_path / "x-1.json").write_text(json.dumps(record()))
    (tmp_path / "dp-x.json").write_text(json.dumps(record(name="dp-x", shows="Noise")))
    write_report(tmp_path, tmp_path)
    assert "dp-x" in (tmp_path / "findings.md").read_text()
    assert "dp-x" not in (tmp_path / "reproductions.md").read_text()


def test_pages_of_the_documentation_are_those_of_the_records(tmp_path):
    write_report(RESULTS, tmp_path)
    for page in ("reproductions.md", "findings.md"):
        written = (tmp_path / page).read_text("utf-8")
        written = written.replace(os.path.relpath(RESULTS, tmp_path), "../experiments/results")
        assert (ROOT / "docs" / page).read_text("utf-8") == written


def test_page_is_not_written_from_tiny_runs_or_from_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="got none"):
        write_report(tmp_path, tmp_path)
    (tmp_path / "x-1.json").write_text(json.dumps(record(tiny=True)))
    with pytest.raises(ValueError, match="x-1"):
        write_report(tmp_path, tmp_path)


def test_command_runs_one_experiment_and_its_status_says_whether_all_held(capsys):
    pytest.importorskip("sklearn")
    assert main(["igc-2", "--tiny"]) == 0
    assert "holds: numbers down and up" in capsys.readouterr().out


def test_interval_covers_a_known_mean_and_shrinks_with_the_sample():
    few, many = interval([0.0, 2.0] * 5), interval([0.0, 2.0] * 500)
    assert few.low < 1 < few.high
    assert many.high - many.low < (few.high - few.low) / 5


def test_interval_with_a_missing_value_passes_no_test():
    found = interval([1.0, float("nan")])
    assert not found.low > 0
    assert not found.high < 2


def test_best_of_one_is_the_mean_and_of_many_the_maximum():
    assert abs(best_of([1.0, 2.0, 3.0], 1) - 2.0) < 0.05
    assert best_of([1.0, 2.0, 3.0], 50) == pytest.approx(3.0, abs=1e-6)
