"""What a faulty or malicious client may share, send and do: C10 to C20 of docs/secagg-spec.md."""

import numpy as np
import pytest

from secagg import Client, EncodingError, LocalProtocolError, Parameters, simulate
from secagg.crypto.field import PRIME
from secagg.errors import InconsistentView, IntegrityError
from secagg.protocol.codec import HEADER
from secagg.protocol.messages import Disclosure, MaskedInput, Shares
from secagg.protocol.rounds import Phase
from secagg.simulation.faults import Delay, Tamper

ACTIVE = Parameters(clients=7, length=4, adversary="active")
PLAIN = Parameters(clients=7, length=4)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c[:-1] + bytes([c[-1] ^ 1]),
        lambda c: bytes([c[0] ^ 0x80]) + c[1:],
        lambda c: bytes(len(c)),
    ],
    ids=["tag", "body", "zeros"],
)
def test_c10_a_tampered_ciphertext_makes_its_recipient_leave(change, new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    bad = r.rewritten(2, lambda m: Shares({**m.sealed, 5: change(m.sealed[5])}))
    r.sent[2] = bad
    r.deliver()
    r.close()
    with pytest.raises(InconsistentView, match="authentic share from 2"):
        r.clients[5].receive(r.answers[5], r.vectors[5])
    r.clients[4].receive(r.answers[4], r.vectors[4])


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[:18]])
def test_c10_truncated_or_extended_ciphertexts_exclude_their_sender(change, vectors_of, oracle):
    x = vectors_of(PLAIN)
    outcome = simulate(x, PLAIN, faults=[Tamper(2, "share", change)])
    assert outcome.survivors == (0, 1, 3, 4, 5, 6)
    assert (outcome.sum == oracle(x, outcome.survivors, 32)).all()


def test_c11_a_share_for_someone_else_is_not_authentic(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    r.sent[2] = r.rewritten(2, lambda m: Shares({**m.sealed, 5: m.sealed[4], 4: m.sealed[5]}))
    r.deliver()
    r.close()
    for index in (4, 5):
        with pytest.raises(InconsistentView, match="authentic share from 2"):
            r.clients[index].receive(r.answers[index], r.vectors[index])


BAD_SHARES = {
    "at the prime": lambda m: Disclosure({**m.seeds, 1: PRIME.to_bytes(4, "little") * 5}, m.keys),
    "above the prime": lambda m: Disclosure({**m.seeds, 1: b"\xff" * 20}, m.keys),
    "one missing": lambda m: Disclosure({i: s for i, s in m.seeds.items() if i != 1}, m.keys),
    "none": lambda m: Disclosure({}, {}),
}


@pytest.mark.parametrize("name", BAD_SHARES)
def test_c12_impossible_shares_exclude_their_sender(name, new_round, oracle):
    r = new_round(PLAIN).advance(Phase.UNMASK)
    assert "Expected" in r.refused(r.rewritten(3, BAD_SHARES[name]))
    del r.sent[3]
    r.deliver()
    r.close()
    assert (r.server.result.sum == oracle(r.vectors, range(7), 32)).all()


def test_c12_no_share_is_ever_the_secret_itself():
    from secagg.crypto import shamir
    from secagg.crypto.streams import SecureStream

    secrets = np.arange(3)[None]
    shares = shamir.split(secrets, threshold=2, holders=5, stream=SecureStream(bytes(16)))
    assert not (shares == secrets[:, None]).all(axis=2).any()


def test_c12_shares_for_the_wrong_holders_exclude_their_sender(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    bad = r.rewritten(3, lambda m: Shares({i: c for i, c in m.sealed.items() if i != 1}))
    assert "for each of its neighbours" in r.refused(bad)
    r.exclude_and_finish(3)


def test_c13_an_owner_that_shares_another_secret_aborts_the_round(new_round):
    r = new_round(PLAIN)
    r.clients[2]._material.self_seed = b"another seed 16B"
    r.advance(Phase.UNMASK)
    r.deliver()
    with pytest.raises(IntegrityError, match="committed secret of client 2") as caught:
        r.close()
    assert caught.value.culprits == (2,)
    assert r.server.result is None


def test_c13_an_owner_whose_shares_lie_on_no_polynomial_aborts_the_round(new_round, monkeypatch):
    from secagg.protocol import keys

    r = new_round(PLAIN)
    victim, polynomials = r.clients[2]._material, keys.KeyMaterial.polynomials

    def steep(self, threshold):
        extra = 3 if self is victim else 0
        return polynomials(self, threshold + extra)

    monkeypatch.setattr(keys.KeyMaterial, "polynomials", steep)
    r.advance(Phase.UNMASK)
    r.deliver(without={6})
    with pytest.raises(IntegrityError) as caught:
        r.close()
    assert caught.value.culprits == (2,)


@pytest.mark.parametrize("liars", [(5,), (0,), (1, 4), (0, 6), (0, 1, 2)])
def test_c14_wrong_shares_are_found_their_senders_named_and_the_sum_is_right(
    liars, new_round, oracle
):
    parameters = Parameters(clients=9, length=4)
    r = new_round(parameters).advance(Phase.UNMASK, {8: Phase.MASK})

    def corrupt(message):
        flip = lambda share: bytes([share[0] ^ 1]) + share[1:]
        return Disclosure(
            {i: flip(s) for i, s in message.seeds.items()},
            {i: flip(s) for i, s in message.keys.items()},
        )

    for liar in liars:
        r.sent[liar] = r.rewritten(liar, corrupt)
    r.deliver()
    r.close()
    assert r.server.result.culprits == (liars if len(liars) < 3 else ())
    assert (r.server.result.sum == oracle(r.vectors, range(8), 32)).all()


def test_c14_liars_cannot_frame_the_honest():
    """Errors that cancel at zero give the right secret on a wrong polynomial."""
    from secagg.crypto import field, shamir
    from secagg.crypto.streams import SecureStream

    secret = np.array([12345])
    shares = shamir.split(secret[None], threshold=3, holders=6, stream=SecureStream())[0]
    weights = field.lagrange(np.array([1, 2, 3]), np.array([0]))[0]
    shares[0] += 1
    shares[1] -= weights[0] * field.inverse(weights[1:2]) % PRIME
    shares %= PRIME
    found = shamir.recover(dict(enumerate(shares, 1)), 3, lambda s: (s == secret).all())
    assert found.wrong == (1, 2)
    assert (found.secret == secret).all()


def test_c14_one_share_more_than_the_threshold_is_enough_to_find_one_liar(new_round, oracle):
    r = new_round(PLAIN).advance(Phase.UNMASK)
    r.sent[0] = r.rewritten(0, lambda m: Disclosure({**m.seeds, 3: bytes(20)}, m.keys))
    r.deliver(without={5, 6})
    r.close()
    assert r.server.result.culprits == (0,)
    assert (r.server.result.sum == oracle(r.vectors, range(7), 32)).all()


def test_c14_more_liars_than_the_surplus_abort(new_round):
    r = new_round(PLAIN).advance(Phase.UNMASK)
    for liar in (0, 1, 2, 3):
        r.sent[liar] = r.rewritten(liar, lambda m: Disclosure({**m.seeds, 3: bytes(20)}, m.keys))
    r.deliver()
    with pytest.raises(IntegrityError, match="too many holders lied"):
        r.close()


def test_c15_both_kinds_of_share_unasked_are_refused_and_counted(new_round, oracle):
    r = new_round(PLAIN).advance(Phase.UNMASK)
    generous = r.rewritten(3, lambda m: Disclosure(m.seeds, {2: bytes(36)}))
    assert "both kinds for 2" in r.refused(generous)
    swapped = r.rewritten(
        3, lambda m: Disclosure({i: s for i, s in m.seeds.items() if i != 2}, {2: bytes(36)})
    )
    assert "seed shares of survivors" in r.refused(swapped)
    assert [sender for sender, _ in r.server.refused] == [3, 3]
    del r.sent[3]
    r.deliver()
    r.close()
    assert (r.server.result.sum == oracle(r.vectors, range(7), 32)).all()


@pytest.mark.parametrize("length", [0, 1, 3, 5])
def test_c16_a_masked_vector_of_another_length_is_refused(length, new_round):
    r = new_round(PLAIN).advance(Phase.MASK)
    bad = r.rewritten(3, lambda m: MaskedInput(np.zeros(length, np.uint32)))
    assert "bytes" in r.refused(bad)
    r.exclude_and_finish(3)


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(1, np.uint32),
        np.zeros((1, 4), np.uint32),
        np.zeros(4),
        np.zeros(4, bool),
        np.array([0, 0, 0, 2**32], np.uint64),
        np.array([-1, 0, 0, 0]),
    ],
)
def test_c16_a_client_refuses_an_input_that_is_no_ring_vector(vector, new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    r.deliver()
    r.close()
    with pytest.raises(EncodingError, match="Expected"):
        r.clients[0].receive(r.answers[0], vector)
    assert r.clients[0].receive(r.answers[0], r.vectors[0])


def test_c16_a_missing_input_leaves_the_client_as_it_was(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    r.deliver()
    r.close()
    with pytest.raises(LocalProtocolError, match=r"receive\(data, vector\)"):
        r.clients[0].receive(r.answers[0])
    assert r.clients[0].receive(r.answers[0], r.vectors[0])


def test_c17_bits_beyond_the_ring_are_refused(new_round):
    parameters = Parameters(clients=7, length=3, modulus_bits=20)
    r = new_round(parameters).advance(Phase.MASK)
    assert len(r.sent[3]) == HEADER.size + 8
    assert "zero padding bits" in r.refused(r.sent[3][:-1] + b"\xff")


def test_c18_garbage_changes_the_sum_by_exactly_the_garbage(oracle, new_round):
    r = new_round(PLAIN).advance(Phase.MASK)
    garbage = np.array([1, 2, 3, 4], np.uint32)
    r.sent[3] = r.rewritten(3, lambda m: MaskedInput(m.vector + garbage))
    result = r.finish()
    assert (result.sum == (oracle(r.vectors, range(7), 32) + garbage) % 2**32).all()


@pytest.mark.parametrize("phase", ["advertise", "share", "mask", "unmask"])
def test_c19_a_slow_client_is_a_dropped_client(phase, vectors_of, oracle):
    x = vectors_of(PLAIN)
    outcome = simulate(x, PLAIN, faults=[Delay(3, phase)])
    assert outcome.survivors == ((0, 1, 2, 4, 5, 6) if phase != "unmask" else tuple(range(7)))
    assert (outcome.sum == oracle(x, outcome.survivors, 32)).all()


def test_c20_a_restarted_client_cannot_come_back(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    again = Client(3, PLAIN, context=b"round")
    assert "Can't handle a ADVERTISEMENT" in r.refused(again.advertise())
    with pytest.raises(InconsistentView, match="my own keys"):
        again.receive(r.answers[3])
    r.exclude_and_finish(3)
