"""Messages that a server or a client must refuse: C1 to C9 of docs/secagg-spec.md."""

import pytest

from secagg import Client, LocalProtocolError, Parameters, Server, simulate
from secagg.crypto.primitives import SigningKey
from secagg.errors import (
    InconsistentView,
    MalformedMessage,
    ParameterError,
    RemoteProtocolError,
    UnknownIdentity,
)
from secagg.protocol.codec import HEADER, Codec
from secagg.protocol.messages import Advertisement, Inbox, KeyList
from secagg.protocol.roster import Roster
from secagg.protocol.rounds import Kind, Phase
from secagg.simulation.faults import Duplicate

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


def test_c1_of_two_advertisements_of_one_index_the_first_counts(new_round):
    r = new_round(PLAIN)
    r.deliver()
    twin = Client(2, PLAIN, context=b"round")
    assert "the first counts" in r.refused(twin.advertise())
    r.close()
    assert r.read(r.answers[0]).keys[2] == r.clients[2]._own


def test_c2_the_same_key_under_two_indices_is_refused(new_round):
    r = new_round(PLAIN)
    r.server.receive(r.sent[0])
    stolen = r.read(r.sent[0])
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
def test_c3_keys_of_small_order_are_refused_and_the_rest_goes_on(u, new_round):
    r = new_round(PLAIN)
    bad = r.rewritten(
        3, lambda m: Advertisement(u.to_bytes(32, "little"), m.mask_key, m.commitment)
    )
    assert "small order" in r.refused(bad)
    r.exclude_and_finish(3)


@pytest.mark.parametrize("u", [P + v for v in (0, 1)])
def test_c3_small_order_in_disguise_is_refused(u, new_round):
    r = new_round(PLAIN)
    bad = r.rewritten(
        3, lambda m: Advertisement(m.channel_key, u.to_bytes(32, "little"), m.commitment)
    )
    assert "not canonical" in r.refused(bad)


@pytest.mark.parametrize("size", [0, 1, 13, 14, 50, 109, 111, 1000])
def test_c4_keys_of_wrong_length_are_refused(size, new_round):
    r = new_round(PLAIN)
    data = r.sent[3]
    assert "Expected" in r.refused(data[:size] + bytes(max(0, size - len(data))))
    r.exclude_and_finish(3)


def malleated(signature: bytes) -> bytes:
    """S + L: the same equation, another encoding."""
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(signature[32:], "little") + order
    return signature[:32] + s.to_bytes(32, "little")


SIGNATURES = {
    "forged": lambda r, s: bytes(64),
    "of another member": lambda r, s: r.read(r.sent[4]).signature,
    "malleated": lambda r, s: malleated(s),
    "truncated to zero S": lambda r, s: s[:32] + bytes(32),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_c5_bad_signatures_are_refused_by_the_server(name, new_round):
    r = new_round(ACTIVE)
    bad = r.rewritten(
        3,
        lambda m: Advertisement(
            m.channel_key, m.mask_key, m.commitment, SIGNATURES[name](r, m.signature)
        ),
    )
    assert "invalid signature" in r.refused(bad)
    r.exclude_and_finish(3)


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

    r.rewrite(0, forge)
    with pytest.raises(UnknownIdentity, match="roster entry 3"):
        r.clients[0].receive(r.answers[0])


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
    old = other.read(other.sent[3])
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


def test_messages_of_strangers_are_refused(new_round):
    r = new_round(PLAIN)
    codec, own = Codec(PLAIN), r.read(r.sent[0])
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
    message = r.read(data)
    without_me = Inbox((1, 2, 3, 4, 5, 6), message.sealed)
    with pytest.raises(InconsistentView, match="me included"):
        r.clients[0].receive(r.server._codec.encode(without_me, data[2:10], 0), r.vectors[0])
