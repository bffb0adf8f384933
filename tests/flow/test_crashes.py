"""SIGKILL at every step and at random instants: the run finishes and the ledger is right."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from audits.quickstart import configuration, pages
from audits.quickstart.schedules import PURPOSES
from privacy import Ledger
from privacy.training.metrics import MetricsFile

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("crashing.py")
# Every crash is in the child's second release or first checkpoint, so that something is done before
# it. The number is how many charges the crash leaves without a release.
MOMENTS = (
    ("before reserve", 0),
    ("after reserve", 1),
    ("after open", 1),
    ("after journal", 0),
    ("before metrics", 0),
    ("before checkpoint", 0),
    ("after checkpoint", 0),
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Children import this tree, and share compiled programs so that a restart is quick."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def start(environment, config, out, moment="never", call=0):
    command = [sys.executable, str(SCRIPT), moment, str(call), str(config), str(out)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(environment, config, out, timeout=300):
    process = start(environment, config, out)
    text, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, text


def written(tmp_path, text, rounds, spare):
    text = text.replace("rounds = 3", f"rounds = {rounds}")
    config = tmp_path / "config.toml"
    config.write_text(text.replace("spare_slots = 8", f"spare_slots = {spare}"))
    return config


def check(out, rounds):
    """Everything that must hold after any crashes; returns the charges without a release."""
    results = pages.read_results(out)
    with Ledger.open(out / "ledger.db") as ledger:
        ledger.verify()
        assert ledger.head == results["ledger"]["head"]
        name = f"{results['name']}-{results['configuration_digest'][:12]}-{ledger.id[:12]}"
        reservations = [r for p in PURPOSES for r in ledger.find(f"{name}/{p}")]
        released = Counter((r.purpose, r.round) for r in reservations if r.state == "committed")
        lost = [r for r in reservations if r.state != "committed"]
        assert results["rounds"] == rounds
        assert results["stopped_early"] is None
        # Nothing is charged twice: one committed charge for each release of each round.
        assert released == Counter({(p, r): 1 for p in PURPOSES for r in range(rounds)})
        # What was reserved and not committed stays spent: it is still missing from the slots.
        planned = rounds + results["configuration"]["schedule"]["spare_slots"]
        for purpose in PURPOSES:
            left = sum(slot.count for slot in ledger.remaining(purpose).slots)
            gone = sum(r.purpose == purpose for r in lost)
            assert left == planned - rounds - gone
            assert results["ledger"]["charges"][purpose] == rounds + gone
        assert {r.state for r in lost} <= {"reserved", "open"}
        assert results["ledger"]["charged_without_release"] == len(lost)
    assert len(results["history"]["loss"]) == rounds + 1
    assert [line["round"] for line in MetricsFile(out / "metrics.jsonl").read()] == [
        *range(rounds + 1)
    ]
    return len(lost)


@pytest.mark.sample(quick=0)
def test_a_crash_at_every_step_loses_at_most_the_charge_in_flight(tmp_path, tiny_text, environment):
    rounds, out = 6, tmp_path / "out"
    config = written(tmp_path, tiny_text, rounds, spare=10)
    for moment, _ in (*MOMENTS, ("before results", 0)):
        call = 0 if moment.endswith(("metrics", "checkpoint", "results")) else 1
        child = start(environment, config, out, moment, call)
        text, _ = child.communicate(timeout=300)
        assert child.returncode == -signal.SIGKILL, (moment, text)
    finish(environment, config, out)
    assert check(out, rounds) == sum(lost for _, lost in MOMENTS)


def kill_at_random(tmp_path, text, environment, *, kills, rounds, seed, longest):
    """Kills the run at random instants, counted from when it is certified, and finishes it.

    Each child lives for `longest` seconds at most from then on, so that the last is killed as well.
    """
    out, config = tmp_path / "out", written(tmp_path, text, rounds, spare=2 * kills)
    instants = random.Random(seed)
    for _ in range(kills):
        child = start(environment, config, out)
        assert "certified" in child.stdout.readline()
        time.sleep(instants.uniform(0, longest))
        child.kill()
        child.communicate()
    finish(environment, config, out)
    return check(out, rounds)


@pytest.mark.sample(quick=0)
def test_random_kills_do_not_change_what_is_charged(tmp_path, tiny_text, environment):
    settings = {"kills": 2, "rounds": 6, "seed": 1, "longest": 1.5}
    assert kill_at_random(tmp_path, tiny_text, environment, **settings) <= 2


@pytest.mark.sample(quick=0, slow=0)
@pytest.mark.slow
def test_twenty_random_kills_do_not_change_what_is_charged(tmp_path, tiny_text, environment):
    settings = {"kills": 20, "rounds": 60, "seed": 2, "longest": 0.6}
    assert kill_at_random(tmp_path, tiny_text, environment, **settings) <= 20


@pytest.mark.sample(quick=0, slow=0)
@pytest.mark.slow
def test_the_quickstart_survives_twenty_kills(tmp_path, environment):
    # Twenty kills cost up to twenty charges, which must have been planned, and paid for, before.
    text = configuration.text_of("quickstart")
    for old, new in (
        ("spare_slots = 4", "spare_slots = 20"),
        ("epsilon = 8.0", "epsilon = 9.0"),
        ("epsilon = 7.5", "epsilon = 8.5"),
        ("epsilon = 2.5", "epsilon = 3.0"),
    ):
        assert old in text
        text = text.replace(old, new)
    config, out = tmp_path / "config.toml", tmp_path / "out"
    config.write_text(text)
    instants = random.Random(3)
    for _ in range(20):
        child = start(environment, config, out)
        time.sleep(instants.uniform(0, 12))
        child.kill()
        child.communicate()
    finish(environment, config, out, timeout=600)
    assert check(out, configuration.parse(text).schedule.rounds) <= 20
