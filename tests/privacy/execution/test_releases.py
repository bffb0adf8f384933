"""A journalled release is what was released, or an error."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from privacy.errors import JournalCorrupt, ResumeRefused
from privacy.execution.releases import Released, ReleaseJournal, ReleaseKey

KEY = ReleaseKey("1d", "ab" * 32, "0e" * 32, "ef" * 32)


@pytest.fixture
def released():
    return Released.of([[np.arange(3.0), np.array(2.5)], [np.ones((2, 2), np.float32)]])


def test_release_comes_back_bit_for_bit(tmp_path, released):
    ReleaseJournal(tmp_path).write(7, released, KEY)
    again = ReleaseJournal(tmp_path).read(7, KEY)
    assert again.digest == released.digest
    for a, b in zip(again.rounds, released.rounds):
        for x, y in zip(a, b):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def test_unwritten_release_is_none(tmp_path):
    assert ReleaseJournal(tmp_path).read(1, KEY) is None


def test_partial_file_of_a_crash_is_no_release(tmp_path, released):
    journal = ReleaseJournal(tmp_path)
    journal.write(3, released, KEY)
    (tmp_path / "release-00000003.npz").rename(tmp_path / "release-00000003.partial")
    assert journal.read(3, KEY) is None


def test_any_flipped_byte_of_the_values_is_found(tmp_path, released):
    journal = ReleaseJournal(tmp_path)
    journal.write(3, released, KEY)
    file = tmp_path / "release-00000003.npz"
    data = bytearray(file.read_bytes())
    position = data.index(np.arange(3.0).tobytes()) + 9
    data[position] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(JournalCorrupt, match="hash does not match"):
        journal.read(3, KEY)


def test_truncated_file_is_found(tmp_path, released):
    journal = ReleaseJournal(tmp_path)
    journal.write(3, released, KEY)
    file = tmp_path / "release-00000003.npz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(JournalCorrupt):
        journal.read(3, KEY)


def test_digest_depends_on_shape_dtype_and_order(released):
    others = [
        [[np.arange(3.0), np.array([2.5])], [np.ones((2, 2), np.float32)]],
        [[np.arange(3.0), np.array(2.5)], [np.ones((2, 2), np.float64)]],
        [[np.array(2.5), np.arange(3.0)], [np.ones((2, 2), np.float32)]],
        [[np.arange(3.0), np.array(2.5), np.ones((2, 2), np.float32)]],
    ]
    digests = {Released.of(o).digest for o in others} | {released.digest}
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("field", "advice"),
    [
        ("ledger", "a journal of its own"),
        ("program", "use another run_id"),
        ("mechanism", "use another run_id"),
        ("arguments", "not repeated with the state"),
    ],
)
def test_release_is_no_answer_to_another_question(tmp_path, released, field, advice):
    journal = ReleaseJournal(tmp_path)
    journal.write(3, released, KEY)
    with pytest.raises(ResumeRefused, match=f"present {field} .*{advice}"):
        journal.read(3, replace(KEY, **{field: "cd" * 32}))


def test_release_is_what_the_ledger_committed(tmp_path, released):
    journal = ReleaseJournal(tmp_path)
    journal.write(3, released, KEY)
    assert journal.read(3, KEY, committed=released.digest) is not None
    with pytest.raises(JournalCorrupt, match="what the ledger committed"):
        journal.read(3, KEY, committed="00" * 32)


def test_release_of_one_record_is_not_that_of_another(tmp_path, released):
    journal = ReleaseJournal(tmp_path)
    journal.write(3, released, KEY)
    (tmp_path / "release-00000003.npz").rename(tmp_path / "release-00000006.npz")
    with pytest.raises(JournalCorrupt):
        journal.read(6, KEY)


def test_a_release_is_never_overwritten(tmp_path, released):
    journal = ReleaseJournal(tmp_path)
    journal.write(3, released, KEY)
    before = (tmp_path / "release-00000003.npz").read_bytes()
    journal.write(3, released, KEY)  # the same again, as after a crash
    with pytest.raises(JournalCorrupt, match="an older copy"):
        journal.write(3, Released.of([[np.zeros(2)]]), KEY)
    assert (tmp_path / "release-00000003.npz").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["release-00000003.npz"]


def test_question_depends_on_server_values_and_not_on_client_data():
    @fad.computation(model=fad.SERVER, x=fad.CLIENTS)
    def distance(model, x):
        return fad.mean(fad.broadcast(model) - x, name="distance")

    program = fad.trace(distance, jnp.zeros(2), jnp.zeros(2))
    digests = {
        ReleaseKey.of(
            program, [jnp.array(model), jnp.array(data)], ledger="1d", mechanism={}
        ).arguments
        for model, data in (
            ([0.0, 1.0], [[1.0, 2.0]]),
            ([0.0, 1.0], [[3.0, 2.0]]),
            ([0.0, 1.0000001], [[1.0, 2.0]]),
            ([1.0, 0.0], [[1.0, 2.0]]),
        )
    }
    assert len(digests) == 3
