"""What is wrong is said, by type, before anything is sent or charged."""

import dataclasses

import jax
import numpy as np
import pytest

import privacy
from audits.quickstart.configuration import parse
from audits.quickstart.fedavgm import client_loss, local_sgd, members_of
from audits.quickstart.folders import RunFolder
from audits.quickstart.running import Run
from audits.quickstart.schedules import TRAINING
from audits.quickstart.tasks import make_task
from privacy.certificates.certificates import CertificateError, CertificateMismatch
from privacy.errors import BudgetExceeded, NonFiniteData, RunRefused
from privacy.training.hypergradients import training


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture
def ledger(folder, tiny_task):
    with folder.open_ledger(tiny_task) as opened:
        yield opened


@pytest.fixture
def release(tiny_task, ledger, monkeypatch):
    """A training release of round 0, with anything replaced; fails if a client is contacted."""

    def contacted(*args, **kwargs):
        raise AssertionError("a message was made")

    monkeypatch.setattr("secagg.simulate", contacted)

    def run(**changes):
        cohort = tiny_task.sampling.draw()
        program = changes.pop("program", tiny_task.queries[TRAINING].program)
        batch = members_of(tiny_task.batch, cohort.members)
        batch = changes.pop("batch", lambda same: same)(batch)
        model = changes.pop("model", lambda same: same)(tiny_task.algorithm.state.model)
        settings = {
            "certificate": tiny_task.queries[TRAINING].certificate,
            "ledger": ledger,
            "cohort": cohort,
            "run_id": "refused",
            "round": 0,
        }
        return privacy.run(program, ({}, model, batch), **(settings | changes))

    return run


@pytest.fixture
def untouched(ledger):
    """The ledger has the same head afterwards."""
    before = ledger.head
    yield
    assert ledger.head == before
    assert not ledger.find("refused")


def other_program(tiny_task, **mechanism):
    """The training program with other local steps, or another mechanism."""
    learning_rate = mechanism.pop("learning_rate", 0.05)
    settings = {"noise_multiplier": 4.0, "clip_norm": 0.5} | mechanism
    question = tiny_task.algorithm.questions[TRAINING]
    return privacy.privatize(
        training(client_loss, local_sgd(learning_rate, 10)),
        *question.specs,
        mechanism=privacy.Gaussian(**settings),
        purpose="training",
    )


@pytest.mark.usefixtures("untouched")
class TestNothingIsSentOrCharged:
    def test_without_a_certificate(self, release):
        with pytest.raises(RunRefused, match=r"audits\.certify"):
            release(certificate=None)

    def test_with_the_certificate_of_another_program(self, release, tiny_task):
        with pytest.raises(CertificateMismatch, match="FAD006"):
            release(certificate=tiny_task.queries["hypergradient"].certificate)

    def test_for_an_altered_program(self, release, tiny_task):
        with pytest.raises(CertificateMismatch, match="does not match the certificate"):
            release(program=other_program(tiny_task, learning_rate=0.06))

    @pytest.mark.parametrize("change", [{"noise_multiplier": 0.1}, {"clip_norm": 5.0}])
    def test_for_a_weaker_mechanism(self, release, tiny_task, change):
        with pytest.raises(CertificateError, match="FAD006"):
            release(program=other_program(tiny_task, **change))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_for_a_model_that_is_not_finite(self, release, value):
        with pytest.raises(NonFiniteData, match="bias"):
            release(model=lambda model: model | {"bias": np.full_like(model["bias"], value)})

    def test_for_data_of_another_shape(self, release):
        with pytest.raises(RunRefused, match="features"):
            release(batch=lambda batch: batch | {"features": batch["features"][..., :59]})

    def test_for_a_missing_array(self, release):
        with pytest.raises(RunRefused, match="mask"):
            release(batch=lambda batch: {k: v for k, v in batch.items() if k != "mask"})

    def test_for_fewer_clients_than_the_cohort(self, release):
        with pytest.raises(RunRefused, match="6 members"):
            release(batch=lambda batch: jax.tree.map(lambda a: a[:4], batch))


def test_a_ledger_without_budget_refuses_before_anything_is_sent(folder, tiny_task, monkeypatch):
    with folder.open_ledger(tiny_task) as ledger:
        monkeypatch.setattr("secagg.simulate", lambda *a, **k: pytest.fail("a message was made"))
        empty = privacy.Ledger.create(
            folder.path / "empty.db",
            privacy.Budget(1.0, 1e-3),
            population=6,
            purposes=ledger.charter.purposes,
        )
    with empty:
        before = empty.head
        run = Run(tiny_task, folder, empty)
        trained = run.finish()
        assert "left are: none" in trained.stopped
        assert trained.rounds == 0
        assert empty.head == before


def test_a_plan_over_budget_leaves_no_ledger(folder, tiny_task):
    section = tiny_task.configuration.privacy.model_copy(update={"epsilon": 0.5})
    configuration = tiny_task.configuration.model_copy(update={"privacy": section})
    with pytest.raises(BudgetExceeded, match="Nothing was declared"):
        folder.open_ledger(dataclasses.replace(tiny_task, configuration=configuration))
    assert not folder.ledger.exists()


def test_the_same_configuration_gives_the_same_programs_and_data(tiny_task, tiny_text):
    again = make_task(parse(tiny_text))
    for purpose, query in tiny_task.queries.items():
        assert again.queries[purpose].program.program.digest == query.program.program.digest
    np.testing.assert_array_equal(again.batch["features"], tiny_task.batch["features"])
