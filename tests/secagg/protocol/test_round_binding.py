"""What ties a round to its parameters, its state and its cohort: S11 to S19, E9 of docs/secagg-spec.md."""

import dataclasses

import pytest

from secagg import Client, CohortLedger, Drop, Parameters, Server, simulate
from secagg.errors import (
    CohortRefused,
    InconsistentView,
    LocalProtocolError,
    MalformedMessage,
    ParameterError,
    RemoteProtocolError,
    UnknownIdentity,
)
from secagg.protocol.codec import BROADCAST
from secagg.protocol.messages import Inbox, KeyList
from secagg.protocol.rounds import Phase
from secagg.simulation.faults import Crash
from secagg.simulation.transcripts import VerificationError, verify_transcript

ACTIVE = Parameters(clients=7, length=4, adversary="active")
PLAIN = Parameters(clients=7, length=4)


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

    r.rewrite(0, rewire, party=0)
    r.expect_abort(0, InconsistentView, "every neighbour that shared")


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
    own = [a.read(a.sent[0]), *(b.read(b.sent[i]) for i in range(1, 7))]
    message = KeyList(dict(enumerate(own)))
    a.answers = {0: a.server._codec.encode(message, a.sent[0][2:10], BROADCAST)}
    a.expect_abort(0, UnknownIdentity, "invalid signature")


def test_e9_another_structure_in_the_context_is_another_round(new_round):
    r = new_round(Parameters(clients=3, length=4), context=b"w: (4,)")
    odd = r.client(0, r.parameters, context=b"w: (2, 2)")
    assert "belongs to another round" in r.refused(odd.advertise())


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
    r.expect_abort(0, CohortRefused, "difference of 1")
