"""What the server and colluding clients can and cannot see: P1 to P13 of docs/secagg-spec.md."""

import copy
import gc
import os
import pickle

import numpy as np
import pytest
from scipy import stats

from secagg import (
    Client,
    CohortChanged,
    CohortLedger,
    CohortRefused,
    Drop,
    ParameterError,
    Parameters,
    SecureStream,
    Server,
    simulate,
)
from secagg.crypto import field as gf
from secagg.crypto.masks import accumulate, self_key
from secagg.errors import BelowThreshold
from secagg.protocol import recovery
from secagg.protocol.codec import Codec
from secagg.protocol.messages import Disclosure
from secagg.protocol.rounds import Phase
from secagg.simulation.ideal import masked_sum

PLAIN = Parameters(clients=5, length=4)


def messages_of(outcome, number):
    """Decoded messages of one kind, by client."""
    codec = Codec(outcome.transcript.parameters)
    return {
        record.client: codec.decode(record.data, record.data[2:10]).message
        for record in outcome.transcript.records
        if record.data[1] == number
    }


@pytest.mark.parametrize("clients", [0, 1, 2])
def test_p1_small_cohorts_cannot_be_configured(clients):
    with pytest.raises(ParameterError, match="clients to be an integer from 3"):
        Parameters(clients=clients, length=1)
    with pytest.raises(ParameterError, match="min_cohort to be an integer from 2"):
        Parameters(clients=5, length=1, min_cohort=1)


@pytest.mark.parametrize("party", ["client", "server"])
def test_p1_a_cohort_that_shrinks_below_the_minimum_is_refused(party, new_round):
    parameters = Parameters(clients=6, length=1, min_cohort=5)
    assert parameters.threshold == 4
    r = new_round(parameters).advance(Phase.MASK)
    if party == "server":
        r.deliver(without={4, 5})
        with pytest.raises(BelowThreshold, match="at least 5 clients"):
            r.close()
        return
    r.deliver()
    r.close()
    data = r.answers[0][:14] + b"\x0f"
    with pytest.raises(BelowThreshold, match="at least 5 clients"):
        r.clients[0].receive(data)


def test_p2_all_but_one_colluding_learn_the_last_input_from_the_sum(vectors_of):
    """No protocol can hide it: the sum less the colluders' inputs is the victim's input."""
    x = vectors_of(PLAIN)
    total = simulate(x, PLAIN).sum
    assert ((total - x[1:].sum(axis=0)) % 2**32 == x[0]).all()


def test_p3_below_the_threshold_the_view_depends_on_the_sum_only(new_round):
    """Two inputs of the same sum; everything the server and t - 1 colluders can remove is removed.

    What is left of two honest clients' masked vectors must be uniform given the sum. Chi-square
    over 16 cells, false alarm below 1e-6 per input.
    """
    length = 20_000
    parameters = Parameters(clients=3, length=length, modulus_bits=4)
    for first, second in ((3, 9), (12, 0)):
        r = new_round(parameters, seed=first)
        r.vectors[0], r.vectors[1] = first, second
        r.advance(Phase.MASK)
        residual = []
        masked = [r.read(r.sent[i]).vector for i in (0, 1)]
        result = r.finish()
        seeds = rebuilt_seeds(r)
        pair = pair_masks_with(r, 2)
        for index in (0, 1):
            vector = masked[index].astype(np.uint32)
            key = self_key(seeds[index], r.server._context, index)
            accumulate(vector, [(key, -1), (pair[index], 1)])
            residual.append(vector & 15)
        assert ((residual[0] + residual[1]) & 15 == 12).all()
        assert ((result.sum - r.vectors[2]) % 16 == 12).all()
        counts = np.bincount(residual[0], minlength=16)
        assert stats.chisquare(counts).pvalue > 1e-6


def rebuilt_seeds(r):
    """The survivors' self-mask seeds, as the server rebuilt them from the disclosures."""
    disclosures = {index: r.read(data) for index, data in r.sent.items()}
    shares = recovery.gather(disclosures, r.server._graph, "seeds")
    return recovery.rebuild(
        shares,
        range(3),
        threshold=2,
        secret_bytes=16,
        graph=r.server._graph,
        check=recovery.seed_check(r.server._setup, r.server._announced),
    ).secrets


def pair_masks_with(r, colluder):
    """The colluder's pair-mask keys, from its own mask key."""
    from secagg.crypto import masks
    from secagg.protocol.keys import KeyMaterial

    material = KeyMaterial.draw(r.entropy_again(colluder))
    return {
        other: masks.pair_key(
            material.mask.agree(r.server._announced[other].mask_key),
            r.server._context,
            colluder,
            other,
        )
        for other in range(3)
        if other != colluder
    }


def test_p4_at_the_threshold_colluders_unmask_a_victim(new_round):
    """t colluders hold enough shares of both secrets: the bound on corruption is tight."""
    r = new_round(PLAIN).advance(Phase.MASK)
    masked = r.read(r.sent[0]).vector
    r.advance(Phase.UNMASK)
    victim, colluders = 0, (1, 2, 3)
    assert len(colluders) == PLAIN.threshold
    disclosures = {}
    for index in colluders:
        fresh = new_round(PLAIN).advance(Phase.MASK)
        share = fresh.clients[index]._shares[victim]
        disclosures[index] = Disclosure({victim: share[:20]}, {victim: share[20:]})
    graph, context = r.server._graph, r.server._context
    size = {"threshold": PLAIN.threshold, "graph": graph}
    seed = recovery.rebuild(
        recovery.gather(disclosures, graph, "seeds"),
        [victim],
        secret_bytes=16,
        check=recovery.seed_check(r.server._setup, r.server._announced),
        **size,
    ).secrets
    key = recovery.rebuild(
        recovery.gather(disclosures, graph, "keys"),
        [victim],
        secret_bytes=32,
        check=recovery.key_check(r.server._announced),
        **size,
    ).secrets
    vector = masked.copy()
    others = set(range(1, 5))
    terms = recovery.dropped_terms(
        key, others, graph=graph, announced=r.server._announced, context=context
    )
    accumulate(vector, [(k, -sign) for k, sign in terms] + recovery.seed_terms(seed, context))
    assert (vector == r.vectors[victim]).all()


def test_p4_one_share_less_says_nothing():
    """With t - 1 shares every secret is equally likely: a polynomial exists for each."""
    points = np.array([1, 2])
    shares = np.array([[123], [456]])
    for secret in (0, 1, gf.PRIME - 1):
        grid = np.append(0, points)
        weights = gf.lagrange(grid, np.array([3]))
        third = gf.matmul(weights, np.append([[secret]], shares, axis=0))
        back = gf.lagrange(np.array([1, 2, 3]), np.array([0]))
        assert gf.matmul(back, np.append(shares, third, axis=0))[0, 0] == secret


@pytest.mark.parametrize("value", [0, 2**32 - 1])
def test_p5_masked_vectors_are_uniform_bit_by_bit(value):
    """Frequency of every bit; 32 bits x 3 clients, false alarm below 1e-4 in all."""
    parameters = Parameters(clients=3, length=20_000)
    x = np.full((3, 20_000), value, np.uint32)
    for message in messages_of(simulate(x, parameters, record="messages"), 3).values():
        bits = np.unpackbits(message.vector.view(np.uint8)).reshape(-1, 32)
        z = (bits.mean(axis=0) - 0.5) / (0.5 / np.sqrt(len(bits)))
        assert np.abs(z).max() < 5.2


def test_p5_two_runs_of_the_same_input_have_different_masks(vectors_of):
    x = vectors_of(PLAIN)
    one, other = (messages_of(simulate(x, PLAIN, record="messages"), 3) for _ in range(2))
    assert all((one[i].vector != other[i].vector).any() for i in range(5))


def test_p6_only_masked_vectors_and_the_sum_depend_on_the_inputs(vectors_of, entropy):
    a, b = vectors_of(PLAIN, 1), vectors_of(PLAIN, 2)
    faults = [Drop(3, "mask")]
    one, other = (
        simulate(x, PLAIN, faults=faults, entropy=entropy(), record="messages").transcript
        for x in (a, b)
    )
    assert len(one.records) == len(other.records)
    for left, right in zip(one.records, other.records):
        if left.phase == "masked input" and left.direction == "up":
            assert left.data[:14] == right.data[:14]
            assert left.size == right.size
        else:
            assert left == right


def test_p6_error_texts_hold_no_values(new_round):
    r = new_round(PLAIN).advance(Phase.MASK)
    reason = r.refused(r.sent[0][:-1])
    assert all(str(value) not in reason for value in r.vectors[0])


def test_p7_secrets_have_no_repr_no_pickle_and_no_copy(new_round):
    r = new_round(PLAIN).advance(Phase.MASK)
    client = r.clients[0]
    for secret in (client, SecureStream(), r.identities[0], new_round(PLAIN).clients[0]._material):
        assert repr(secret).endswith(": secret>")
        for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                duplicate(secret)


def test_p7_secrets_are_dropped_as_soon_as_they_are_not_needed(new_round):
    r = new_round(PLAIN)
    material = r.clients[0]._material
    seed = material.self_seed
    assert seed in gc.get_referents(material)
    r.advance(Phase.MASK)
    assert r.clients[0]._material is None
    r.finish()
    assert r.clients[0]._shares == {}
    assert r.clients[0]._identity is None
    assert r.clients[0]._channel_keys == {}


def test_p7_a_closed_client_has_nothing_left(new_round):
    r = new_round(PLAIN).advance(Phase.SHARE)
    r.clients[0].close()
    assert r.clients[0]._material is None
    assert r.clients[0].state.value == "aborted"


def test_p7_disclosures_do_not_print_shares():
    assert "deadbeef" not in repr(Disclosure({0: b"deadbeef"}, {}))


@pytest.mark.slow
def test_p8_no_key_or_seed_is_seen_twice_in_a_thousand_rounds():
    parameters = Parameters(clients=3, length=1)
    x = np.zeros((3, 1), np.uint32)
    seen = set()
    for _ in range(1000):
        for ad in messages_of(simulate(x, parameters, record="messages"), 1).values():
            seen |= {ad.channel_key, ad.mask_key, ad.commitment}
    assert len(seen) == 1000 * 3 * 3


def test_p9_a_forked_child_does_not_repeat_its_parent():
    stream = SecureStream()
    stream.bytes(8)
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(sender, stream.bytes(32))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(receiver, 32) != stream.bytes(32)


def test_p9_a_source_that_runs_dry_is_refused():
    client = Client(0, PLAIN, entropy=lambda count: b"short")
    with pytest.raises(ValueError, match="112 bytes of entropy, got 5"):
        client.advertise()


def test_p9_secrets_come_from_the_operating_system(monkeypatch):
    asked = []
    real = os.urandom
    monkeypatch.setattr(os, "urandom", lambda count: asked.append(count) or real(count))
    SecureStream()
    assert asked == [32]


@pytest.mark.parametrize("fidelity", ["protocol", "ideal"])
def test_p10_supplied_entropy_marks_the_transcript(fidelity, vectors_of, entropy):
    x = vectors_of(PLAIN)
    marked = simulate(x, PLAIN, entropy=entropy(), fidelity=fidelity).transcript
    assert marked.entropy == "supplied"
    assert simulate(x, PLAIN, fidelity=fidelity).transcript.entropy == "system"
    assert '"entropy": "supplied"' in marked.to_json()


@pytest.mark.parametrize("party", ["client", "server"])
def test_p11_another_survivor_set_than_the_pinned_one_aborts(party, new_round):
    if party == "server":
        r = new_round(PLAIN, pinned=range(5)).advance(Phase.MASK)
        r.deliver(without={4})
        with pytest.raises(CohortChanged):
            r.close()
        assert r.server.result is None
        return
    r = new_round(PLAIN)
    r.clients[0] = r.client(0, PLAIN, context=b"round", pinned=range(5))
    r.sent[0] = r.clients[0].advertise()
    r.advance(Phase.MASK)
    r.deliver(without={4})
    r.close()
    with pytest.raises(CohortChanged, match="pinned survivors"):
        r.clients[0].receive(r.answers[0])


def test_p11_a_pinned_client_that_never_came_is_noticed_before_shares_are_made(new_round):
    r = new_round(PLAIN)
    r.clients[0] = r.client(0, PLAIN, context=b"round", pinned=range(5))
    r.sent[0] = r.clients[0].advertise()
    r.deliver(without={4})
    r.close()
    with pytest.raises(CohortChanged, match=r"none of \[4\]"):
        r.clients[0].receive(r.answers[0])


def test_p12_cohorts_closer_than_the_minimum_are_refused():
    ledger = CohortLedger(min_difference=4)
    ledger.admit(range(20))
    ledger.admit(range(20))
    ledger.admit(range(16))
    for close in (range(19), range(17), range(1, 20)):
        with pytest.raises(CohortRefused, match="at least 4 clients"):
            ledger.admit(close)
    with pytest.raises(CohortRefused):
        ledger.admit([*range(14), 99])
    ledger.admit(range(19), family=b"another model")


@pytest.mark.parametrize("kind", ["identical", "zero", "one-hot"])
def test_p13_special_inputs_look_like_any_others(kind):
    parameters = Parameters(clients=3, length=20_000)
    x = np.zeros((3, 20_000), np.uint32)
    if kind == "identical":
        x[:] = 7
    if kind == "one-hot":
        x[1, 5] = 1
    vectors = messages_of(simulate(x, parameters, record="messages"), 3)
    for message in vectors.values():
        counts = np.bincount(message.vector.view(np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
    assert (vectors[0].vector != vectors[1].vector).sum() > 19_990


def test_the_ideal_view_is_uniform_and_sums_to_the_sum():
    x = np.full((4, 30_000), 9, np.uint32)
    view = np.zeros_like(x)
    total = masked_sum(x, SecureStream(), modulus_bits=8, view=view)
    assert (total == 36).all()
    assert (view.sum(axis=0) % 256 == 36).all()
    for row in view:
        assert stats.chisquare(np.bincount(row, minlength=256)).pvalue > 1e-6


def test_ideal_masks_are_uniform_and_add_up_to_zero_whatever_the_vectors():
    x = np.random.default_rng(0).integers(0, 100, (5, 30_001), dtype=np.uint32)
    view = np.zeros_like(x)
    masked_sum(x, SecureStream(), modulus_bits=32, view=view, threads=2)
    masks = view - x
    assert not masks.sum(axis=0, dtype=np.uint32).any()
    for mask in masks:  # false alarms below 1e-6 a row
        assert stats.chisquare(np.bincount(mask.view(np.uint8), minlength=256)).pvalue > 1e-6


def test_server_holds_no_entropy():
    assert "entropy" not in Server.__init__.__code__.co_varnames
