"""Secrets are shared, recovered and repaired exactly: K4 of docs/secagg-spec.md."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secagg import SecureStream
from secagg.crypto import field, shamir
from secagg.crypto.field import PRIME


@pytest.mark.parametrize(("threshold", "holders"), [(1, 3), (2, 4), (3, 5), (4, 6), (5, 5)])
def test_k4_every_subset_of_t_shares_gives_the_secret(threshold, holders):
    secrets = np.array([[0, 1, PRIME - 1, 2**30]])
    shares = shamir.split(
        secrets, threshold=threshold, holders=holders, stream=SecureStream(bytes(16))
    )
    for points in itertools.combinations(range(1, holders + 1), threshold):
        rows = shares[:, [p - 1 for p in points]]
        found, agree = shamir.combine(points, rows, threshold)
        assert (found == secrets).all()
        assert agree.all()


@pytest.mark.parametrize("secret", [0, PRIME - 1])
def test_k4_t_less_one_shares_are_uniform(secret):
    """Chi-square of both shares that two colluders hold, over 64 cells; false alarm 1e-6."""
    draws = 40_000
    secrets = np.full((draws, 1), secret)
    shares = shamir.split(secrets, threshold=3, holders=3, stream=SecureStream(b"0123456789abcdef"))
    cells = (shares[:, :2, 0] * 8 // PRIME) @ np.array([8, 1])
    assert stats.chisquare(np.bincount(cells, minlength=64)).pvalue > 1e-6


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_k4_matrix_products_are_exact(data):
    edge = st.sampled_from([0, 1, 2, 0xFFFF, 0x10000, PRIME - 1, PRIME - 2])
    element = st.one_of(edge, st.integers(0, PRIME - 1))
    rows, inner, columns = (data.draw(st.integers(1, 4)) for _ in range(3))
    left = data.draw(st.lists(element, min_size=rows * inner, max_size=rows * inner))
    right = data.draw(st.lists(element, min_size=inner * columns, max_size=inner * columns))
    a, b = np.array(left).reshape(rows, inner), np.array(right).reshape(inner, columns)
    exact = a.astype(object) @ b.astype(object) % PRIME
    assert (field.matmul(a, b) == exact).all()


def test_k4_matrix_products_are_exact_at_the_greatest_inner_dimension():
    inner = 1 << 16
    a = np.full((1, inner), PRIME - 1)
    assert field.matmul(a, a.T)[0, 0] == inner % PRIME


@pytest.mark.parametrize("size", [1, 15, 16, 32])
def test_k4_bytes_survive_the_field(size):
    raw = SecureStream(bytes(16)).uint32((9, size)).astype(np.uint8)
    raw[0], raw[1] = 0, 255
    assert field.to_bytes(field.from_bytes(raw), size) == [row.tobytes() for row in raw]
    too_big = np.full((1, field.elements(size)), PRIME - 1)
    assert field.to_bytes(too_big, size) == [None]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(0, 6), st.data())
def test_k4_wrong_shares_are_repaired_up_to_half_the_surplus(threshold, surplus, data):
    holders = threshold + surplus
    secret = np.array([5, 6, 7])
    shares = shamir.split(
        secret[None], threshold=threshold, holders=holders, stream=SecureStream(bytes(16))
    )[0]
    wrong = data.draw(st.sets(st.integers(1, holders), max_size=surplus // 2))
    for point in wrong:
        shares[point - 1] = data.draw(
            st.lists(st.integers(0, PRIME - 1), min_size=3, max_size=3).map(np.array)
        )
    wrong = set(wrong)
    found = shamir.recover(
        dict(enumerate(shares, 1)), threshold, lambda s: bool((s == secret).all())
    )
    assert (found.secret == secret).all()
    assert set(found.wrong) <= wrong


def test_k4_many_wrong_shares_of_a_large_sharing_are_repaired():
    secret = np.array([5, 6, 7])
    shares = shamir.split(secret[None], threshold=51, holders=100, stream=SecureStream())[0]
    wrong = tuple(range(1, 49, 2))
    for point in wrong:
        shares[point - 1] = (shares[point - 1] + point) % PRIME
    found = shamir.recover(dict(enumerate(shares, 1)), 51, lambda s: bool((s == secret).all()))
    assert found.wrong == wrong
