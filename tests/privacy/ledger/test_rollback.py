"""A journal and a ledger that do not belong together: forged, foreign, rolled back, edited."""

import shutil
import sqlite3
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import audits
import privacy
import secfad as fad
from privacy.errors import JournalCorrupt, LedgerCorrupt, ResumeRefused
from privacy.execution.releases import Released, ReleaseJournal

POPULATION = 6
EVERYONE = privacy.FullParticipation(population=POPULATION)
DATA = np.zeros((POPULATION, 3), np.float32)


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def step(model, x):
    return fad.mean(x - fad.broadcast(model, name="model"), name="delta")


def query_of(noise_multiplier):
    spec = jax.ShapeDtypeStruct((3,), jnp.float32)
    mechanism = privacy.Gaussian(noise_multiplier=noise_multiplier, clip_norm=1.0)
    private = privacy.privatize(step, spec, spec, mechanism=mechanism)
    return privacy.Query(private, audits.certify(private))


@pytest.fixture(scope="module")
def query():
    return query_of(1.0)


@pytest.fixture(scope="module")
def quieter():
    return query_of(50.0)


def create(path, query, count=5):
    budget = privacy.Budget(1e4, 1e-5)
    slots = [query.slot(EVERYONE, count)]
    return privacy.Ledger.create(path, budget, population=POPULATION, slots=slots)


@pytest.fixture
def ledger(tmp_path, query):
    with create(tmp_path / "ledger.db", query) as made:
        yield made


def ask(query, ledger, journal, round=0):
    return privacy.run(
        query.program,
        [jnp.zeros(3), jnp.asarray(DATA)],
        certificate=query.certificate,
        ledger=ledger,
        cohort=EVERYONE.draw(),
        run_id="run",
        round=round,
        journal=journal,
        fidelity="ideal",
    )


def train(rounds, query, ledger, folder):
    return privacy.train(
        lambda state, ask: state + ask("step", state),
        jnp.zeros(3),
        queries={"step": query},
        clients=lambda members: {"x": DATA[members]},
        sampling=EVERYONE,
        ledger=ledger,
        rounds=rounds,
        run_id="run",
        folder=folder,
        fidelity="ideal",
    )


def test_a_forged_release_is_not_replayed_once_the_ledger_committed_another(
    query, ledger, tmp_path, monkeypatch
):
    journal = ReleaseJournal(tmp_path / "journal")
    questions = []
    write = ReleaseJournal.write

    def noting(self, seq, released, question):
        questions.append(question)
        write(self, seq, released, question)

    monkeypatch.setattr(ReleaseJournal, "write", noting)
    seq = ask(query, ledger, journal).seq
    next(Path(journal.path).iterdir()).unlink()
    write(journal, seq, Released.of([[np.full(3, 1e6)]]), questions[0])
    with pytest.raises(JournalCorrupt, match="what the ledger committed"):
        ask(query, ledger, journal)
    assert [draw.state for draw in ledger.find("run")] == ["committed"]


def test_the_journal_of_one_ledger_does_not_answer_for_another(query, ledger, tmp_path):
    journal = ReleaseJournal(tmp_path / "journal")
    ask(query, ledger, journal)
    with create(tmp_path / "other.db", query) as other:
        with pytest.raises(ResumeRefused, match="another ledger"):
            ask(query, other, journal)
        assert other.find("run") == ()
        ask(query, other, ReleaseJournal(tmp_path / "own"))
        with pytest.raises(ResumeRefused, match="a journal of its own"):
            ask(query, other, journal)


def test_the_same_round_with_another_mechanism_is_refused(query, quieter, ledger, tmp_path):
    journal = ReleaseJournal(tmp_path / "journal")
    ask(query, ledger, journal)
    with pytest.raises(ResumeRefused, match="present mechanism"):
        ask(quieter, ledger, journal)
    assert len(ledger.find("run")) == 1


@pytest.fixture
def rolled_back(query, ledger, tmp_path):
    """After 4 rounds, the file as it was after 2, and no checkpoint."""
    folder = tmp_path / "run"
    train(2, query, ledger, folder)
    shutil.copy(tmp_path / "ledger.db", tmp_path / "old.db")
    train(4, query, ledger, folder)
    (folder / "checkpoint.npz").unlink()
    with privacy.Ledger.open(tmp_path / "old.db") as old:
        yield old, folder


def test_a_rolled_back_ledger_is_refused_without_a_checkpoint_too(rolled_back, query):
    old, folder = rolled_back
    kept = {file.name: file.read_bytes() for file in (folder / "releases").iterdir()}
    lines = (folder / "metrics.jsonl").read_bytes()
    spent = len(old.find("run/step"))
    with pytest.raises(ResumeRefused, match=r"is an older copy.*Restore the newest copy"):
        train(4, query, old, folder)
    with pytest.raises(ResumeRefused, match="is an older copy"):
        ask(query, old, ReleaseJournal(folder / "releases"), round=9)
    assert {file.name: file.read_bytes() for file in (folder / "releases").iterdir()} == kept
    assert (folder / "metrics.jsonl").read_bytes() == lines
    assert len(old.find("run/step")) == spent


def test_a_rolled_back_ledger_that_went_on_elsewhere_is_refused(rolled_back, query):
    """Its record numbers have caught up with the journal's, but they are of other draws."""
    old, folder = rolled_back
    old.declare([query.slot(EVERYONE, 1)], data_independent=True)
    for round in range(2):
        ask(query, old, None, round)
    with pytest.raises(ResumeRefused, match="is an older copy"):
        train(4, query, old, folder)


def test_a_lost_checkpoint_alone_starts_over_from_the_journal(query, ledger, tmp_path):
    first = train(3, query, ledger, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.npz").unlink()
    again = train(3, query, ledger, tmp_path / "run")
    np.testing.assert_array_equal(first.state, again.state)
    assert len(ledger.find("run/step")) == 3


def test_altered_metrics_are_refused(query, ledger, tmp_path):
    train(2, query, ledger, tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"seq": 2', b'"seq": 3'))
    with pytest.raises(ResumeRefused, match="got others"):
        train(3, query, ledger, tmp_path / "run")


@pytest.mark.parametrize("how", ["train", "run"])
def test_edited_totals_are_found_before_a_release(query, tmp_path, how):
    with create(tmp_path / "edited.db", query, 2) as ledger:
        ask(query, ledger, None)
    connection = sqlite3.connect(tmp_path / "edited.db")
    connection.execute("UPDATE slots SET spent = 0")
    connection.commit()
    connection.close()
    with privacy.Ledger.open(tmp_path / "edited.db") as ledger:
        release = {
            "run": lambda: ask(query, ledger, None, 1),
            "train": lambda: train(2, query, ledger, tmp_path / "run"),
        }
        with pytest.raises(LedgerCorrupt, match="totals"):
            release[how]()
        assert len(ledger.find("run")) == 1
    assert not (tmp_path / "run").exists()


def test_a_ledger_is_verified_once_and_not_with_every_run(query, ledger, monkeypatch):
    calls = []
    verify = privacy.Ledger.verify
    monkeypatch.setattr(privacy.Ledger, "verify", lambda self: calls.append(1) or verify(self))
    for round in range(3):
        ask(query, ledger, None, round)
    assert calls == [1]
