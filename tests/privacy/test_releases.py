"""A journalled release is what was released, or an error."""

import numpy as np
import pytest

from privacy.errors import JournalCorrupt, ResumeRefused
from privacy.releases import Released, ReleaseJournal

PROGRAM = "ab" * 32


@pytest.fixture
def released():
    return Released.of([[np.arange(3.0), np.array(2.5)], [np.ones((2, 2), np.float32)]])


def test_release_comes_back_bit_for_bit(tmp_path, released):
    ReleaseJournal(tmp_path).write(7, released, PROGRAM)
    again = ReleaseJournal(tmp_path).read(7, PROGRAM)
    assert again.digest == released.digest
    for a, b in zip(again.rounds, released.rounds):
        for x, y in zip(a, b):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def test_unwritten_release_is_none(tmp_path):
    assert ReleaseJournal(tmp_path).read(1, PROGRAM) is None


def test_partial_file_of_a_crash_is_no_release(tmp_path, released):
    journal = ReleaseJournal(tmp_path)
    journal.write(3, released, PROGRAM)
    (tmp_path / "release-00000003.npz").rename(tmp_path / "release-00000003.partial")
    assert journal.read(3, PROGRAM) is None


def test_any_flipped_byte_of_the_values_is_found(tmp_path, released):
    journal = ReleaseJournal(tmp_path)
    journal.write(3, released, PROGRAM)
    file = tmp_path / "release-00000003.npz"
    data = bytearray(file.read_bytes())
    position = data.index(np.arange(3.0).tobytes()) + 9
    data[position] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(JournalCorrupt, match="hash does not match"):
        journal.read(3, PROGRAM)


def test_truncated_file_is_found(tmp_path, released):
    journal = ReleaseJournal(tmp_path)
    journal.write(3, released, PROGRAM)
    file = tmp_path / "release-00000003.npz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(JournalCorrupt):
        journal.read(3, PROGRAM)


def test_digest_depends_on_shape_dtype_and_order(released):
    others = [
        [[np.arange(3.0), np.array([2.5])], [np.ones((2, 2), np.float32)]],
        [[np.arange(3.0), np.array(2.5)], [np.ones((2, 2), np.float64)]],
        [[np.array(2.5), np.arange(3.0)], [np.ones((2, 2), np.float32)]],
        [[np.arange(3.0), np.array(2.5), np.ones((2, 2), np.float32)]],
    ]
    digests = {Released.of(o).digest for o in others} | {released.digest}
    assert len(digests) == 5


def test_release_of_another_program_is_refused(tmp_path, released):
    journal = ReleaseJournal(tmp_path)
    journal.write(3, released, PROGRAM)
    with pytest.raises(ResumeRefused, match="use another run_id"):
        journal.read(3, "cd" * 32)
