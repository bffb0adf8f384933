"""C1-C20 of the acceptance list: faulty and malicious clients, one test per row."""

import numpy as np
import pytest

from secagg import Client, EncodingError, LocalProtocolError, Parameters, Server, simulate
from secagg.codec import BROADCAST, HEADER, Codec
from secagg.errors import (
    InconsistentView,
    IntegrityError,
    MalformedMessage,
    ParameterError,
    RemoteProtocolError,
    UnknownIdentity,
)
from secagg.faults import Delay, Duplicate, Tamper
from secagg.field import PRIME
from secagg.messages import Advertisement, Disclosure, Inbox, KeyList, MaskedInput, Shares
from secagg.primitives import SigningKey
from secagg.roster import Roster
from secagg.rounds import Kind, Phase

ACTIVE = Parameters(clients=7, length=4, adversary="active")
PLAIN = Parameters(clients=7, length=4)
P = 2**255 - 19
LOW_ORDER = [
    0,
    1,
    P - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]


def read(r, data):
    return r.server._codec.decode(data, data[2:10]).message


def rewritten(r, index, change):
    data = r.sent[index]
    return r.server._codec.encode(change(read(r, data)), data[2:10], index)


def exclude_and_finish(r, index, oracle):
    """The refused client counts as dropped, and the rest is exact."""
    del r.sent[index]
    result = r.finish({index: r.server.phase})
    assert index not in result.survivors
    assert (result.sum == oracle(r.vectors, result.survivors, 32)).all()


def test_c1_of_two_advertisements_of_one_index_the_first_counts(new_round):
    r = new_round(PLAIN)
    r.deliver()
    twin = Client(2, PLAIN, context=b"round")
    assert "the first counts" in r.refused(twin.advertise())
    r.close()
    assert read(r, r.answers[0]).keys[2] == r.clients[2]._own


def test_c2_the_same_key_under_two_indices_is_refused(new_round):
    r = new_round(PLAIN)
    r.server.receive(r.sent[0])
    stolen = read(r, r.sent[0])
    fake = r.server._codec.encode(stolen, r.sent[1][2:10], 1)
    assert "fresh keys of client 1" in r.refused(fake)
    del r.sent[0]
    r.deliver(without={1})
    assert r.server.waiting == {1}


@pytest.mark.parametrize("start", [HEADER.size, HEADER.size + 32], ids=["channel", "mask"])
def test_c2_another_encoding_of_a_key_is_refused(start, new_round):
    r = new_round(PLAIN)
    data = bytearray(r.sent[1])
    data[start + 31] |= 0x80
    assert "not canonical" in r.refused(bytes(data))


@pytest.mark.parametrize("u", LOW_ORDER)
def test_c3_keys_of_small_order_are_refused_and_the_rest_goes_on(u, new_round, oracle):
    r = new_round(PLAIN)
    bad = rewritten(
        r, 3, lambda m: Advertisement(u.to_bytes(32, "little"), m.mask_key, m.commitment)
    )
    assert "small order" in r.refused(bad)
    exclude_and_finish(r, 3, oracle)


@pytest.mark.parametrize("u", [P + v for v in (0, 1)])
def test_c3_small_order_in_disguise_is_refused(u, new_round):
    r = new_round(PLAIN)
    bad = rewritten(
        r, 3, lambda m: Advertisement(m.channel_key, u.to_bytes(32, "little"), m.commitment)
    )
    assert "not canonical" in r.refused(bad)


@pytest.mark.parametrize("size", [0, 1, 13, 14, 50, 109, 111, 1000])
def test_c4_keys_of_wrong_length_are_refused(size, new_round, oracle):
    r = new_round(PLAIN)
    data = r.sent[3]
    assert "Expected" in r.refused(data[:size] + bytes(max(0, size - len(data))))
    exclude_and_finish(r, 3, oracle)


def malleated(signature: bytes) -> bytes:
    """S + L: the same equation, another encoding."""
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(signature[32:], "little") + order
    return signature[:32] + s.to_bytes(32, "little")


SIGNATURES = {
    "forged": lambda r, s: bytes(64),
    "of another member": lambda r, s: read(r, r.sent[4]).signature,
    "malleated": lambda r, s: malleated(s),
    "truncated to zero S": lambda r, s: s[:32] + bytes(32),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_c5_bad_signatures_are_refused_by_the_server(name, new_round, oracle):
    r = new_round(ACTIVE)
    bad = rewritten(
        r,
        3,
        lambda m: Advertisement(
            m.channel_key, m.mask_key, m.commitment, SIGNATURES[name](r, m.signature)
        ),
    )
    assert "invalid signature" in r.refused(bad)
    exclude_and_finish(r, 3, oracle)


@pytest.mark.parametrize("name", SIGNATURES)
def test_c5_bad_signatures_are_refused_by_a_client(name, new_round):
    r = new_round(ACTIVE)
    r.deliver()
    r.close()

    def forge(message):
        ad = message.keys[3]
        signature = SIGNATURES[name](r, ad.signature)
        keys = Advertisement(ad.channel_key, ad.mask_key, ad.commitment, signature)
        return KeyList({**message.keys, 3: keys})

    data = r.answers[0]
    forged = r.server._codec.encode(forge(read(r, data)), data[2:10], BROADCAST)
    with pytest.raises(UnknownIdentity, match="roster entry 3"):
        r.clients[0].receive(forged)


Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7


@pytest.mark.parametrize("sign", [0, 1 << 255])
@pytest.mark.parametrize("y", [0, 1, P - 1, Y8, P - Y8])
def test_c6_identities_of_small_order_cannot_be_registered(y, sign):
    weak = (y | sign).to_bytes(32, "little")
    with pytest.raises(ParameterError, match="client 1, got a key of small order"):
        Roster((SigningKey(b"a" * 32).public, weak))


def test_c6_identities_on_no_wire_format_cannot_be_registered():
    good = SigningKey(b"a" * 32).public
    with pytest.raises(ParameterError, match="31 bytes"):
        Roster((good[:-1],))
    with pytest.raises(ParameterError, match="not canonical"):
        Roster(((P + 3).to_bytes(32, "little"),))
    with pytest.raises(ParameterError, match="same key twice"):
        Roster((good, good))


def test_c7_a_signature_for_another_round_is_refused(new_round):
    r, other = new_round(ACTIVE), new_round(ACTIVE, context=b"another")
    old = read(other, other.sent[3])
    assert "invalid signature" in r.refused(r.server._codec.encode(old, r.sent[3][2:10], 3))


@pytest.mark.parametrize("phase", [Phase.SHARE, Phase.MASK, Phase.CONFIRM, Phase.UNMASK])
def test_c8_messages_of_another_round_are_refused(phase, new_round):
    r, other = new_round(ACTIVE).advance(phase), new_round(ACTIVE, seed=1).advance(phase)
    assert "belongs to another round" in r.refused(other.sent[3])


@pytest.mark.parametrize("phase", ["advertise", "share", "mask", "confirm", "unmask"])
def test_c8_duplicates_are_refused_and_counted(phase, vectors_of, oracle):
    x = vectors_of(ACTIVE)
    outcome = simulate(x, ACTIVE, faults=[Duplicate(3, phase)])
    assert [sender for sender, _ in outcome.refused] == [3]
    assert (outcome.sum == oracle(x, range(7), 32)).all()


@pytest.mark.parametrize("phase", [Phase.ADVERTISE, Phase.SHARE, Phase.MASK, Phase.UNMASK])
def test_c9_messages_of_another_phase_are_refused(phase, new_round):
    r = new_round(ACTIVE)
    history = {Phase.ADVERTISE: dict(r.sent)}
    while r.server.phase is not Phase.UNMASK:
        r.deliver()
        r.close()
        r.answer()
        history[r.server.phase] = dict(r.sent)
    fresh = new_round(ACTIVE).advance(phase)
    for other, sent in history.items():
        if other is not phase:
            assert "Can't handle a" in fresh.refused(sent[3])


@pytest.mark.parametrize("kind", [0, 6, 16, 21, 255])
def test_c9_unknown_kinds_are_refused_by_both_sides(kind, new_round):
    r = new_round(PLAIN)
    data = bytearray(r.sent[0])
    data[1] = kind
    assert f"known message kind, got {kind}" in r.refused(bytes(data))
    with pytest.raises(MalformedMessage, match="known message kind"):
        r.clients[0].receive(bytes(data))


def test_c9_two_messages_in_one_are_refused(new_round):
    r = new_round(PLAIN)
    assert "at most 110 bytes" in r.refused(r.sent[0] + r.sent[1])


@pytest.mark.parametrize("kind", [Kind.KEY_LIST, Kind.SURVIVORS, Kind.CONFIRMATIONS])
def test_c9_a_client_refuses_messages_out_of_order(kind, new_round):
    r = new_round(ACTIVE).advance(Phase.SHARE)
    data = bytearray(r.answers[0])
    data[1] = kind
    before = r.clients[0].state
    with pytest.raises(RemoteProtocolError, match=r"Can't handle a \w+ in state 'shares sent'"):
        r.clients[0].receive(bytes(data))
    assert r.clients[0].state is before


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
    bad = rewritten(r, 2, lambda m: Shares({**m.sealed, 5: change(m.sealed[5])}))
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
    r.sent[2] = rewritten(r, 2, lambda m: Shares({**m.sealed, 5: m.sealed[4], 4: m.sealed[5]}))
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
    assert "Expected" in r.refused(rewritten(r, 3, BAD_SHARES[name]))
    del r.sent[3]
    r.deliver()
    r.close()
    assert (r.server.result.sum == oracle(r.vectors, range(7), 32)).all()


def test_c12_no_share_is_ever_the_secret_itself():
    from secagg import shamir
    from secagg.streams import SecureStream

    secrets = np.arange(3)[None]
    shares = shamir.split(secrets, threshold=2, holders=5, stream=SecureStream(bytes(16)))
    assert not (shares == secrets[:, None]).all(axis=2).any()


def test_c12_shares_for_the_wrong_holders_exclude_their_sender(new_round, oracle):
    r = new_round(PLAIN).advance(Phase.SHARE)
    bad = rewritten(r, 3, lambda m: Shares({i: c for i, c in m.sealed.items() if i != 1}))
    assert "for each of its neighbours" in r.refused(bad)
    exclude_and_finish(r, 3, oracle)


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
    from secagg import keys

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
        r.sent[liar] = rewritten(r, liar, corrupt)
    r.deliver()
    r.close()
    assert r.server.result.culprits == (liars if len(liars) < 3 else ())
    assert (r.server.result.sum == oracle(r.vectors, range(8), 32)).all()


def test_c14_liars_cannot_frame_the_honest():
    """Errors that cancel at zero give the right secret on a wrong polynomial."""
    from secagg import field, shamir
    from secagg.streams import SecureStream

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
    r.sent[0] = rewritten(r, 0, lambda m: Disclosure({**m.seeds, 3: bytes(20)}, m.keys))
    r.deliver(without={5, 6})
    r.close()
    assert r.server.result.culprits == (0,)
    assert (r.server.result.sum == oracle(r.vectors, range(7), 32)).all()


def test_c14_more_liars_than_the_surplus_abort(new_round):
    r = new_round(PLAIN).advance(Phase.UNMASK)
    for liar in (0, 1, 2, 3):
        r.sent[liar] = rewritten(r, liar, lambda m: Disclosure({**m.seeds, 3: bytes(20)}, m.keys))
    r.deliver()
    with pytest.raises(IntegrityError, match="too many holders lied"):
        r.close()


def test_c15_both_kinds_of_share_unasked_are_refused_and_counted(new_round, oracle):
    r = new_round(PLAIN).advance(Phase.UNMASK)
    generous = rewritten(r, 3, lambda m: Disclosure(m.seeds, {2: bytes(36)}))
    assert "both kinds for 2" in r.refused(generous)
    swapped = rewritten(
        r, 3, lambda m: Disclosure({i: s for i, s in m.seeds.items() if i != 2}, {2: bytes(36)})
    )
    assert "seed shares of survivors" in r.refused(swapped)
    assert [sender for sender, _ in r.server.refused] == [3, 3]
    del r.sent[3]
    r.deliver()
    r.close()
    assert (r.server.result.sum == oracle(r.vectors, range(7), 32)).all()


@pytest.mark.parametrize("length", [0, 1, 3, 5])
def test_c16_a_masked_vector_of_another_length_is_refused(length, new_round, oracle):
    r = new_round(PLAIN).advance(Phase.MASK)
    bad = rewritten(r, 3, lambda m: MaskedInput(np.zeros(length, np.uint32)))
    assert "bytes" in r.refused(bad)
    exclude_and_finish(r, 3, oracle)


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
    r.sent[3] = rewritten(r, 3, lambda m: MaskedInput(m.vector + garbage))
    result = r.finish()
    assert (result.sum == (oracle(r.vectors, range(7), 32) + garbage) % 2**32).all()


@pytest.mark.parametrize("phase", ["advertise", "share", "mask", "unmask"])
def test_c19_a_slow_client_is_a_dropped_client(phase, vectors_of, oracle):
    x = vectors_of(PLAIN)
    outcome = simulate(x, PLAIN, faults=[Delay(3, phase)])
    assert outcome.survivors == ((0, 1, 2, 4, 5, 6) if phase != "unmask" else tuple(range(7)))
    assert (outcome.sum == oracle(x, outcome.survivors, 32)).all()


def test_c20_a_restarted_client_cannot_come_back(new_round, oracle):
    r = new_round(PLAIN).advance(Phase.SHARE)
    again = Client(3, PLAIN, context=b"round")
    assert "Can't handle a ADVERTISEMENT" in r.refused(again.advertise())
    with pytest.raises(InconsistentView, match="my own keys"):
        again.receive(r.answers[3])
    exclude_and_finish(r, 3, oracle)


def test_messages_of_strangers_are_refused(new_round):
    r = new_round(PLAIN)
    codec, own = Codec(PLAIN), read(r, r.sent[0])
    assert "one of 9" in r.refused(codec.encode(own, r.sent[0][2:10], 9))


def test_an_inbox_for_another_client_is_refused(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    r.deliver()
    r.close()
    with pytest.raises(RemoteProtocolError, match="for client 0, got one for 1"):
        r.clients[0].receive(r.answers[1], r.vectors[0])


def test_identities_must_match_the_roster():
    keys = [SigningKey(bytes([i]) * 32) for i in range(7)]
    roster = Roster(tuple(key.public for key in keys))
    with pytest.raises(LocalProtocolError, match="identity key of roster entry 0"):
        Client(0, ACTIVE, identity=keys[1], roster=roster)
    with pytest.raises(LocalProtocolError, match="roster of 7 identities, got 0"):
        Server(ACTIVE)
    with pytest.raises(LocalProtocolError, match="no roster in the semi-honest model"):
        Server(PLAIN, roster=roster)
    with pytest.raises(LocalProtocolError, match="index below 7"):
        Client(7, PLAIN)


def test_an_inbox_that_is_not_mine_in_sharers_is_refused(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    r.deliver()
    r.close()
    data = r.answers[0]
    message = read(r, data)
    without_me = Inbox((1, 2, 3, 4, 5, 6), message.sealed)
    with pytest.raises(InconsistentView, match="me included"):
        r.clients[0].receive(r.server._codec.encode(without_me, data[2:10], 0), r.vectors[0])
