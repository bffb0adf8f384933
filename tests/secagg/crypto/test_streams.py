import os

import numpy as np
import pytest
from scipy import stats

from secagg import SecureStream
from secagg.crypto.streams import BLOCK, as_stream


def test_a_seed_repeats_and_says_so():
    one, other = SecureStream(b"s" * 16), SecureStream(b"s" * 16)
    assert one.bytes(100) == other.bytes(100)
    assert one.deterministic
    assert not SecureStream().deterministic


def test_streams_without_a_seed_differ():
    assert SecureStream().bytes(32) != SecureStream().bytes(32)


def test_a_stream_is_one_sequence_however_it_is_read():
    whole = SecureStream(b"s" * 16).bytes(3 * BLOCK + 5)
    stream = SecureStream(b"s" * 16)
    assert stream.bytes(7) + stream.bytes(BLOCK) + stream.bytes(2 * BLOCK - 2) == whole


def test_covered_words_are_words_xor_the_stream():
    words = np.arange(1000, dtype="<u4")[::-2]
    covered = np.empty(500, dtype="<u4")
    SecureStream(b"s" * 16).cover(words, covered)
    assert (covered ^ words == SecureStream(b"s" * 16).uint32(500)).all()


@pytest.mark.parametrize("size", [0, 15])
def test_short_seeds_are_refused_and_name_the_length(size):
    with pytest.raises(ValueError, match=f"at least 16 bytes, got {size}"):
        SecureStream(bytes(size))


def test_uniform_is_below_one_and_has_53_bits():
    u = SecureStream(b"s" * 16).uniform((50, 2000))
    assert u.shape == (50, 2000)
    assert u.min() >= 0
    assert u.max() < 1
    assert (u * 2.0**53 == np.floor(u * 2.0**53)).all()
    assert (u * 2.0**52 != np.floor(u * 2.0**52)).any()
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-6


@pytest.mark.parametrize("method", ["uint32", "uint64"])
def test_words_are_uniform(method):
    words = getattr(SecureStream(b"s" * 16), method)(40_000)
    top = (words >> words.dtype.type(8 * words.itemsize - 6)).astype(int)
    assert stats.chisquare(np.bincount(top, minlength=64)).pvalue > 1e-6


def test_as_stream_takes_streams_callables_and_nothing():
    stream = SecureStream()
    assert as_stream(stream) is stream
    assert as_stream(os.urandom).deterministic
    assert not as_stream(None).deterministic
