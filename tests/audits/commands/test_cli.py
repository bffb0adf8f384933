"""The command line: exit codes, and one clear message instead of a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from privacy import Budget, Ledger, Release, Slot

ROOT = Path(__file__).parents[3]
GOOD = """
import jax
import jax.numpy as jnp
import secfad as fad

@fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
def loss(model, batch):
    sent = fad.broadcast(model, name="model")
    return fad.mean(jnp.sum((batch - sent) ** 2), name="loss")

@fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
def leaky(model, batch):
    return jnp.sum((batch - model) ** 2)

spec = jax.ShapeDtypeStruct((3,), "float32")
SPECS = {"loss": (spec, spec), "leaky": (spec, spec)}
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(GOOD)
    return path


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "ledger.db"
    plan = [Slot("training", 0.1, 2.0, 10)]
    with Ledger.create(path, Budget(2.0, 1e-5), population=100, slots=plan) as made:
        draw = made.reserve(
            purpose="training",
            sampling_rate=0.1,
            releases=[Release("delta", 1.0, 1.0, noise_std=2.0)],
            run_id="run",
            round=0,
            cohort_id="c",
        )
        draw.open()
        draw.commit("00")
    return path


def test_help_is_quick_and_lists_the_commands():
    run = subprocess.run(
        [sys.executable, "-m", "audits.commands.cli", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0
    for name in ("certify", "modes", "run", "ledger", "report"):
        assert name in run.stdout


def test_a_good_computation_is_certified_in_all_modes(command, model, tmp_path):
    target, out = f"{model}:loss", tmp_path / "certificate.json"
    code, text, _ = command("certify", target, "--certificate", out)
    assert code == 0, text
    assert set(json.loads(out.read_text())["digests"]) == {
        "primal",
        "forward",
        "reverse",
        "mixed",
    }


@pytest.mark.parametrize("format", ["text", "json", "sarif", "html", "github"])
def test_a_leak_is_rejected_in_every_format(command, model, tmp_path, format):
    out = tmp_path / "report"
    code, _, _ = command("certify", f"{model}:leaky", "--format", format, "-o", out)
    assert code == 1
    assert "FAD102" in out.read_text()


def test_unusable_input_is_exit_code_2(command, model, tmp_path):
    assert command("certify", tmp_path / "nowhere.py:loss")[0] == 2
    assert command("certify", f"{model}:absent")[0] == 2
    assert command("certify", "no-name")[0] == 2
    assert command("certify")[0] == 2
    assert command("frobnicate")[0] == 2


def test_the_modes_are_shown_side_by_side(command, model):
    code, text, _ = command("modes", f"{model}:loss")
    assert code == 0
    for mode in ("forward", "reverse", "mixed"):
        assert mode in text
    code, _, message = command("modes", f"{model}:absent")
    assert code == 2
    assert "absent" in message


def test_a_rule_is_explained(command):
    code, text, _ = command("certify", "--explain", "fad102")
    assert code == 0
    assert "FAD102 implicit-broadcast" in text
    assert command("certify", "--explain", "FAD000")[0] == 2


def test_an_unknown_key_is_one_message_without_a_traceback(command, tmp_path, tiny_config):
    code, _, message = command(
        "run", tiny_config("rounds = 3", "round = 3"), "--out", tmp_path / "o"
    )
    assert code == 2
    assert "schedule.round: unknown key" in message
    assert "Traceback" not in message
    assert not (tmp_path / "o").exists()


def test_a_plan_over_budget_is_rejected(command, tmp_path, tiny_config):
    config = tiny_config("epsilon = 20.0", "epsilon = 0.1")
    code, _, message = command("run", config, "--out", tmp_path / "o")
    assert code == 1
    assert message.startswith("BudgetExceeded: ")
    assert not (tmp_path / "o" / "ledger.db").exists()


def test_a_ledger_is_shown_and_verified(command, ledger):
    code, text, _ = command("ledger", "show", ledger)
    assert code == 0
    assert "training" in text
    code, text, _ = command("ledger", "verify", ledger)
    assert code == 0
    head = text.split()[-1]
    assert command("ledger", "verify", ledger, "--head", head)[0] == 0
    assert command("ledger", "verify", ledger, "--head", "0" * 64)[0] == 1


def test_a_plan_is_priced_and_nothing_is_written(command, ledger):
    before = ledger.read_bytes()
    assert command("ledger", "plan", ledger)[0] == 0
    code, text, _ = command("ledger", "plan", ledger, "--slot", "training,0.1,0.5,1000")
    assert code == 1
    assert "does not fit" in text
    code, _, message = command("ledger", "plan", ledger, "--slot", "training,0.1")
    assert code == 2
    assert "PURPOSE,RATE,NOISE_MULTIPLIER,COUNT" in message
    assert ledger.read_bytes() == before


def test_a_schedule_of_fixed_size_cohorts_is_priced_on_a_filter(command, tmp_path):
    path = tmp_path / "filter.db"
    terms = {"accountant": "rdp@8", "relation": "REPLACE_ONE"}
    Ledger.create(path, Budget(4.0, 1e-5), population=1000, **terms).close()
    before = path.read_bytes()
    code, text, _ = command("ledger", "plan", path, "--fixed", "training,20,6.0,50")
    assert code == 0
    assert "together with everything charged, this fits" in text
    assert command("ledger", "plan", path, "--fixed", "training,20,0.5,50")[0] == 1
    for bad in ("training,20", "training,2000,6.0,5", "training,20,6.0,0", "training,x,6.0,5"):
        code, _, message = command("ledger", "plan", path, "--fixed", bad)
        assert code == 2
        assert "PURPOSE,SIZE,NOISE_MULTIPLIER,COUNT" in message
    both = ("--fixed", "training,20,6.0,5", "--slot", "training,0.1,6.0,5")
    assert command("ledger", "plan", path, *both)[0] == 2
    assert path.read_bytes() == before


def test_an_exported_chain_has_all_records(command, ledger, tmp_path):
    code, text, _ = command("ledger", "export", ledger, "-o", tmp_path / "chain.jsonl")
    lines = (tmp_path / "chain.jsonl").read_text().splitlines()
    assert code == 0
    assert json.loads(lines[-1])["hash"] == text.strip()


def test_a_file_that_is_no_ledger_is_named(command, tmp_path):
    bad = tmp_path / "bad.db"
    bad.write_text("not a database")
    assert command("ledger", "show", bad)[0] == 1
    code, _, message = command("ledger", "show", tmp_path / "absent.db")
    assert code == 2
    assert "absent.db" in message


def test_a_report_needs_a_finished_run(command, tmp_path):
    code, _, message = command("report", tmp_path)
    assert code == 2
    assert "results.json" in message


def test_a_fault_of_our_own_is_exit_code_101(command, monkeypatch):
    def fail(source):
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("audits.quickstart.configuration.load", fail)
    code, _, message = command("run", "quickstart")
    assert code == 101
    assert "Traceback" in message
    assert "report it" in message
