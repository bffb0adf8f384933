"""Clients that leave, in every phase: D1 to D12 of docs/secagg-spec.md."""

import itertools

import numpy as np
import pytest

from secagg import Drop, Parameters, simulate
from secagg.errors import BelowThreshold, Disconnected, LocalProtocolError
from secagg.protocol.rounds import Phase
from secagg.simulation.faults import Crash, Delay, Duplicate, Reorder

P10 = Parameters(clients=10, length=6)
A10 = Parameters(clients=10, length=6, adversary="active")


def run(parameters, vectors_of, oracle, *faults, survivors):
    """Runs with every engine that can and compares with the oracle."""
    x = vectors_of(parameters)
    for engine in ("auto", "individuals"):
        outcome = simulate(x, parameters, faults=faults, engine=engine, record="messages")
        assert outcome.survivors == tuple(survivors)
        assert (outcome.sum == oracle(x, survivors, parameters.modulus_bits)).all()
    return outcome


def test_d1_drop_before_advertising(vectors_of, oracle):
    run(P10, vectors_of, oracle, Drop(4, "advertise"), survivors=[0, 1, 2, 3, 5, 6, 7, 8, 9])


def test_d2_drop_after_keys_is_never_asked_about(new_round):
    r = new_round(P10).advance(Phase.UNMASK, {4: Phase.SHARE})
    for index, data in r.sent.items():
        disclosure = r.read(data)
        assert 4 not in disclosure.seeds
        assert 4 not in disclosure.keys
        assert disclosure.seeds.keys() == set(range(10)) - {4}
        assert index != 4
    r.deliver()
    r.close()
    assert r.server.result.survivors == (0, 1, 2, 3, 5, 6, 7, 8, 9)


def test_d3_drop_after_shares_has_its_pair_masks_rebuilt(vectors_of, oracle):
    run(P10, vectors_of, oracle, Drop(0, "mask"), Drop(9, "mask"), survivors=range(1, 9))


def test_d4_drop_before_the_consistency_signature_keeps_its_input(vectors_of, oracle):
    run(A10, vectors_of, oracle, Drop(0, "confirm"), Drop(9, "confirm"), survivors=range(10))


def test_d5_drop_before_unmasking_keeps_its_input(vectors_of, oracle):
    run(A10, vectors_of, oracle, Drop(0, "unmask"), Drop(9, "unmask"), survivors=range(10))


@pytest.mark.parametrize("parameters", [P10, A10], ids=["semi-honest", "active"])
@pytest.mark.parametrize("phase", ["advertise", "share", "mask", "confirm", "unmask"])
def test_d6_exactly_the_threshold_is_left(parameters, phase, vectors_of, oracle):
    faults = [Drop(i, phase) for i in range(parameters.threshold, 10)]
    before = phase in ("advertise", "share", "mask")
    if phase == "confirm" and not parameters.active:
        before = False
    survivors = range(parameters.threshold if before else 10)
    run(parameters, vectors_of, oracle, *faults, survivors=survivors)


@pytest.mark.parametrize("parameters", [P10, A10], ids=["semi-honest", "active"])
@pytest.mark.parametrize("phase", ["advertise", "share", "mask", "confirm", "unmask"])
@pytest.mark.parametrize("engine", ["fleet", "individuals"])
def test_d7_one_less_than_the_threshold_aborts_without_a_sum(parameters, phase, engine, vectors_of):
    faults = [Drop(i, phase) for i in range(parameters.threshold - 1, 10)]
    with pytest.raises(BelowThreshold, match=f"at least {parameters.threshold} clients") as caught:
        simulate(vectors_of(parameters), parameters, faults=faults, engine=engine)
    assert not hasattr(caught.value, "sum")


def test_d7_the_aborted_server_holds_no_partial_sum(new_round):
    r = new_round(P10).advance(Phase.UNMASK)
    r.deliver(without=range(5, 10))
    with pytest.raises(BelowThreshold):
        r.close()
    assert r.server.result is None
    assert r.server.phase is Phase.ABORTED
    with pytest.raises(LocalProtocolError, match="in a collecting phase"):
        r.close()


RING = Parameters(
    clients=20, length=3, graph="ring", neighbours=8, corrupt=0.05, dropout=0.05, security_bits=10
)


def neighbourhood_case(new_round, live):
    """A round in which one client's neighbours drop until `live` are left, and then itself."""
    r = new_round(RING).advance(Phase.MASK)
    victim = 7
    neighbours = r.server._graph.neighbours(victim)
    r.deliver(without={victim, *neighbours[live:]})
    return r, victim


def test_d8_a_neighbourhood_with_exactly_t_alive_is_recovered(new_round, oracle):
    r, victim = neighbourhood_case(new_round, RING.threshold)
    r.close()
    r.answer()
    r.deliver()
    r.close()
    result = r.server.result
    assert victim not in result.survivors
    assert (result.sum == oracle(r.vectors, result.survivors, 32)).all()


def test_d8_a_neighbourhood_with_less_than_t_alive_aborts_and_is_named(new_round):
    r, _victim = neighbourhood_case(new_round, RING.threshold - 1)
    with pytest.raises(BelowThreshold, match="live neighbours of client") as caught:
        r.close()
    assert caught.value.phase == "masked input"


def test_d9_survivors_that_fall_apart_abort(new_round):
    sparse = Parameters(
        clients=20, length=3, graph="ring", neighbours=4, corrupt=0, dropout=0.05, security_bits=3
    )
    r = new_round(sparse).advance(Phase.MASK)
    order = r.server._graph.ring
    r.deliver(without={order[0], order[1], order[10], order[11]})
    with pytest.raises(Disconnected):
        r.close()
    assert r.server.result is None


def test_d9_one_gap_in_the_ring_is_no_disconnection(new_round):
    sparse = Parameters(
        clients=20, length=3, graph="ring", neighbours=4, corrupt=0, dropout=0.05, security_bits=3
    )
    r = new_round(sparse).advance(Phase.MASK)
    order = r.server._graph.ring
    assert r.server._graph.connected(set(order) - {order[0], order[1]})
    assert not r.server._graph.connected(set(order) - {*order[:2], *order[10:12]})


def test_d10_a_late_masked_vector_is_refused_and_never_unmasked(vectors_of, oracle):
    x = vectors_of(P10)
    outcome = simulate(x, P10, faults=[Delay(3, "mask")], record="messages")
    assert 3 not in outcome.survivors
    assert (outcome.sum == oracle(x, outcome.survivors, 32)).all()
    assert [sender for sender, _ in outcome.refused] == [3]
    assert "MASKED_INPUT in phase 'unmask'" in outcome.refused[0][1]


@pytest.mark.parametrize("phase", ["advertise", "share", "mask", "unmask"])
def test_d11_everybody_drops(phase, vectors_of):
    with pytest.raises(BelowThreshold, match="got 0"):
        simulate(vectors_of(P10), P10, faults=[Drop(i, phase) for i in range(10)])


def test_d12_order_of_arrival_does_not_matter(vectors_of, entropy):
    x = vectors_of(A10)
    drops = [Drop(1, "share"), Drop(5, "mask")]
    outcomes = [
        simulate(x, A10, faults=[*drops, Reorder(seed)], entropy=entropy()) for seed in range(12)
    ]
    assert all((o.sum == outcomes[0].sum).all() for o in outcomes)
    assert {o.survivors for o in outcomes} == {(0, 2, 3, 4, 6, 7, 8, 9)}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_d12_all_orders_of_a_small_cohort(order, new_round):
    r = new_round(Parameters(clients=3, length=2))
    while r.server.phase is not Phase.FINISHED:
        for index in order:
            r.server.receive(r.sent[index])
        r.close()
        r.answer()
    assert (r.server.result.sum == r.vectors.sum(axis=0) % 2**32).all()


def test_d12_duplicates_and_crashes_between_do_not_matter(vectors_of, oracle):
    x = vectors_of(A10)
    faults = [Duplicate(2, "mask"), Duplicate(2, "unmask"), Crash("share"), Crash("confirm")]
    outcome = simulate(x, A10, faults=faults)
    assert (outcome.sum == oracle(x, range(10), 32)).all()
    assert np.array_equal(sorted(s for s, _ in outcome.refused), [2, 2])
