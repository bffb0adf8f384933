import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import ParameterError, Parameters
from secagg.protocol.graph import Graph, wide_gaps

RING = Parameters(clients=30, length=1, graph="ring", neighbours=8, security_bits=10)


def ring(context=b"c" * 32):
    return Graph.derived(range(30), RING, context)


def test_the_ring_is_regular_and_symmetric():
    graph = ring()
    for member in graph.members:
        neighbours = graph.neighbours(member)
        assert len(neighbours) == 8
        assert member not in neighbours
        assert all(member in graph.neighbours(other) for other in neighbours)


@pytest.mark.parametrize("graph", [ring(), Graph.complete(range(7))], ids=["ring", "complete"])
def test_pairs_are_the_edges(graph):
    edges = {(u, v) for u in graph.members for v in graph.neighbours(u) if u < v}
    assert set(map(tuple, graph.pairs().tolist())) == edges


def test_the_order_is_a_function_of_the_context():
    assert ring().ring == ring().ring
    assert ring().ring != ring(b"d" * 32).ring


def test_positions_on_the_ring_are_uniform():
    firsts = [ring(bytes([i, j]) * 16).ring[0] for i in range(20) for j in range(20)]
    counts = np.bincount(firsts, minlength=30)
    assert counts.max() < 40  # 400 draws over 30; a fixed start would give 400


def test_owners_hold_a_share_on_the_complete_graph_only():
    assert 3 in Graph.complete(range(7)).holders(3)
    assert 3 not in ring().holders(3)


@settings(max_examples=200, deadline=None)
@given(st.sets(st.integers(0, 29), min_size=1))
def test_connectivity_agrees_with_a_search(alive):
    graph = ring()
    reached, todo = set(), [min(alive)]
    while todo:
        member = todo.pop()
        if member not in reached:
            reached.add(member)
            todo += [v for v in graph.neighbours(member) if v in alive]
    assert graph.connected(alive) == (reached == alive)


def test_wide_gaps_wrap_around():
    assert wide_gaps([False, True, True, False], 2) == 1
    assert wide_gaps([True, False, True, False], 1) == 2
    assert wide_gaps([True, True, True], 1) == 0


@pytest.mark.parametrize("k", [3, 0, 99, 100])
def test_impossible_numbers_of_neighbours_are_refused(k):
    with pytest.raises(ParameterError, match="neighbours to be even, from 2 to 98"):
        Parameters(clients=100, length=1, graph="ring", neighbours=k)


def test_too_few_neighbours_are_refused():
    with pytest.raises(ParameterError, match="enough neighbours"):
        Parameters(clients=1000, length=1, graph="ring", neighbours=10)


def test_neighbours_on_the_complete_graph_are_refused():
    with pytest.raises(ParameterError, match='graph="ring"'):
        Parameters(clients=10, length=1, neighbours=4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"adversary": "nobody"},
        {"graph": "star"},
        {"corrupt": 1.0},
        {"dropout": -0.1},
        {"length": -1},
        {"modulus_bits": 0},
        {"clients": True},
        {"clients": 2.0},
    ],
)
def test_nonsense_parameters_are_refused(arguments):
    with pytest.raises(ParameterError, match="Expected"):
        Parameters(**{"clients": 10, "length": 1, **arguments})


@pytest.mark.parametrize(
    ("arguments", "quorum"),
    [
        ({"clients": 100}, 51),
        ({"clients": 100, "corrupt": 0.6}, 61),
        ({"clients": 100, "adversary": "active"}, 67),
        ({"clients": 100, "adversary": "active", "corrupt": 0.5}, 76),
        ({"clients": 100, "threshold": 80}, 80),
        ({"clients": 4, "min_cohort": 4}, 4),
        ({"clients": 1000, "graph": "ring"}, 501),
        ({"clients": 1000, "graph": "ring", "adversary": "active"}, 950),
    ],
)
def test_the_quorum_follows_the_threat_model(arguments, quorum):
    assert Parameters(length=1, **arguments).quorum == quorum


def test_canonical_bytes_tell_parameters_apart():
    variants = [
        {},
        {"clients": 11},
        {"length": 2},
        {"threshold": 7},
        {"modulus_bits": 33},
        {"min_cohort": 4},
        {"adversary": "active"},
        {"corrupt": 0.1},
    ]
    seen = {Parameters(**{"clients": 10, "length": 1, **v}).canonical() for v in variants}
    assert len(seen) == len(variants)
