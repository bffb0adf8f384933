"""S1-S19 of the acceptance list: what a server may try, one test per row.

The lying server is played by changing its messages on the way to one client.
"""

import dataclasses

import numpy as np
import pytest

from secagg import Client, CohortLedger, Drop, Parameters, Server, simulate
from secagg.codec import BROADCAST, Codec
from secagg.errors import (
    Aborted,
    BelowThreshold,
    CohortRefused,
    InconsistentView,
    LocalProtocolError,
    MalformedMessage,
    ParameterError,
    RemoteProtocolError,
    UnknownIdentity,
)
from secagg.faults import Crash, Lie
from secagg.messages import Advertisement, Confirmations, Disclosure, Inbox, KeyList, Survivors
from secagg.primitives import SigningKey
from secagg.rounds import ClientState, Phase
from secagg.transcripts import VerificationError, verify_transcript

ACTIVE = Parameters(clients=7, length=4, adversary="active")
PLAIN = Parameters(clients=7, length=4)


def read(r, data):
    return r.server._codec.decode(data, data[2:10]).message


def rewrite(r, index, change, party=BROADCAST):
    """Replaces the server's message to one client by a changed one."""
    data = r.answers[index]
    changed = change(read(r, data))
    r.answers[index] = r.server._codec.encode(changed, data[2:10], party)
    return r.answers[index]


def assert_aborted(client, reached):
    """The client is finished, holds no secrets and answers nothing more."""
    assert client.state is ClientState.ABORTED
    assert client._material is None
    assert client._shares == {}
    with pytest.raises(RemoteProtocolError):
        client.receive(reached)


def expect_abort(r, index, error, match):
    with pytest.raises(error, match=match) as caught:
        r.clients[index].receive(r.answers[index], r.vectors[index])
    assert_aborted(r.clients[index], r.answers[index])
    return caught.value


@pytest.mark.parametrize("parameters", [PLAIN, ACTIVE], ids=["semi-honest", "active"])
def test_s1_no_client_gives_both_shares_of_one_client(parameters, new_round):
    r = new_round(parameters).advance(Phase.UNMASK, {2: Phase.MASK})
    for data in r.sent.values():
        disclosure = read(r, data)
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
    rewrite(r, 0, lambda m: Survivors((0, 1, 2, 3, 6)))
    with pytest.raises(RemoteProtocolError, match="Can't handle a SURVIVORS in state 'finished'"):
        r.clients[0].receive(r.answers[0])
    assert r.clients[0]._shares == {}


def test_s3_different_survivor_lists_are_noticed(new_round):
    r = new_round(ACTIVE).advance(Phase.MASK)
    r.deliver()
    r.close()
    for index in (0, 1, 2):
        rewrite(r, index, lambda m: Survivors((0, 1, 2, 3, 4)))
    r.answer()
    signatures = {i: read(r, data).signature for i, data in r.sent.items()}
    for index in range(5):
        message = Confirmations({i: signatures[i] for i in range(5)})
        tag = r.sent[0][2:10]
        r.answers[index] = r.server._codec.encode(message, tag, BROADCAST)
        expect_abort(r, index, InconsistentView, "confirm the survivors")


def test_s4_too_few_confirmations_are_not_enough(new_round):
    r = new_round(ACTIVE).advance(Phase.CONFIRM)
    r.deliver()
    r.close()
    rewrite(r, 0, lambda m: Confirmations(dict(list(m.signatures.items())[:4])))
    expect_abort(r, 0, BelowThreshold, "at least 5 clients that confirmed the survivors, got 4")


def test_s4_copies_of_one_confirmation_are_not_confirmations_of_others(new_round):
    r = new_round(ACTIVE).advance(Phase.CONFIRM)
    r.deliver()
    r.close()
    rewrite(r, 0, lambda m: Confirmations(dict.fromkeys(m.signatures, m.signatures[3])))
    expect_abort(r, 0, InconsistentView, "confirm the survivors I was told")


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
    rewrite(r, 0, lambda m: Survivors((1, 2, 3, 4, 5, 6)))
    expect_abort(r, 0, InconsistentView, "me included")


def test_s6_survivors_that_never_shared(new_round):
    r = new_round(PLAIN).advance(Phase.MASK, {6: Phase.SHARE})
    r.deliver()
    r.close()
    rewrite(r, 0, lambda m: Survivors((0, 1, 2, 3, 4, 5, 6)))
    expect_abort(r, 0, InconsistentView, "survivors among the sharers")


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
    rewrite(r, 0, lambda m: Survivors((0, 1, 2)))
    expect_abort(r, 0, BelowThreshold, "at least 4 clients")


def test_s7_a_swapped_key_is_noticed_in_the_active_model(new_round):
    r = new_round(ACTIVE)
    r.deliver()
    r.close()
    mallory = new_round(ACTIVE, seed=99).clients[3]._own
    rewrite(r, 0, lambda m: KeyList({**m.keys, 3: mallory}))
    r.answers[1] = r.answers[0]
    altered = dataclasses.replace(mallory, signature=bytes(64))
    rewrite(r, 2, lambda m: KeyList({**m.keys, 3: altered}))
    error = expect_abort(r, 2, UnknownIdentity, "roster entry 3")
    assert error.culprits == (3,)


def test_s7_a_clients_own_key_swapped_is_noticed_in_every_model(new_round):
    r = new_round(PLAIN)
    r.deliver()
    r.close()
    mallory = new_round(PLAIN, seed=99).clients[0]._own
    rewrite(r, 0, lambda m: KeyList({**m.keys, 0: mallory}))
    expect_abort(r, 0, InconsistentView, "my own keys")


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
    rewrite(r, 0, lambda m: KeyList({0: m.keys[0], **invented}))
    expect_abort(r, 0, UnknownIdentity, "invalid signature")


def test_s9_a_sharer_hidden_from_one_client_only_is_noticed_by_it(new_round):
    r = new_round(ACTIVE).advance(Phase.SHARE)
    r.deliver()
    r.close()

    def hide(message):
        others = {i: c for i, c in message.sealed.items() if i != 4}
        return Inbox(tuple(i for i in message.sharers if i != 4), others)

    rewrite(r, 0, hide, party=0)
    r.answer()
    r.deliver()
    r.close()
    expect_abort(r, 0, InconsistentView, "survivors among the sharers")


def test_s9_a_view_that_differs_is_caught_at_consistency(new_round):
    r = new_round(ACTIVE).advance(Phase.SHARE)
    r.deliver()
    r.close()
    rewrite(
        r,
        0,
        lambda m: Inbox(
            tuple(i for i in m.sharers if i != 4), {i: c for i, c in m.sealed.items() if i != 4}
        ),
        party=0,
    )
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
    rewrite(
        r, 0, lambda m: Inbox(m.sharers, {i: c for i, c in m.sealed.items() if i != 4}), party=0
    )
    expect_abort(r, 0, InconsistentView, "every neighbour that shared")


def test_s10_swapped_ciphertexts_are_not_authentic(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    r.deliver()
    r.close()
    rewrite(
        r,
        0,
        lambda m: Inbox(m.sharers, {**m.sealed, 1: m.sealed[2], 2: m.sealed[1]}),
        party=0,
    )
    assert expect_abort(r, 0, InconsistentView, "authentic share from 1").culprits == (1,)


def test_s10_a_reflected_ciphertext_is_not_authentic(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    own = read(r, r.sent[0]).sealed[1]
    r.deliver()
    r.close()
    rewrite(r, 0, lambda m: Inbox(m.sharers, {**m.sealed, 1: own}), party=0)
    expect_abort(r, 0, InconsistentView, "authentic share from 1")


@pytest.mark.parametrize("threshold", [0, 1, 3, 8])
def test_s11_unsafe_thresholds_cannot_be_configured(threshold):
    with pytest.raises(ParameterError, match="threshold from 4 to 7 for 7 clients"):
        Parameters(clients=7, length=4, threshold=threshold)


@pytest.mark.parametrize("threshold", [16, 19])
def test_s11_ring_thresholds_outside_the_proven_range_cannot_be_configured(threshold):
    with pytest.raises(ParameterError, match="threshold from 17 to 18"):
        Parameters(clients=1000, length=4, graph="ring", threshold=threshold)


def test_s11_a_server_with_another_threshold_is_not_understood(new_round):
    r = new_round(PLAIN)
    server = Server(dataclasses.replace(PLAIN, threshold=5), context=b"round")
    with pytest.raises(MalformedMessage, match="another round, phase, or set of parameters"):
        server.receive(r.sent[0])


@pytest.mark.parametrize("change", [{"modulus_bits": 16}, {"length": 5}, {"min_cohort": 4}])
def test_s12_another_ring_or_policy_for_one_client_is_another_context(change, new_round):
    r = new_round(PLAIN)
    odd = r.client(6, dataclasses.replace(PLAIN, **change), context=b"round")
    with pytest.raises(MalformedMessage, match="belongs to another round"):
        r.server.receive(odd.advertise())


def test_s13_the_graph_is_recomputed_by_the_client(new_round):
    ring = Parameters(
        clients=20, length=3, graph="ring", neighbours=8, dropout=0.05, security_bits=10
    )
    r = new_round(ring).advance(Phase.SHARE)
    r.deliver()
    r.close()
    stranger = next(i for i in range(20) if i not in {0, *r.server._graph.neighbours(0)})
    friend = r.server._graph.neighbours(0)[0]

    def rewire(message):
        sealed = dict(message.sealed)
        sealed[stranger] = sealed.pop(friend)
        return Inbox(message.sharers, sealed)

    rewrite(r, 0, rewire, party=0)
    expect_abort(r, 0, InconsistentView, "every neighbour that shared")


def test_s13_the_ring_depends_on_every_announced_key(new_round):
    ring = Parameters(
        clients=20, length=3, graph="ring", neighbours=8, dropout=0.05, security_bits=10
    )
    orders = {new_round(ring, seed=s).advance(Phase.SHARE).server._graph.ring for s in range(4)}
    assert len(orders) == 4


def test_s14_other_model_parameters_are_another_round(new_round):
    r = new_round(ACTIVE, context=b"model A")
    odd = r.client(0, ACTIVE, context=b"model B")
    with pytest.raises(MalformedMessage, match="belongs to another round"):
        r.server.receive(odd.advertise())


def test_s14_a_lying_server_cannot_mix_models(new_round):
    a, b = new_round(ACTIVE, context=b"model A"), new_round(ACTIVE, context=b"model B", seed=1)
    own = [read(a, a.sent[0]), *(read(b, b.sent[i]) for i in range(1, 7))]
    message = KeyList(dict(enumerate(own)))
    a.answers = {0: a.server._codec.encode(message, a.sent[0][2:10], BROADCAST)}
    expect_abort(a, 0, UnknownIdentity, "invalid signature")


def test_s15_a_second_inbox_is_refused(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    r.deliver()
    r.close()
    inbox = r.answers[0]
    r.answer()
    with pytest.raises(RemoteProtocolError, match="Can't handle a INBOX in state 'masked sent'"):
        r.clients[0].receive(inbox, r.vectors[0])


def test_s16_a_context_is_used_once():
    ledger = CohortLedger()
    Client(0, PLAIN, context=b"round 1", ledger=ledger)
    Client(0, PLAIN, context=b"round 2", ledger=ledger)
    with pytest.raises(CohortRefused, match="fresh round context"):
        Client(0, PLAIN, context=b"round 1", ledger=ledger)


def test_s16_a_client_cannot_start_again(new_round):
    r = new_round(PLAIN)
    with pytest.raises(LocalProtocolError, match="new Client for a new round"):
        r.clients[0].advertise()


def test_s17_an_aggregate_that_does_not_follow_is_reported(vectors_of):
    outcome = simulate(vectors_of(PLAIN), PLAIN, record="messages")
    verify_transcript(outcome.transcript)
    wrong = bytearray(outcome.transcript.sum)
    wrong[0] ^= 1
    with pytest.raises(VerificationError, match="sum and survivors that follow"):
        verify_transcript(dataclasses.replace(outcome.transcript, sum=bytes(wrong)).sealed())


@pytest.mark.parametrize("phase", ["advertise", "share", "mask", "confirm", "unmask"])
def test_s18_a_crashed_server_resumes_with_the_same_result(phase, vectors_of, entropy):
    x = vectors_of(ACTIVE)
    calm = simulate(x, ACTIVE, entropy=entropy(), record="messages")
    crashed = simulate(x, ACTIVE, faults=[Crash(phase)], entropy=entropy(), record="messages")
    assert crashed.transcript == calm.transcript


def test_s18_a_resumed_server_repeats_its_last_messages_and_asks_nothing_new(new_round):
    r = new_round(ACTIVE).advance(Phase.CONFIRM)
    resumed = Server(ACTIVE, context=b"round", roster=r.roster)
    assert resumed.restore(r.server.save()) == r.answers
    assert resumed.waiting == r.server.waiting
    with pytest.raises(RemoteProtocolError):
        r.clients[0].receive(r.answers[0])


def test_s18_a_truncated_state_is_refused(new_round):
    saved = new_round(PLAIN).advance(Phase.MASK).server.save()
    with pytest.raises(LocalProtocolError, match="truncated"):
        Server(PLAIN, context=b"round").restore(saved[:-3])


def test_s18_a_state_of_another_round_is_refused(new_round):
    saved = new_round(PLAIN).advance(Phase.MASK).server.save()
    with pytest.raises(LocalProtocolError, match="same arguments"):
        Server(PLAIN, context=b"another").restore(saved)


def test_s19_a_cohort_less_one_client_is_refused(vectors_of):
    ledger, x = CohortLedger(min_difference=3), vectors_of(PLAIN)
    simulate(x, PLAIN, ledger=ledger, context=b"1")
    with pytest.raises(CohortRefused, match="got a difference of 1"):
        simulate(x, PLAIN, ledger=ledger, faults=[Drop(3, "mask")], context=b"2")
    simulate(x, PLAIN, ledger=ledger, context=b"3")


def test_s19_a_clients_own_ledger_refuses_too(new_round):
    ledger = CohortLedger(min_difference=3)
    ledger.admit(range(7))
    r = new_round(PLAIN)
    r.clients[0] = r.client(0, PLAIN, context=b"round", ledger=ledger)
    r.sent[0] = r.clients[0].advertise()
    r.advance(Phase.MASK)
    r.deliver(without={6})
    r.close()
    expect_abort(r, 0, CohortRefused, "difference of 1")


def test_lies_of_a_simulated_server_show_as_aborted_clients(vectors_of):
    x = vectors_of(ACTIVE)
    flip = Lie(2, "mask", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    outcome = simulate(x, ACTIVE, faults=[flip])
    assert isinstance(outcome.aborted[2], Aborted)
    assert 2 not in outcome.survivors
    assert np.array_equal(outcome.sum, x[[0, 1, 3, 4, 5, 6]].sum(axis=0) % 2**32)
