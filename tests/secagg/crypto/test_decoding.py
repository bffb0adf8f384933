"""Wrong shares of many owners at once: found, mended and named, at a cost that liars cannot raise."""

import itertools

import numpy as np
import pytest

from secagg import SecureStream
from secagg.crypto import decoding, field, shamir
from secagg.crypto.field import PRIME

WIDTH = 5


def shared(owners, threshold, holders, seed=0):
    """Secrets and their shares, [owners, holders, WIDTH]."""
    rng = np.random.default_rng(seed)
    secrets = rng.integers(0, PRIME, (owners, WIDTH))
    stream = SecureStream(seed.to_bytes(16, "little"))
    return secrets, shamir.split(secrets, threshold=threshold, holders=holders, stream=stream)


def recover(points, table, threshold, secrets):
    """What is found, with the secrets as the commitments."""
    check = lambda row, secret: bool((secret == secrets[row]).all())
    return list(shamir.recover_all(points, table, threshold, check))


def no_liars(secrets, shares, reach, rng):
    return np.zeros(shares.shape[:2], bool), shares


def one_liar_about_all(secrets, shares, reach, rng):
    wrong = np.zeros(shares.shape[:2], bool)
    wrong[:, rng.integers(shares.shape[1])] = True
    return wrong, (shares + wrong[..., None]) % PRIME


def most_liars_about_all(secrets, shares, reach, rng):
    wrong = np.zeros(shares.shape[:2], bool)
    wrong[:, rng.choice(shares.shape[1], reach, replace=False)] = True
    return wrong, np.where(wrong[..., None], rng.integers(0, PRIME, shares.shape), shares)


def other_liars_for_every_owner(secrets, shares, reach, rng):
    wrong = np.zeros(shares.shape[:2], bool)
    for row in wrong:
        row[rng.choice(len(row), rng.integers(reach + 1), replace=False)] = True
    return wrong, np.where(wrong[..., None], (shares * 3 + 1) % PRIME, shares)


def one_element_only(secrets, shares, reach, rng):
    wrong = np.zeros(shares.shape[:2], bool)
    for row in wrong:
        row[rng.choice(len(row), reach, replace=False)] = True
    changed = shares.copy()
    changed[..., 2] = np.where(wrong, changed[..., 2] ^ 1, changed[..., 2]) % PRIME
    return (changed != shares).any(axis=2), changed


def a_common_wrong_polynomial(secrets, shares, reach, rng):
    owners, holders, width = shares.shape
    other = rng.integers(0, PRIME, (owners, 2, width))
    wrong = np.zeros((owners, holders), bool)
    wrong[:, rng.choice(holders, reach, replace=False)] = True
    told = np.where(wrong[..., None], shamir.evaluate(other, holders), shares)
    return (told != shares).any(axis=2), told


LIES = [
    no_liars,
    one_liar_about_all,
    most_liars_about_all,
    other_liars_for_every_owner,
    one_element_only,
    a_common_wrong_polynomial,
]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(
    ("threshold", "holders"), [(2, 4), (3, 9), (4, 4), (6, 7), (7, 12), (21, 40)]
)
def test_liars_up_to_half_the_surplus_are_named_and_the_secrets_are_right(threshold, holders, lie):
    rng = np.random.default_rng(holders)
    for seed in range(5):
        secrets, shares = shared(12, threshold, holders, seed)
        points = tuple(range(1, holders + 1))
        wrong, told = lie(secrets, shares, (holders - threshold) // 2, rng)
        if lie is one_liar_about_all and holders == threshold:
            continue
        for row, found in enumerate(recover(points, told, threshold, secrets)):
            assert (found.secret == secrets[row]).all()
            assert found.wrong == tuple(np.flatnonzero(wrong[row]) + 1)


def test_points_need_not_be_consecutive():
    secrets, shares = shared(4, 3, 20)
    kept = [2, 5, 6, 11, 12, 17, 19]
    told = shares[:, [p - 1 for p in kept]].copy()
    told[:, 1] += 1
    told[:, 6] += 1
    found = recover(tuple(kept), told % PRIME, 3, secrets)
    assert [f.wrong for f in found] == [(5, 19)] * 4


def test_every_pattern_of_errors_of_a_small_code_is_judged_as_by_trying_all_polynomials():
    """Oracle: all choices of t shares; a word is mended if one polynomial is within the reach."""
    threshold, holders = 2, 6
    rng = np.random.default_rng(1)
    _, shares = shared(1, threshold, holders, 1)
    points = tuple(range(1, holders + 1))
    for size in range(holders + 1):
        for places in itertools.combinations(range(holders), size):
            word = shares.copy()
            word[0, list(places)] = rng.integers(0, PRIME, (size, WIDTH))
            near = None
            for kept in itertools.combinations(range(holders), threshold):
                whole = field.matmul(
                    field.lagrange(np.array(kept) + 1, np.setdiff1d(points, np.array(kept) + 1)),
                    word[0, list(kept)],
                )
                full = word[0].copy()
                full[np.setdiff1d(range(holders), kept)] = whole
                if (full != word[0]).any(axis=1).sum() <= 2:
                    near = full
            mended, found = decoding.mend(points, word, threshold)
            assert found[0] == (near is not None)
            assert (mended[0] == (word[0] if near is None else near)).all()


def test_an_owner_beyond_repair_does_not_spoil_the_others():
    secrets, shares = shared(6, 5, 15)
    told = shares.copy()
    told[2] = np.random.default_rng(0).integers(0, PRIME, told[2].shape)
    told[4, :5] += 1
    found = recover(tuple(range(1, 16)), told % PRIME, 5, secrets)
    assert found[2].secret is None
    assert found[2].wrong == ()
    assert found[4].wrong == (1, 2, 3, 4, 5)
    assert all((found[i].secret == secrets[i]).all() for i in (0, 1, 3, 4, 5))


def test_a_majority_of_liars_with_a_polynomial_of_their_own_cannot_frame_the_honest():
    secrets, shares = shared(3, 20, 40)
    other = np.random.default_rng(2).integers(0, PRIME, (3, 20, WIDTH))
    told = shamir.evaluate(other, 40)
    told[:, :9] = shares[:, :9]
    for found in recover(tuple(range(1, 41)), told, 20, secrets):
        assert found.secret is None
        assert found.wrong == ()


def test_liars_who_know_the_secret_are_not_believed_about_the_honest():
    """Their polynomial has the right secret, so the check accepts it, but no majority is theirs."""
    secrets, shares = shared(1, 4, 9)
    other = np.random.default_rng(3).integers(0, PRIME, (1, 4, WIDTH))
    other[:, 0] = secrets
    told = shamir.evaluate(other, 9)
    honest = [1, 4, 6, 8]
    told[:, honest] = shares[:, honest]
    (found,) = recover(tuple(range(1, 10)), told, 4, secrets)
    assert (found.secret == secrets[0]).all()
    assert set(found.wrong) <= set(range(1, 10)) - {p + 1 for p in honest}


@pytest.mark.parametrize(("threshold", "holders", "liars"), [(4, 7, 2), (5, 6, 1), (3, 8, 3)])
def test_an_odd_surplus_names_one_more_than_decoding_reaches(threshold, holders, liars):
    """The committed secret is one more share that is right: ⌊(m - t + 1)/2⌋ are named."""
    secrets, shares = shared(1, threshold, holders)
    for places in itertools.combinations(range(holders), liars):
        told = shares.copy()
        told[:, list(places)] += 1
        (found,) = recover(tuple(range(1, holders + 1)), told % PRIME, threshold, secrets)
        assert (found.secret == secrets[0]).all()
        assert found.wrong == tuple(p + 1 for p in places)


def test_shortest_recurrences_are_those_of_an_independent_solver():
    """Oracle: least length whose linear system has a solution, by elimination over the field."""
    rng = np.random.default_rng(4)
    sequences = rng.integers(0, 5, (60, 8))
    coefficients, lengths = decoding.shortest_recurrences(sequences, 8)
    for row, taps, length in zip(sequences.tolist(), coefficients.tolist(), lengths.tolist()):
        for term in range(length, 8):
            assert sum(taps[i] * row[term - i] for i in range(length + 1)) % PRIME == 0
        assert length == 0 or not solvable(row, length - 1)


def solvable(row, length):
    """Whether some recurrence of this length gives the sequence."""
    system = [[*row[term - length : term][::-1], -row[term]] for term in range(length, len(row))]
    pivots = 0
    for column in range(length):
        pick = next((i for i in range(pivots, len(system)) if system[i][column] % PRIME), None)
        if pick is None:
            continue
        system[pivots], system[pick] = system[pick], system[pivots]
        scale = pow(system[pivots][column], -1, PRIME)
        system[pivots] = [v * scale % PRIME for v in system[pivots]]
        for i, other in enumerate(system):
            if i != pivots:
                factor = other[column]
                system[i] = [(a - factor * b) % PRIME for a, b in zip(other, system[pivots])]
        pivots += 1
    return all(line[-1] % PRIME == 0 for line in system[pivots:])


class Work:
    """Multiplications of matrix products, steps of the decoder, and checks."""

    def __init__(self, monkeypatch):
        self.products = self.steps = self.checks = 0
        matmul, recurrences = field.matmul, decoding.shortest_recurrences

        def counted(left, right):
            self.products += left.size * right.shape[1]
            return matmul(left, right)

        def stepped(sequences, reach):
            self.steps += sequences.shape[0] * sequences.shape[1] * reach
            return recurrences(sequences, reach)

        monkeypatch.setattr(field, "matmul", counted)
        monkeypatch.setattr(decoding, "shortest_recurrences", stepped)

    def recover(self, points, told, threshold, secrets):
        def check(row, secret):
            self.checks += 1
            return bool((secret == secrets[row]).all())

        return list(shamir.recover_all(points, told, threshold, check))


@pytest.mark.parametrize("lie", LIES[1:])
def test_no_choice_of_liars_costs_more_than_a_fixed_multiple_of_an_honest_round(lie, monkeypatch):
    owners, threshold, holders = 60, 31, 60
    secrets, shares = shared(owners, threshold, holders)
    points = tuple(range(1, holders + 1))
    honest = Work(monkeypatch)
    honest.recover(points, shares, threshold, secrets)
    _, told = lie(secrets, shares, (holders - threshold) // 2, np.random.default_rng(0))
    work = Work(monkeypatch)
    work.recover(points, told, threshold, secrets)
    assert work.products <= 8 * honest.products
    assert work.steps <= owners * holders * holders
    assert work.checks <= 2 * owners


@pytest.mark.parametrize("surplus", [0, 1, 2, 30])
def test_what_cannot_be_repaired_is_given_up_after_few_tries(surplus, monkeypatch):
    threshold = 40
    holders = threshold + surplus
    secrets, shares = shared(5, threshold, holders)
    told = np.random.default_rng(5).integers(0, PRIME, shares.shape)
    work = Work(monkeypatch)
    found = work.recover(tuple(range(1, holders + 1)), told, threshold, secrets)
    assert all(f.secret is None for f in found)
    assert work.checks <= 5 * (shamir.EXHAUSTIVE + 2)
