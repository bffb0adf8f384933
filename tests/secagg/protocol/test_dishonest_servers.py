"""What a dishonest server may try within a round: S1 to S10 of docs/secagg-spec.md.

The server is played by changing its messages on the way to one client.
"""

import dataclasses

import numpy as np
import pytest

from secagg import Parameters, simulate
from secagg.crypto.primitives import SigningKey
from secagg.errors import (
    Aborted,
    BelowThreshold,
    InconsistentView,
    MalformedMessage,
    RemoteProtocolError,
    UnknownIdentity,
)
from secagg.protocol.codec import BROADCAST, Codec
from secagg.protocol.messages import (
    Advertisement,
    Confirmations,
    Disclosure,
    Inbox,
    KeyList,
    Survivors,
)
from secagg.protocol.rounds import ClientState, Phase
from secagg.simulation.faults import Lie

ACTIVE = Parameters(clients=7, length=4, adversary="active")
PLAIN = Parameters(clients=7, length=4)


@pytest.mark.parametrize("parameters", [PLAIN, ACTIVE], ids=["semi-honest", "active"])
def test_s1_no_client_gives_both_shares_of_one_client(parameters, new_round):
    r = new_round(parameters).advance(Phase.UNMASK, {2: Phase.MASK})
    for data in r.sent.values():
        disclosure = r.read(data)
        assert not disclosure.seeds.keys() & disclosure.keys.keys()
        assert disclosure.seeds.keys() | disclosure.keys.keys() == set(range(7))


def test_s1_both_shares_of_one_owner_are_not_on_the_wire_format():
    codec = Codec(PLAIN)
    both = Disclosure({3: bytes(20)}, {3: bytes(36)})
    with pytest.raises(MalformedMessage, match="both kinds for 3"):
        codec.decode(codec.encode(both, bytes(8), 0), bytes(8))


def test_s2_a_second_unmask_request_is_refused(new_round):
    r = new_round(PLAIN).advance(Phase.MASK)
    r.deliver(without={6})
    r.close()
    r.answer()
    r.rewrite(0, lambda m: Survivors((0, 1, 2, 3, 6)))
    with pytest.raises(RemoteProtocolError, match="Can't handle a SURVIVORS in state 'finished'"):
        r.clients[0].receive(r.answers[0])
    assert r.clients[0]._shares == {}


def test_s3_different_survivor_lists_are_noticed(new_round):
    r = new_round(ACTIVE).advance(Phase.MASK)
    r.deliver()
    r.close()
    for index in (0, 1, 2):
        r.rewrite(index, lambda m: Survivors((0, 1, 2, 3, 4)))
    r.answer()
    signatures = {i: r.read(data).signature for i, data in r.sent.items()}
    for index in range(5):
        message = Confirmations({i: signatures[i] for i in range(5)})
        tag = r.sent[0][2:10]
        r.answers[index] = r.server._codec.encode(message, tag, BROADCAST)
        r.expect_abort(index, InconsistentView, "confirm the survivors")


def test_s4_too_few_confirmations_are_not_enough(new_round):
    r = new_round(ACTIVE).advance(Phase.CONFIRM)
    r.deliver()
    r.close()
    r.rewrite(0, lambda m: Confirmations(dict(list(m.signatures.items())[:4])))
    r.expect_abort(0, BelowThreshold, "at least 5 clients that confirmed the survivors, got 4")


def test_s4_copies_of_one_confirmation_are_not_confirmations_of_others(new_round):
    r = new_round(ACTIVE).advance(Phase.CONFIRM)
    r.deliver()
    r.close()
    r.rewrite(0, lambda m: Confirmations(dict.fromkeys(m.signatures, m.signatures[3])))
    r.expect_abort(0, InconsistentView, "confirm the survivors I was told")


def test_s4_the_same_signer_twice_is_not_on_the_wire_format():
    codec = Codec(ACTIVE)
    row = (3).to_bytes(4, "little") + bytes(64)
    data = codec.encode(Confirmations({}), bytes(8), BROADCAST)[:14]
    with pytest.raises(MalformedMessage, match="increasing client indices"):
        codec.decode(data + (2).to_bytes(4, "little") + row + row, bytes(8))


@pytest.mark.parametrize("parameters", [PLAIN, ACTIVE], ids=["semi-honest", "active"])
def test_s5_a_client_that_is_told_it_dropped_leaves(parameters, new_round):
    r = new_round(parameters).advance(Phase.MASK)
    r.deliver()
    r.close()
    r.rewrite(0, lambda m: Survivors((1, 2, 3, 4, 5, 6)))
    r.expect_abort(0, InconsistentView, "me included")


def test_s6_survivors_that_never_shared(new_round):
    r = new_round(PLAIN).advance(Phase.MASK, {6: Phase.SHARE})
    r.deliver()
    r.close()
    r.rewrite(0, lambda m: Survivors((0, 1, 2, 3, 4, 5, 6)))
    r.expect_abort(0, InconsistentView, "survivors among the sharers")


def test_s6_an_unknown_index_in_the_survivors_is_not_on_the_wire_format(new_round):
    r = new_round(PLAIN).advance(Phase.MASK)
    r.deliver()
    r.close()
    data = r.answers[0][:-1] + b"\xff"
    with pytest.raises(MalformedMessage, match="clients below 7, got 7"):
        r.clients[0].receive(data)
    assert r.clients[0].state is ClientState.MASKED_SENT


def test_s6_too_few_survivors(new_round):
    r = new_round(PLAIN).advance(Phase.MASK)
    r.deliver()
    r.close()
    r.rewrite(0, lambda m: Survivors((0, 1, 2)))
    r.expect_abort(0, BelowThreshold, "at least 4 clients")


def test_s7_a_swapped_key_is_noticed_in_the_active_model(new_round):
    r = new_round(ACTIVE)
    r.deliver()
    r.close()
    mallory = new_round(ACTIVE, seed=99).clients[3]._own
    r.rewrite(0, lambda m: KeyList({**m.keys, 3: mallory}))
    r.answers[1] = r.answers[0]
    altered = dataclasses.replace(mallory, signature=bytes(64))
    r.rewrite(2, lambda m: KeyList({**m.keys, 3: altered}))
    error = r.expect_abort(2, UnknownIdentity, "roster entry 3")
    assert error.culprits == (3,)


def test_s7_a_clients_own_key_swapped_is_noticed_in_every_model(new_round):
    r = new_round(PLAIN)
    r.deliver()
    r.close()
    mallory = new_round(PLAIN, seed=99).clients[0]._own
    r.rewrite(0, lambda m: KeyList({**m.keys, 0: mallory}))
    r.expect_abort(0, InconsistentView, "my own keys")


def test_s8_invented_identities_are_unknown(new_round):
    r = new_round(ACTIVE)
    r.deliver()
    r.close()
    sybils = new_round(ACTIVE, seed=5)
    fake = SigningKey(b"f" * 32)
    invented = {}
    for index in range(1, 7):
        sybils.clients[index]._identity = fake
        own = sybils.clients[index]._own
        invented[index] = Advertisement(
            own.channel_key, own.mask_key, own.commitment, fake.sign(b"anything")
        )
    r.rewrite(0, lambda m: KeyList({0: m.keys[0], **invented}))
    r.expect_abort(0, UnknownIdentity, "invalid signature")


def without_sharer_4(message):
    """An inbox as it were if client 4 had not shared."""
    others = {i: c for i, c in message.sealed.items() if i != 4}
    return Inbox(tuple(i for i in message.sharers if i != 4), others)


def test_s9_a_sharer_hidden_from_one_client_only_is_noticed_by_it(new_round):
    r = new_round(ACTIVE).advance(Phase.SHARE)
    r.deliver()
    r.close()
    r.rewrite(0, without_sharer_4, party=0)
    r.answer()
    r.deliver()
    r.close()
    r.expect_abort(0, InconsistentView, "survivors among the sharers")


def test_s9_a_view_that_differs_is_caught_at_consistency(new_round):
    r = new_round(ACTIVE).advance(Phase.SHARE)
    r.deliver()
    r.close()
    r.rewrite(0, without_sharer_4, party=0)
    r.answer()
    r.deliver(without={4})
    r.close()
    r.answer()
    with pytest.raises(RemoteProtocolError, match="confirm the survivors"):
        r.deliver()
    r.deliver(without={0})
    with pytest.raises(InconsistentView, match="one view") as caught:
        r.close()
    assert caught.value.culprits == (0,)
    assert r.server.result is None


def test_s9_a_hidden_ciphertext_without_a_changed_list_is_noticed_at_once(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    r.deliver()
    r.close()
    r.rewrite(0, lambda m: Inbox(m.sharers, {i: c for i, c in m.sealed.items() if i != 4}), party=0)
    r.expect_abort(0, InconsistentView, "every neighbour that shared")


def test_s10_swapped_ciphertexts_are_not_authentic(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    r.deliver()
    r.close()
    r.rewrite(
        0,
        lambda m: Inbox(m.sharers, {**m.sealed, 1: m.sealed[2], 2: m.sealed[1]}),
        party=0,
    )
    assert r.expect_abort(0, InconsistentView, "authentic share from 1").culprits == (1,)


def test_s10_a_reflected_ciphertext_is_not_authentic(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    own = r.read(r.sent[0]).sealed[1]
    r.deliver()
    r.close()
    r.rewrite(0, lambda m: Inbox(m.sharers, {**m.sealed, 1: own}), party=0)
    r.expect_abort(0, InconsistentView, "authentic share from 1")


def test_lies_of_a_simulated_server_show_as_aborted_clients(vectors_of):
    x = vectors_of(ACTIVE)
    flip = Lie(2, "mask", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    outcome = simulate(x, ACTIVE, faults=[flip])
    assert isinstance(outcome.aborted[2], Aborted)
    assert 2 not in outcome.survivors
    assert np.array_equal(outcome.sum, x[[0, 1, 3, 4, 5, 6]].sum(axis=0) % 2**32)
