"""Files that were damaged, disks that are full, clocks that give no number: typed errors or equal content.

Damage is random flips of bits and cuts, with a fixed seed: a few hundred files by default, thousands among
the slow tests.
"""

import contextlib
import errno
import random
from decimal import Decimal

import jax.numpy as jnp
import numpy as np
import pytest
from ledgers import finish, reserve

from privacy import Budget, Ledger, Slot
from privacy.errors import (
    InvalidEvent,
    LedgerError,
    LedgerUnavailable,
    PrivacyError,
    ResumeRefused,
    StorageFailed,
)
from privacy.execution.releases import Released, ReleaseJournal, ReleaseKey
from privacy.ledger.export import export_ledger, import_ledger
from privacy.training.checkpoints import Checkpoint, CheckpointFile
from privacy.training.metrics import MetricsFile

KEY = ReleaseKey("1d", "ab" * 32, "0e" * 32, "ef" * 32)
RELEASED = Released.of([[np.arange(6.0), np.float32(2)], [np.ones((2, 3), np.int64)]])
STATE = {"model": jnp.arange(5.0), "count": jnp.int32(3)}


def damaged(content, rng):
    if rng.random() < 0.15:
        return content[: rng.randrange(len(content))]
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def make(path, **more):
    slots = [Slot("training", 1.0, 9.0, 6)]
    budget = Budget(9.0, 1e-5)
    purposes = {"training": Budget(5, 1e-6), "evaluation": Budget(3, 1e-6)}
    unplanned = {"evaluation": "rdp@8"}
    return Ledger.create(
        path, budget, population=50, slots=slots, purposes=purposes, unplanned=unplanned, **more
    )


def spend(ledger, round, purpose="training"):
    return reserve(ledger, purpose=purpose, q=1.0, z=9.0, round=round)


@pytest.fixture
def ledger(tmp_path):
    with make(tmp_path / "l.db") as made:
        finish(spend(made, 0))
        spend(made, 1).void()
        spend(made, 2).open()
        finish(spend(made, 3, "evaluation"))
        yield made


def content(ledger):
    states = [(draw.seq, draw.state, draw.digest) for draw in ledger.find("run")]
    return [record.hash for record in ledger.entries()], states, ledger.remaining("training").slots


def check_ledgers(ledger, tmp_path, count, seed):
    original, honest = ledger.store.path.read_bytes(), content(ledger)
    path, rng, found = tmp_path / "damaged.db", random.Random(seed), 0
    for _ in range(count):
        path.write_bytes(damaged(original, rng))
        try:
            with Ledger.open(path) as opened:
                opened.verify()
                assert content(opened) == honest
        except LedgerError:
            found += 1
        with contextlib.suppress(PrivacyError), Ledger.open(path) as opened:  # without verify
            finish(spend(opened, 9))
            content(opened), opened.spent(), opened.remaining("evaluation")
    return found


def test_a_damaged_ledger_is_refused_or_equal(ledger, tmp_path):
    assert check_ledgers(ledger, tmp_path, 30, 1) > 5


@pytest.mark.slow
def test_thousands_of_damaged_ledgers(ledger, tmp_path):
    check_ledgers(ledger, tmp_path, 1500, 2)


def check_exports(ledger, tmp_path, count, seed):
    export_ledger(ledger, tmp_path / "l.jsonl")
    original, rng = (tmp_path / "l.jsonl").read_bytes(), random.Random(seed)
    for number in range(count):
        (tmp_path / "d.jsonl").write_bytes(damaged(original, rng))
        with (
            contextlib.suppress(PrivacyError),
            import_ledger(
                tmp_path / "d.jsonl", tmp_path / f"{number}.db", head=ledger.head
            ) as copy,
        ):
            assert content(copy) == content(ledger)


def test_a_damaged_export_is_refused_or_equal(ledger, tmp_path):
    check_exports(ledger, tmp_path, 40, 3)


@pytest.mark.slow
def test_many_damaged_exports(ledger, tmp_path):
    check_exports(ledger, tmp_path, 500, 4)


def check_journals(folder, count, seed):
    journal = ReleaseJournal(folder)
    journal.write(3, RELEASED, KEY)
    file, rng = folder / "release-00000003.npz", random.Random(seed)
    original, found = file.read_bytes(), 0
    for _ in range(count):
        file.write_bytes(damaged(original, rng))
        try:
            read = journal.read(3, KEY)
        except PrivacyError:
            found += 1
        else:
            assert read is not None
            assert read.digest == RELEASED.digest
    return found


def test_a_damaged_journal_is_refused_or_equal(tmp_path):
    assert check_journals(tmp_path, 300, 5) > 100


@pytest.mark.slow
def test_thousands_of_damaged_journals(tmp_path):
    check_journals(tmp_path, 10_000, 6)


def check_checkpoints(ledger, folder, count, seed):
    checkpoint = Checkpoint("run", 4, STATE, ledger.head, "why", "ab" * 32, "cd" * 32)
    file, rng, found = CheckpointFile(folder / "c.npz"), random.Random(seed), 0
    file.write(checkpoint)
    original = file.path.read_bytes()
    for _ in range(count):
        file.path.write_bytes(damaged(original, rng))
        try:
            read = file.read(like=STATE, ledger=ledger, run_id="run")
        except PrivacyError:
            found += 1
        else:
            assert (read.round, read.stopped, read.metrics) == (4, "why", "cd" * 32)
            for name, leaf in STATE.items():
                np.testing.assert_array_equal(read.state[name], leaf)
    return found


def test_a_damaged_checkpoint_is_refused_or_equal(ledger, tmp_path):
    assert check_checkpoints(ledger, tmp_path, 300, 7) > 100


@pytest.mark.slow
def test_thousands_of_damaged_checkpoints(ledger, tmp_path):
    check_checkpoints(ledger, tmp_path, 10_000, 8)


def test_damaged_metrics_are_refused_or_equal(tmp_path):
    file, rng, found = MetricsFile(tmp_path / "m.jsonl"), random.Random(9), 0
    for round in range(4):
        file.append({"round": round, "loss": 1.5 * round, "releases": {}})
    lines, digest, original = file.read(), file.digest(), file.path.read_bytes()
    for _ in range(300):
        file.path.write_bytes(damaged(original, rng))
        file.read()
        try:
            file.keep(3, digest)
        except ResumeRefused:
            found += 1
        else:
            assert file.read() == lines
    assert found > 100


# Disks.


def pages(ledger):
    return ledger.store.reader().execute("PRAGMA page_count").fetchone()[0]


def test_a_full_disk_refuses_a_step_and_loses_nothing(tmp_path):
    slots = [Slot("training", 1.0, 90.0, 400)]
    with Ledger.create(tmp_path / "l.db", Budget(9.0, 1e-5), population=50, slots=slots) as ledger:
        done = []
        ledger.store.reader().execute(f"PRAGMA max_page_count = {pages(ledger) + 2}")
        charges = (reserve(ledger, q=1.0, z=90.0, round=round) for round in range(400))
        with pytest.raises(LedgerUnavailable, match=r"l\.db, got: .*full.*make room"):
            done.extend(charges)
        assert [draw.seq for draw in ledger.find("run")] == [draw.seq for draw in done]
        ledger.store.reader().execute("PRAGMA max_page_count = 100000")
        done.append(reserve(ledger, q=1.0, z=90.0, round=len(done)))
        ledger.verify()
        assert ledger.remaining("training").slots[0].count == 400 - len(done)
        assert len(ledger.find("run")) == len(done)


def test_a_file_that_cannot_be_written_is_unavailable_and_can_be_read(ledger):
    before = content(ledger)
    ledger.store.reader().execute("PRAGMA query_only = ON")
    with pytest.raises(LedgerUnavailable, match="check permissions"):
        spend(ledger, 5)
    assert content(ledger) == before
    ledger.store.reader().execute("PRAGMA query_only = OFF")
    finish(spend(ledger, 5))


def test_a_ledger_in_no_folder_is_unavailable(tmp_path):
    with pytest.raises(LedgerUnavailable, match="Check the folder"):
        make(tmp_path / "none" / "l.db")


def test_an_export_from_or_to_nowhere_is_unavailable(ledger, tmp_path):
    with pytest.raises(LedgerUnavailable, match="Check the folder"):
        export_ledger(ledger, tmp_path / "none" / "l.jsonl")
    with pytest.raises(LedgerUnavailable, match="Check the folder"):
        import_ledger(tmp_path / "none.jsonl", tmp_path / "i.db")
    assert not (tmp_path / "i.db").exists()


def test_a_closed_ledger_says_so(tmp_path):
    ledger = make(tmp_path / "l.db")
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.spent()


@pytest.fixture
def full_disk(monkeypatch):
    def fsync(descriptor):
        del descriptor
        raise OSError(errno.ENOSPC, "No space left on device")

    @contextlib.contextmanager
    def full():
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", fsync)
            yield

    return full


def test_a_full_disk_leaves_the_files_of_a_run_as_they_were(tmp_path, ledger, full_disk):
    metrics, journal = MetricsFile(tmp_path / "m.jsonl"), ReleaseJournal(tmp_path / "j")
    file = CheckpointFile(tmp_path / "c.npz")
    metrics.append({"round": 0})
    for write in (
        lambda: metrics.append({"round": 1}),
        lambda: journal.write(3, RELEASED, KEY),
        lambda: file.write(Checkpoint("run", 4, STATE, ledger.head)),
    ):
        with full_disk(), pytest.raises(StorageFailed, match="Make room on the disk"):
            write()
    assert metrics.read() == [{"round": 0}]
    assert journal.read(3, KEY) is None
    assert file.read(like=STATE, ledger=ledger, run_id="run") is None
    assert [entry.name for entry in tmp_path.rglob(".*")] == []
    metrics.append({"round": 1})
    assert [line["round"] for line in metrics.read()] == [0, 1]


# Clocks and names.


@pytest.mark.parametrize("time", [float("nan"), float("inf"), "x", None, 10**400, True, Decimal(3)])
def test_a_clock_that_gives_no_number_is_refused(ledger, tmp_path, time):
    with pytest.raises(InvalidEvent, match=r"clock\(\)"):
        make(tmp_path / "bad.db", clock=lambda: time)
    assert not (tmp_path / "bad.db").exists()
    draw, head = spend(ledger, 5), ledger.head
    with Ledger.open(ledger.store.path, clock=lambda: time) as bad:
        for step in (
            lambda: spend(bad, 6),
            lambda: bad.declare([Slot("training", 1.0, 99.0, 1)], data_independent=True),
            bad.find("run", draw.round)[0].open,
            bad.find("run", draw.round)[0].void,
        ):
            with pytest.raises(InvalidEvent, match=r"clock\(\)"):
                step()
    assert ledger.head == head


def test_a_name_that_cannot_be_written_is_refused(ledger):
    with pytest.raises(InvalidEvent, match="a run_id"):
        reserve(ledger, q=1.0, z=9.0, run_id="\ud800")
