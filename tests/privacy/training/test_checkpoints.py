"""Checkpoints give back the bits they were given, to the run that wrote them."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from privacy import Budget, Ledger
from privacy.arrays import write_tree
from privacy.errors import MechanismError, ResumeRefused, StorageFailed
from privacy.training.checkpoints import Checkpoint, CheckpointFile

STATE = {
    "half": jnp.array([1.0, -0.0, jnp.nan], jnp.bfloat16),
    "byte": jnp.array([0.5, 448.0], jnp.float8_e4m3fn),
    "flag": np.array(True),
    "wide": np.array([1 + 2**-52]),
    "empty": np.zeros((0, 3), np.float32),
    "count": 3,
    "optimizer": optax.adam(0.1).init({"w": jnp.ones((2, 2))}),
}


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(tmp_path / "l.db", Budget(1.0, 1e-5), population=10) as made:
        yield made


@pytest.fixture
def file(tmp_path):
    return CheckpointFile(tmp_path / "checkpoint.npz")


def write(file, ledger, state=STATE):
    file.write(Checkpoint("run", 7, state, ledger.head, "because"))


def test_every_bit_shape_and_dtype_comes_back(file, ledger):
    write(file, ledger)
    found = file.read(like=STATE, ledger=ledger, run_id="run")
    assert (found.round, found.ledger_head, found.stopped) == (7, ledger.head, "because")
    assert jax.tree.structure(found.state) == jax.tree.structure(STATE)
    for one, other in zip(jax.tree.leaves(STATE), jax.tree.leaves(found.state), strict=True):
        before = np.asarray(one)
        assert (before.shape, before.dtype) == (other.shape, other.dtype)
        assert before.tobytes() == other.tobytes()


def test_checkpoint_of_another_run_is_refused(file, ledger):
    write(file, ledger)
    with pytest.raises(ResumeRefused, match="of the run 'other'"):
        file.read(like=STATE, ledger=ledger, run_id="other")


def test_any_cut_of_the_file_is_refused(file, ledger):
    write(file, ledger)
    whole = file.path.read_bytes()
    for length in range(0, len(whole), 97):
        file.path.write_bytes(whole[:length])
        with pytest.raises(ResumeRefused, match="cannot be read"):
            file.read(like=STATE, ledger=ledger, run_id="run")


def test_failed_write_leaves_the_old_checkpoint_and_no_draft(file, ledger, monkeypatch):
    write(file, ledger)
    before = file.path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(StorageFailed, match="full"):
        write(file, ledger, STATE | {"count": 4})
    assert file.path.read_bytes() == before
    assert [p.name for p in file.path.parent.glob(".*draft")] == []


@pytest.mark.parametrize(
    ("leaf", "advice"), [(jax.random.key(0), "key_data"), ("text", "outside the state")]
)
def test_what_is_no_array_of_numbers_is_refused(file, ledger, leaf, advice):
    with pytest.raises(MechanismError, match=advice):
        write(file, ledger, {"leaf": leaf})


@pytest.mark.slow
def test_the_checkpoint_benchmark_runs(tmp_path, capsys):
    path = Path(__file__).parents[3] / "benchmarks" / "bench_checkpoints.py"
    spec = importlib.util.spec_from_file_location("bench_checkpoints", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    result = bench.main(["--numbers", "10", "--saves", "1", "--folder", str(tmp_path)])
    assert result["own"]["files"] == 1
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("change", [{"round": "7"}, {"stopped": None}, {"clients": 1}, {"more": 0}])
def test_a_header_of_another_form_is_refused_also_with_its_digest(file, ledger, change):
    header = {"format": 4} | vars(Checkpoint("run", 7, None, ledger.head)) | change
    header.pop("state")
    write_tree(file.path, header, STATE)
    with pytest.raises(ResumeRefused, match="cannot be read"):
        file.read(like=STATE, ledger=ledger, run_id="run")
