"""The plugin: pytest finds it by itself, a snapshot must exist, and obligations can be refused."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import audits.pytest_plugin as plugin

ROOT = Path(__file__).parents[2]
TESTS = """
import jax
import jax.numpy as jnp
import pytest
import secfad as fad

SPEC = jax.ShapeDtypeStruct((3,), "float32")

@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def loss(w, x):
    return fad.mean(jnp.sum((fad.broadcast(w) - x) ** 2), name="loss")

@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def again(w, x):
    w = w + fad.mean(jnp.tanh(fad.broadcast(w) * x), name="first")
    return fad.mean(jnp.sum(fad.broadcast(w) * jnp.sin(x)), name="second")

@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def leak(w, x):
    return jnp.sum(w * x)

def test_snapshot(certified):
    certified(loss, SPEC, SPEC, modes=("primal", "reverse"), snapshot="loss.json")

def test_obligation(certified):
    certified(again, SPEC, SPEC, modes=("reverse",))

def test_named(certified):
    certified(again, SPEC, SPEC, modes=("reverse",), accept=["FAD306"])

def test_none(certified):
    certified(again, SPEC, SPEC, modes=("reverse",), accept=())

def test_idle(certified):
    certified(loss, SPEC, SPEC, accept=["FAD306"])

def test_leak(certified):
    certified(leak, SPEC, SPEC)
"""


class Outcomes:
    """Of the tests of a run in this process: passed, or what failed."""

    def __init__(self):
        self.found = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.failed:
            name = report.nodeid.split("::")[-1].removeprefix("test_")
            self.found[name] = report.longreprtext if report.failed else "passed"


@pytest.fixture
def run(tmp_path, capsys):
    (tmp_path / "test_rounds.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def outcomes(*options, plugins=()):
        recorder = Outcomes()
        quiet = ("-p", "audits.pytest_plugin", "-p", "no:cacheprovider", "--import-mode=importlib")
        pytest.main([str(tmp_path), "-q", *quiet, *options], plugins=[recorder, *plugins])
        said = capsys.readouterr()
        assert recorder.found, said.out + said.err
        return recorder.found

    outcomes.folder = tmp_path
    return outcomes


def test_a_missing_snapshot_fails_until_it_is_written(run):
    snapshot = run.folder / "certificates" / "loss.json"
    assert "got none. Run pytest --snapshot-update" in run("-k", "snapshot")["snapshot"]
    assert not snapshot.exists()
    assert run("-k", "snapshot", "--snapshot-update") == {"snapshot": "passed"}
    assert run("-k", "snapshot") == {"snapshot": "passed"}
    snapshot.write_text(snapshot.read_text().replace('"rounds": 1', '"rounds": 7'))
    assert "got others" in run("-k", "snapshot")["snapshot"]


def test_obligations_are_accepted_by_name_or_refused(run):
    found = run("-k", "not snapshot")
    assert found["obligation"] == found["named"] == "passed"
    assert "got others:" in found["none"]
    assert "accept=['FAD306']" in found["none"]
    assert "got none of ['FAD306']" in found["idle"]
    assert "FAD102" in found["leak"]
    refused = run("-k", "obligation or named", "--refuse-obligations")
    assert "FAD306" in refused["obligation"]
    assert refused["named"] == "passed"


def test_another_plugin_may_have_the_option_already(run):
    class Other:
        def pytest_addoption(self, parser):
            parser.addoption("--snapshot-update", action="store_true", dest="update_snapshots")

    options = ("-k", "snapshot", "--snapshot-update")
    assert run(*options, plugins=[Other()]) == {"snapshot": "passed"}
    assert (run.folder / "certificates" / "loss.json").exists()


def test_the_project_declares_the_plugin():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert declared["pytest11"] == {plugin.__name__: plugin.__name__}


def test_loading_the_plugin_does_not_import_jax():
    program = "import sys, audits.pytest_plugin; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
