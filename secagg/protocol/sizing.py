"""How many neighbours and which threshold: the exact (k, t) calculation for the ring graph.

Three events decide whether a k-regular ring is safe. An honest client must not be surrounded by
t corrupt neighbours (E1); the honest survivors must stay connected (E2), else the server learns
one sum per part; every client whose secret is rebuilt needs t live neighbours (E3). All three
are tails of hypergeometric distributions, so no simulation is needed.

>>> neighbourhood(1000, Requirements(corrupt=0.05, dropout=0.05))
Neighbourhood(neighbours=30, lowest=17, highest=18)

Sources: Bell et al. (2020), sections 3.3 and 4; docs/secagg-spec.md, section "Graph".
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from secagg.errors import ParameterError

Adversary = Literal["semi-honest", "active"]


@dataclass(frozen=True)
class Neighbourhood:
    """A feasible number of neighbours and the thresholds that go with it.

    Attributes:
      neighbours: k, even, or n - 1 for the complete graph.
      lowest: Least threshold that keeps E1 below the statistical security level.
      highest: Greatest threshold that keeps E3 below the correctness level.
    """

    neighbours: int
    lowest: int
    highest: int


def log_choose(n: int, k: int) -> float:
    """Natural logarithm of the binomial coefficient; minus infinity outside 0..n."""
    if k < 0 or k > n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def hypergeometric(population: int, marked: int, draws: int) -> np.ndarray:
    """Probabilities of 0..draws marked items among `draws` drawn without replacement."""
    total = log_choose(population, draws)
    return np.array(
        [
            math.exp(log_choose(marked, x) + log_choose(population - marked, draws - x) - total)
            for x in range(draws + 1)
        ]
    )


def disconnection_bound(clients: int, neighbours: int, bad: int) -> float:
    """Union bound on two disjoint runs of k/2 consecutive bad clients on the ring (E2)."""
    if neighbours > bad:
        return 0.0
    pairs = clients * (clients - neighbours - 1) / 2
    log_runs = log_choose(clients - neighbours, bad - neighbours) - log_choose(clients, bad)
    return pairs * math.exp(log_runs) if pairs > 0 else 0.0


def captured_neighbours(clients: int, corrupt: np.ndarray, level: float) -> int:
    """Least x with clients * Pr[more than x corrupt neighbours] <= level."""
    tail = np.append(np.cumsum(corrupt[::-1])[::-1][1:], 0.0)
    return int(np.argmax(clients * tail <= level))


def live_neighbours(clients: int, live: np.ndarray, level: float) -> int:
    """Greatest y with clients * Pr[fewer than y live neighbours] <= level."""
    below = np.concatenate([[0.0], np.cumsum(live)[:-1]])
    return int(np.flatnonzero(clients * below <= level)[-1])


@dataclass(frozen=True)
class Requirements:
    """What the ring has to withstand.

    Attributes:
      corrupt: Fraction of clients that collude with the server.
      dropout: Fraction of clients that drop out.
      security_bits: sigma, statistical security.
      correctness_bits: eta, a round fails for lack of shares with probability 2**-eta at most.
      adversary: The active server tells neighbours different stories, which needs a higher t.
      population: "others" draws neighbours from the n - 1 other clients (exact); "clients"
        draws them from all n, which is how the published values were computed.
    """

    corrupt: float = 0.05
    dropout: float = 0.05
    security_bits: int = 40
    correctness_bits: int = 20
    adversary: Adversary = "semi-honest"
    population: Literal["others", "clients"] = "others"


@lru_cache(maxsize=4096)
def thresholds(clients: int, neighbours: int, needs: Requirements) -> Neighbourhood | None:
    """The thresholds that k neighbours allow, or None if k is too small.

    Guarantees:
      Against at most ⌊corrupt·n⌋ corrupt clients fixed before the ring is drawn, E1 or E2 happens
      with probability at most 2**-security_bits; with at most ⌊dropout·n⌋ drop-outs chosen
      independently of the ring, E3 fails with probability at most 2**-correctness_bits. Against
      the active server, 2t exceeds k plus the corrupt neighbours, so nobody's two secrets can
      both be rebuilt.

    Source: Bell et al. (2020), Theorem 3.10 and its events.
    """
    bad, gone = math.floor(needs.corrupt * clients), math.floor(needs.dropout * clients)
    others = clients - 1 if needs.population == "others" else clients
    level = 2.0 ** -(needs.security_bits + 1)
    if disconnection_bound(clients, neighbours, bad + gone) > level:
        return None
    captors = hypergeometric(others, min(bad, others), neighbours)
    captured = captured_neighbours(clients, captors, level)
    honest = needs.adversary == "semi-honest"
    lowest = captured + 1 if honest else (neighbours + captured) // 2 + 1
    lowest = max(2, lowest)  # one share must never be the secret itself
    live = hypergeometric(others, others - gone, neighbours)
    highest = live_neighbours(clients, live, 2.0**-needs.correctness_bits)
    return Neighbourhood(neighbours, lowest, highest) if lowest <= highest else None


@lru_cache(maxsize=1024)
def neighbourhood(clients: int, needs: Requirements) -> Neighbourhood:
    """Finds the least even k with a non-empty range of thresholds, see `thresholds`.

    Raises:
      ParameterError: No k below n - 1 is feasible; use the complete graph.
    """
    for neighbours in range(2, clients - 1, 2):
        found = thresholds(clients, neighbours, needs)
        if found is not None:
            return found
    raise ParameterError(
        f"Expected a ring of fewer than {clients - 1} neighbours that tolerates "
        f"{needs.corrupt:.0%} corrupt and {needs.dropout:.0%} dropped clients at "
        f"{needs.security_bits} bits against the {needs.adversary} server, found none for "
        f'{clients} clients. Use graph="complete".'
    )
