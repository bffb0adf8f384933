import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from audits.quickstart import pages
from audits.quickstart.configuration import parse
from audits.quickstart.console import default_folder, run_experiment
from audits.quickstart.errors import FolderOccupied
from audits.quickstart.folders import RunFolder
from audits.quickstart.running import Run
from audits.quickstart.schedules import PURPOSES
from audits.quickstart.tasks import make_task
from privacy import Ledger, Release
from privacy.certificates.certificates import Certificate
from privacy.errors import ResumeRefused
from privacy.training.checkpoints import CheckpointFile


def run(text, path, *, resume=False):
    console = Console(file=io.StringIO(), width=100)
    run_experiment(parse(text), path, resume=resume, console=console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_text):
    path = tmp_path_factory.mktemp("flow") / "tiny"
    return path, run(tiny_text, path)


def test_the_folder_holds_everything_that_the_documentation_lists(finished):
    names = {entry.name for entry in finished[0].iterdir()}
    assert names >= {
        "results.json",
        "ledger.db",
        "certificate.json",
        "checkpoint.npz",
        "configuration.json",
        "loss.png",
        "hyperparameters.png",
        "budget.png",
        "report.html",
        "releases",
    }


def test_every_release_is_charged_once_to_its_purpose(finished):
    results = pages.read_results(finished[0])
    with Ledger.open(finished[0] / "ledger.db") as ledger:
        ledger.verify()
        assert ledger.head == results["ledger"]["head"]
        run_id = f"tiny-{results['configuration_digest'][:12]}-{ledger.id[:12]}"
        cohorts = set()
        for purpose in PURPOSES:
            found = ledger.find(f"{run_id}/{purpose}", purpose=purpose)
            assert [r.round for r in found] == [0, 1, 2]
            assert {r.state for r in found} == {"committed"}
            cohorts |= {r.cohort_id for r in found}
        assert len(cohorts) == 6


def test_the_budget_holds_and_both_views_are_shown(finished):
    results = pages.read_results(finished[0])
    released, server = results["epsilon"]["released"], results["epsilon"]["server"]
    assert 0 < released["training"] < released["total"] <= 20.0
    # Everyone takes part in this configuration, so sampling amplifies nothing.
    assert server == pytest.approx(released, rel=1e-3)
    assert "epsilon, released view: hypergradient" in finished[1]
    assert "epsilon, server view: total" in finished[1]


def test_certificates_are_of_the_programs_that_ran(finished, tiny_task):
    text = json.loads((finished[0] / "certificate.json").read_text())
    assert set(text) == set(PURPOSES)
    for purpose, body in text.items():
        certificate = Certificate.from_json(json.dumps(body))
        program = tiny_task.queries[purpose].program.program
        assert certificate.digests == {"primal": program.digest}
        assert certificate.profile == "secagg+dp"
        assert certificate.id == pages.read_results(finished[0])["certificates"][purpose]


def test_bytes_are_those_of_the_messages(finished):
    traffic = pages.read_results(finished[0])["bytes_per_client_and_release"]
    # 610 ring elements go up for the model, 2 for the hypergradient; the model comes down once, or
    # with two tangents. The protocol's own messages come on top.
    assert 610 * 4 < traffic["training"]["up"] < 3 * 610 * 4
    assert 0 < traffic["hypergradient"]["up"] < traffic["training"]["up"] - 600 * 4
    assert traffic["hypergradient"]["down"] > 3 * 610 * 4


def test_the_baseline_runs_the_same_rounds_and_is_charged_nothing(finished):
    results = pages.read_results(finished[0])
    history = results["history"]
    assert len(history["baseline_loss"]) == len(history["loss"]) == 4
    assert history["baseline_loss"][0] == history["loss"][0]
    assert history["baseline_loss"][-1] < history["baseline_loss"][0]


def test_a_finished_run_is_not_run_again(finished, tiny_text):
    before = (finished[0] / "ledger.db").read_bytes()
    assert "nothing to do" in run(tiny_text, finished[0], resume=True)
    assert (finished[0] / "ledger.db").read_bytes() == before


def test_a_folder_with_a_run_is_not_overwritten(finished, tiny_text):
    with pytest.raises(FolderOccupied, match="--resume"):
        run(tiny_text, finished[0])


def test_a_changed_configuration_is_not_resumed(finished, tiny_text):
    with pytest.raises(ResumeRefused, match="Undo the change"):
        run(tiny_text.replace("rounds = 3", "rounds = 4"), finished[0], resume=True)


def test_the_page_is_self_contained(finished):
    page = (finished[0] / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page
    assert "<script" not in page


def test_the_default_folder_is_the_next_free_one_or_the_newest(tmp_path):
    assert default_folder("a b", resume=False, base=tmp_path) == tmp_path / "a-b"
    (tmp_path / "a-b").mkdir()
    assert default_folder("a b", resume=False, base=tmp_path) == tmp_path / "a-b-2"
    assert default_folder("a b", resume=True, base=tmp_path) == tmp_path / "a-b"


def test_two_processes_cannot_run_in_one_folder(tmp_path):
    folder = RunFolder(tmp_path)
    other = RunFolder(tmp_path).locked()
    with folder.locked(), pytest.raises(FolderOccupied, match="another process holds"), other:
        pass


@pytest.mark.sample(quick=0)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('fidelity = "protocol"', 'fidelity = "ideal"'),
        ('noise = "central"', 'noise = "distributed"'),
        ("baseline = true", "baseline = false"),
    ],
)
def test_every_engine_setting_finishes_with_the_same_charges(tmp_path, tiny_text, old, new):
    assert old in tiny_text
    run(tiny_text.replace(old, new).replace("rounds = 3", "rounds = 1"), tmp_path / "out")
    results = pages.read_results(tmp_path / "out")
    assert results["ledger"]["charges"] == {"training": 1, "hypergradient": 1}
    assert (results["baseline"] is None) == ("false" in new)


class TestStartedRun:
    """A run of one round out of three, to be continued or refused."""

    @pytest.fixture
    def started(self, tmp_path, tiny_task):
        folder = RunFolder(tmp_path)
        folder.claim(tiny_task.configuration, resume=False)
        with folder.open_ledger(tiny_task) as ledger:
            one = Run(tiny_task, folder, ledger)

            def stop(line):
                if line["round"] == 1:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                one.finish(stop)
        return folder

    def test_a_checkpoint_restores_the_state_bit_for_bit(self, started, tiny_task):
        with started.open_ledger(tiny_task) as ledger:
            like = {"private": tiny_task.algorithm.state, "baseline": tiny_task.algorithm.state}
            asked = {"like": like, "ledger": ledger, "run_id": Run(tiny_task, started, ledger).id}
            found = CheckpointFile(started.checkpoint).read(**asked)
            copy = CheckpointFile(started.path / "copy.npz")
            copy.write(found)
            again = copy.read(**asked)
        assert (again.round, again.ledger_head) == (1, found.ledger_head)
        leaves = [jax.tree.leaves(checkpoint.state) for checkpoint in (found, again)]
        for one, other, start in zip(*leaves, jax.tree.leaves(like), strict=True):
            assert one.dtype == other.dtype == start.dtype
            np.testing.assert_array_equal(one, other)

    def test_a_checkpoint_of_another_configuration_is_refused(self, started, tiny_text):
        task = make_task(parse(tiny_text.replace("momentum_step = 0.1", "momentum_step = 0.2")))
        with (
            started.open_ledger(task) as ledger,
            pytest.raises(ResumeRefused, match="of the run"),
        ):
            Run(task, started, ledger).finish()

    def test_a_rolled_back_ledger_is_refused(self, started, tiny_task, tmp_path_factory):
        fresh = RunFolder(tmp_path_factory.mktemp("other"))
        fresh.open_ledger(tiny_task).close()
        started.ledger.write_bytes(fresh.ledger.read_bytes())
        with (
            started.open_ledger(tiny_task) as ledger,
            pytest.raises(ResumeRefused, match="older copy or another ledger"),
        ):
            Run(tiny_task, started, ledger).finish()

    def test_a_lost_ledger_is_not_started_over(self, started, tiny_task):
        started.ledger.unlink()
        with pytest.raises(ResumeRefused, match="never started over"):
            started.open_ledger(tiny_task)

    def test_a_damaged_checkpoint_is_named(self, started, tiny_task):
        started.checkpoint.write_bytes(started.checkpoint.read_bytes()[:-40])
        with (
            started.open_ledger(tiny_task) as ledger,
            pytest.raises(ResumeRefused, match="cannot be read"),
        ):
            Run(tiny_task, started, ledger).finish()

    def test_without_its_checkpoint_a_run_replays_its_releases_for_free(self, started, tiny_task):
        started.checkpoint.unlink()
        with started.open_ledger(tiny_task) as ledger:
            again = Run(tiny_task, started, ledger)
            assert len(again.reservations) == 2
            lines = again.finish().metrics
            replayed = [r["replayed"] for line in lines for r in line["releases"].values()]
            assert replayed == [True, True, False, False, False, False]
            assert len(again.reservations) == 6

    @pytest.mark.parametrize(("exhausted", "rounds"), [("training", 1), ("hypergradient", 2)])
    def test_an_exhausted_budget_stops_the_run_and_is_said(
        self, started, tiny_task, exhausted, rounds
    ):
        with started.open_ledger(tiny_task) as ledger:
            one = Run(tiny_task, started, ledger)
            spend_all(ledger, one.id, exhausted)
            trained = one.finish()
            assert trained.stopped.startswith("round 1: Expected a slot")
            assert trained.rounds == rounds
            assert one.finish().rounds == rounds


def spend_all(ledger, run_id, purpose):
    """Reserves every slot of a purpose that is left, as crashes would."""
    [first] = ledger.find(f"{run_id}/{purpose}", 0)
    releases = [Release(**r) for r in ledger.store.get(first.seq).body["releases"]]
    for slot in ledger.remaining(purpose).slots:
        for index in range(slot.count):
            ledger.reserve(
                purpose=purpose,
                sampling_rate=1.0,
                releases=releases,
                run_id="another run",
                round=index,
                cohort_id=f"{purpose} {index}",
            )
