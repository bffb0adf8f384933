"""Sizes of graphs, and how many honest clients they guarantee: K3 and E13 of docs/secagg-spec.md."""

import pytest

from secagg import Parameters
from secagg.errors import ParameterError
from secagg.protocol.sizing import Requirements, neighbourhood

# Published graph sizes (40 bits of security, 20 of correctness).

PUBLISHED = [
    (100, 0.45, 0.45, "semi-honest", 92, 46),
    (1000, 0.45, 0.45, "semi-honest", 822, 417),
    (10, 0.33, 0.33, "semi-honest", 8, 4),
    (100, 0.33, 0.33, "semi-honest", 68, 34),
    (1000, 0.33, 0.33, "semi-honest", 286, 150),
    (10_000, 0.33, 0.33, "semi-honest", 422, 221),
    (100, 0.3, 0.3, "active", 92, 62),
    (1000, 0.3, 0.3, "active", 872, 584),
    (100, 0.05, 0.33, "semi-honest", 28, 6),
    (1000, 0.05, 0.33, "semi-honest", 72, 24),
    (10_000, 0.05, 0.33, "semi-honest", 86, 29),
    (1000, 0.05, 0.33, "active", 398, 223),
    (10_000, 0.05, 0.33, "active", 746, 420),
    (1000, 0.33, 0.05, "active", 132, 109),
    (100, 0.05, 0.05, "semi-honest", 12, 6),
    (1000, 0.05, 0.05, "semi-honest", 30, 17),
    (10_000, 0.05, 0.05, "semi-honest", 34, 20),
    (10_000, 0.05, 0.05, "active", 62, 44),
    (100_000, 0.05, 0.05, "semi-honest", 36, 21),
    (100_000, 0.05, 0.05, "active", 68, 48),
]


@pytest.mark.sample(quick=6)
@pytest.mark.parametrize(("n", "corrupt", "dropout", "adversary", "k", "t"), PUBLISHED)
def test_k3_published_graph_sizes(n, corrupt, dropout, adversary, k, t):
    needs = Requirements(
        corrupt=corrupt, dropout=dropout, adversary=adversary, population="clients"
    )
    found = neighbourhood(n, needs)
    assert (found.neighbours, found.lowest) == (k, t)


@pytest.mark.parametrize(
    ("n", "corrupt", "dropout", "adversary", "cell"),
    [
        (100, 0.05, 0.05, "semi-honest", (12, 6, 7)),
        (1000, 0.05, 0.05, "active", (52, 37, 37)),
        (1000, 0.1, 0.1, "semi-honest", (48, 27, 28)),
        (1000, 0.2, 0.1, "active", (140, 104, 104)),
        (10_000, 0.33, 0.1, "semi-honest", (126, 88, 88)),
        (100, 0.05, 0.33, "active", (72, 39, 39)),
    ],
)
def test_k3_exact_population(n, corrupt, dropout, adversary, cell):
    found = neighbourhood(n, Requirements(corrupt=corrupt, dropout=dropout, adversary=adversary))
    assert (found.neighbours, found.lowest, found.highest) == cell


@pytest.mark.parametrize(
    ("corrupt", "dropout", "adversary"),
    [(0.5, 0.5, "semi-honest"), (0.33, 0.34, "active"), (0.5, 0.3, "active")],
)
def test_k3_infeasible_requirements_are_refused(corrupt, dropout, adversary):
    with pytest.raises(ParameterError, match='Use graph="complete"'):
        neighbourhood(200, Requirements(corrupt=corrupt, dropout=dropout, adversary=adversary))


@pytest.mark.parametrize(
    ("parameters", "honest"),
    [
        (Parameters(clients=100, length=1, corrupt=0.1), 51 - 10),
        (Parameters(clients=100, length=1, corrupt=0.1, adversary="active"), 67 - 10),
        (Parameters(clients=1000, length=1, graph="ring"), 501 - 50),
    ],
)
def test_e13_noise_is_to_be_sized_for_the_honest_survivors_that_are_guaranteed(parameters, honest):
    assert parameters.guaranteed_honest == honest
