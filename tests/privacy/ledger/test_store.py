"""Tampering, crashes and concurrency, each against a real file and real processes."""

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import sqlite3
import time

import pytest

from privacy import Budget, BudgetExceeded, Ledger, LedgerCorrupt, Release, Slot
from privacy.errors import LedgerError
from privacy.ledger.records import Record, chain_hash, check_chain

RELEASE = Release("delta", clip_norm=1.0, sensitivity=1.0, noise_std=20.0)


def make(path, count):
    slots = [Slot("training", 0.001, 20.0, count)]
    return Ledger.create(path, Budget(8.0, 1e-5), population=100_000, slots=slots)


def reserve(ledger, cohort_id, round=0):
    return ledger.reserve(
        purpose="training",
        sampling_rate=0.001,
        releases=[RELEASE],
        run_id="run",
        round=round,
        cohort_id=cohort_id,
    )


def left(ledger):
    slots = ledger.remaining("training").slots
    return slots[0].count if slots else 0


@pytest.fixture
def path(tmp_path):
    with make(tmp_path / "ledger.db", 50) as ledger:
        for step in range(6):
            draw = reserve(ledger, f"cohort {step}", step)
            draw.open()
            draw.commit("00")
    return tmp_path / "ledger.db"


def tamper(path, *statements):
    """Edits a file as someone with full access to it would."""
    connection = sqlite3.connect(path)
    for trigger in ("changed", "deleted"):
        connection.execute(f"DROP TRIGGER records_are_never_{trigger}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def verify(path):
    with Ledger.open(path) as ledger:
        ledger.verify()


# Tampering. Records of round k are 2 + 3k (reserve), 3 + 3k (open) and 4 + 3k (commit).


def test_an_untouched_ledger_verifies(path):
    verify(path)


@pytest.mark.parametrize("seq", [0, 1, 2, 7, 19])
@pytest.mark.parametrize("column", ["kind", "prev", "text", "hash"])
def test_a_changed_record_is_named(path, seq, column):
    tamper(
        path,
        f"UPDATE records SET {column} = substr({column}, 1, 3) || 'x' || substr({column}, 5)"
        f" WHERE seq = {seq}",
    )
    with pytest.raises(LedgerCorrupt) as caught:
        verify(path)
    assert caught.value.record == seq


@pytest.mark.parametrize("seq", [1, 2, 7, 18])
def test_a_deleted_record_is_named(path, seq):
    tamper(path, f"DELETE FROM records WHERE seq = {seq}")
    with pytest.raises(LedgerCorrupt, match=f"record {seq} is bad: it is missing") as caught:
        verify(path)
    assert caught.value.record == seq


def test_two_swapped_records_are_named(path):
    tamper(
        path,
        "UPDATE records SET seq = -1 WHERE seq = 5",
        "UPDATE records SET seq = 5 WHERE seq = 8",
        "UPDATE records SET seq = 8 WHERE seq = -1",
    )
    with pytest.raises(LedgerCorrupt, match="record 5 is bad") as caught:
        verify(path)
    assert caught.value.record == 5


@pytest.mark.parametrize("kept", [2, 5, 18])
def test_records_cut_off_the_end_are_missed_by_the_totals(path, kept):
    tamper(path, f"DELETE FROM records WHERE seq >= {kept}")
    with pytest.raises(LedgerCorrupt, match="cut off") as caught:
        verify(path)
    assert caught.value.record == kept


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE slots SET spent = spent - 1",
        "UPDATE slots SET declared = declared + 1",
        "UPDATE slots SET z = z / 2",
        "UPDATE reservations SET state = 'reserved' WHERE seq = 2",
        "DELETE FROM reservations WHERE seq = 2",
        "INSERT INTO filters VALUES ('total', 'gdp', 100, 0)",
    ],
)
def test_altered_totals_are_found(path, statement):
    tamper(path, statement)
    with pytest.raises(LedgerCorrupt, match="follow from"):
        verify(path)


def test_one_flipped_byte_anywhere_in_a_record_is_found(path):
    original = path.read_bytes()
    seed = random.Random(7)
    start = original.index(b'"cohort_id":"cohort 3"')
    for offset in seed.sample(range(start, start + 400), 25):
        changed = bytearray(original)
        changed[offset] ^= 1 << seed.randrange(7)
        path.write_bytes(changed)
        with pytest.raises(LedgerCorrupt):
            verify(path)
    path.write_bytes(original)
    verify(path)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_found(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(LedgerCorrupt):
        verify(path)


@pytest.mark.parametrize("statement", ["UPDATE records SET kind = 'void'", "DELETE FROM records"])
def test_records_cannot_be_changed_by_accident(path, statement):
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()


def test_the_tables_themselves_refuse_to_overspend(path):
    connection = sqlite3.connect(path)
    for change in ("spent = declared + 1", "spent = -1"):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(f"UPDATE slots SET {change}")
    connection.close()


def rehashed(path, seq, prev=None):
    """Changes record seq and gives it a hash of its own that fits."""
    with Ledger.open(path) as ledger:
        record = ledger.store.get(seq)
    text = re.sub(r'"time":[0-9.]+', '"time":2.5', record.text)
    value = chain_hash(seq, record.kind, prev or record.prev, text)
    tamper(path, f"UPDATE records SET text = '{text}', hash = '{value}' WHERE seq = {seq}")
    return value


def test_a_record_with_a_new_hash_of_its_own_breaks_the_chain_behind_it(path):
    rehashed(path, 6)
    with pytest.raises(LedgerCorrupt, match="record 7 is bad: it does not continue") as caught:
        verify(path)
    assert caught.value.record == 7


def test_a_new_hash_cannot_be_hidden_by_a_new_link(path):
    value = rehashed(path, 6)
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE records SET prev = '{value}' WHERE seq = 7")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerCorrupt, match="record 7 is bad: its content") as caught:
        verify(path)
    assert caught.value.record == 7


def test_the_chain_is_the_documented_one(path):
    """Computed here from the bytes, for whoever verifies an export in another language."""
    with Ledger.open(path) as ledger:
        for record in ledger.entries():
            message = b"secfad ledger 1\0" + record.seq.to_bytes(8, "big")
            for part in (record.kind, record.prev, record.text):
                message += len(part.encode()).to_bytes(8, "big") + part.encode()
            assert hashlib.sha256(message).hexdigest() == record.hash


def test_the_hash_covers_every_part_with_its_length():
    first = Record.after(None, "genesis", {})
    moved = Record(0, "genesi", first.prev, "s" + first.text, first.hash)
    with pytest.raises(LedgerCorrupt, match="record 0 is bad"):
        list(check_chain([moved]))


def test_a_ledger_is_durable_without_a_write_ahead_log(path):
    with Ledger.open(path) as ledger:
        connection = ledger.store.reader()
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# Processes.


def in_child(work):
    """Runs work in a forked process; returns its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def exit_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_ledger_carried_through_a_fork_refuses_to_work(path):
    with Ledger.open(path) as ledger:

        def work():
            with pytest.raises(LedgerError, match="in each process"):
                reserve(ledger, "child")

        assert exit_of(in_child(work)) == 0


def race(path, processes, tries, cap):
    make(path, cap).close()

    def work(number):
        with Ledger.open(path) as ledger:
            for step in range(tries):
                with contextlib.suppress(BudgetExceeded):
                    reserve(ledger, f"{number}-{step}", step)

    children = [in_child(lambda number=number: work(number)) for number in range(processes)]
    assert [exit_of(child) for child in children] == [0] * processes
    with Ledger.open(path) as ledger:
        ledger.verify()
        assert len(ledger.find("run")) == cap
        assert left(ledger) == 0


def test_eight_processes_are_granted_exactly_the_cap(tmp_path):
    race(tmp_path / "ledger.db", 8, 40, 200)


@pytest.mark.slow
def test_eight_processes_of_five_hundred_charges_are_granted_exactly_the_cap(tmp_path):
    race(tmp_path / "ledger.db", 8, 500, 2000)


def charge_and_report(path, report, prepare=lambda ledger: None):
    """Charges for ever, writing each step to `report` once it has returned."""
    with Ledger.open(path) as ledger:
        prepare(ledger)
        step = 0
        while True:
            name = f"{os.getpid()}-{step}"
            draw = reserve(ledger, name)
            os.write(report, f"reserved {name}\n".encode())
            draw.open()
            os.write(report, f"open {name}\n".encode())
            draw.commit("00")
            os.write(report, f"committed {name}\n".encode())
            step += 1


def check_after_kill(path, reports, count):
    """What returned before the kill is on disk, and what is on disk is spent."""
    order = ["reserved", "open", "committed"]
    with Ledger.open(path) as ledger:
        ledger.verify()
        found = {draw.cohort_id: draw.state for draw in ledger.find("run")}
        for line in reports.splitlines():
            state, name = line.split()
            assert order.index(found[name]) >= order.index(state)
        assert left(ledger) == count - len(found)
        return len(found)


def kill_during_charges(path, count, child_work, delay):
    read, write = os.pipe()
    child = in_child(lambda: child_work(write))
    os.close(write)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    assert exit_of(child) == -signal.SIGKILL
    with os.fdopen(read) as reports:
        return check_after_kill(path, reports.read(), count)


def statements_of_a_charge(path):
    with Ledger.open(path) as ledger:
        seen = []
        ledger.store.reader().set_trace_callback(seen.append)
        draw = reserve(ledger, "traced")
        draw.open()
        draw.commit("00")
        return len(seen)


def test_a_kill_before_any_statement_of_a_charge_loses_nothing_and_refunds_nothing(tmp_path):
    make(tmp_path / "original.db", 1000).close()
    shutil.copy(tmp_path / "original.db", tmp_path / "traced.db")
    statements = statements_of_a_charge(tmp_path / "traced.db")
    assert statements >= 15
    for number in range(1, statements + 1):
        path = tmp_path / f"{number}.db"
        shutil.copy(tmp_path / "original.db", path)

        def work(write, path=path, number=number):
            remaining = iter(range(number - 1, -1, -1))

            def kill_at_zero(statement):
                del statement
                if next(remaining) == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            def prepare(ledger):
                ledger.store.reader().set_trace_callback(kill_at_zero)

            charge_and_report(path, write, prepare)

        assert kill_during_charges(path, 1000, work, None) <= 1


def random_kills(path, kills, seed):
    count = 1_000_000
    make(path, count).close()
    delays, total = random.Random(seed), 0
    for _ in range(kills):
        delay = delays.uniform(0.0, 0.06)
        total = kill_during_charges(
            path, count, lambda write: charge_and_report(path, write), delay
        )
    return total


def test_random_kills_lose_nothing_and_refund_nothing(tmp_path):
    assert random_kills(tmp_path / "ledger.db", 15, seed=1) > 0


@pytest.mark.slow
def test_two_hundred_random_kills_lose_nothing_and_refund_nothing(tmp_path):
    assert random_kills(tmp_path / "ledger.db", 200, seed=2) > 100


class _Interrupted:
    """A connection in which Ctrl-C comes as a transaction has begun."""

    def __init__(self, connection):
        self._connection = connection

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, statement, *values):
        result = self._connection.execute(statement, *values)
        if statement.startswith("BEGIN"):
            raise KeyboardInterrupt
        return result


def test_an_interrupt_leaves_no_transaction_open(path):
    with Ledger.open(path) as ledger:
        store = ledger.store
        connection, store._connection = store._connection, _Interrupted(store._connection)
        with pytest.raises(KeyboardInterrupt), store.transaction():
            pass
        assert not connection.in_transaction
