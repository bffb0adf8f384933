"""Parameters: what every party of a round agrees on before it starts.

A client builds its own `Parameters` and never takes them from the server; they enter the round
context, so a server that uses others is not understood. Construction checks the threat model:
there is no way to hold a value with an unsafe threshold.

>>> Parameters(clients=10, length=4).threshold
6
>>> Parameters(clients=10, length=4, adversary="active").threshold
7
>>> Parameters(clients=1000, length=4, graph="ring").neighbours
30

Sources: Bonawitz et al. (2017), sections 6 and 7 (thresholds); Bell et al. (2020), section 3.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal

from secagg.crypto.context import framed
from secagg.errors import ParameterError
from secagg.protocol.sizing import Adversary, Requirements, neighbourhood, thresholds

MAX_CLIENTS = 1 << 20
MAX_LENGTH = 1 << 34


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Public parameters of one secure sum.

    Guarantees:
      Semi-honest: the server, even if it colludes with `corrupt` of the clients and, on the complete
      graph, lies about drop-outs, learns nothing but one sum over at least `quorum` clients. Active,
      complete graph: the same against a server that deviates in any way, provided the roster of
      identities is authentic. Ring, in both models: the same with probability
      1 - 2**-security_bits, for drop-outs and corrupt clients that were not chosen after the ring
      was known, and no more of either than stated; `min_cohort` = clients less stated drop-outs
      makes sure of that in the semi-honest model too.

    Attributes:
      clients: n, the number of invited clients; their indices are 0..n-1.
      length: d, entries of every client's vector.
      threshold: t, shares that rebuild a secret; t - 1 say nothing. None takes the least safe.
      modulus_bits: b, the ring is the integers mod 2**b, from 1 to 64.
      min_cohort: Least number of inputs in any released sum, at least 2.
      adversary: "semi-honest", or "active" with signed keys and the consistency phase.
      graph: "complete", or "ring" where a client shares secrets with k neighbours only.
      neighbours: k of the ring; None takes the least safe one.
      corrupt: Fraction of clients that may collude with the server.
      dropout: Fraction of clients that may drop out; sizes the ring.
      security_bits: Statistical security of the ring graph.
      correctness_bits: The ring fails for lack of shares with probability 2**-this at most.
    """

    clients: int
    length: int
    threshold: int | None = None
    modulus_bits: int = 32
    min_cohort: int = 3
    adversary: Adversary = "semi-honest"
    graph: Literal["complete", "ring"] = "complete"
    neighbours: int | None = None
    corrupt: float = 0.05
    dropout: float = 0.05
    security_bits: int = 40
    correctness_bits: int = 20

    def __post_init__(self):
        self._check_ranges()
        if self.graph == "complete":
            self._settle_complete()
        else:
            self._settle_ring()

    def _check_ranges(self) -> None:
        for name, low, high in (
            ("min_cohort", 2, MAX_CLIENTS),
            ("clients", self.min_cohort, MAX_CLIENTS),
            ("length", 0, MAX_LENGTH),
            ("modulus_bits", 1, 64),
            ("security_bits", 1, 256),
            ("correctness_bits", 1, 256),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ParameterError(
                    f"Expected {name} to be an integer from {low} to {high}, got {value!r}. "
                    f"Pass Parameters({name}=...) in that range."
                )
        if self.adversary not in ("semi-honest", "active"):
            raise ParameterError(
                f'Expected adversary "semi-honest" or "active", got {self.adversary!r}.'
            )
        if self.graph not in ("complete", "ring"):
            raise ParameterError(f'Expected graph "complete" or "ring", got {self.graph!r}.')
        if not (0 <= self.corrupt < 1 and 0 <= self.dropout < 1):
            raise ParameterError(
                f"Expected corrupt and dropout to be fractions in [0, 1), got {self.corrupt!r} "
                f"and {self.dropout!r}."
            )

    def _settle_complete(self) -> None:
        if self.neighbours is not None:
            raise ParameterError(
                f"Expected no neighbours for the complete graph, got {self.neighbours}. "
                'Use graph="ring" to choose k.'
            )
        lowest = self._majority
        if self.threshold is None:
            object.__setattr__(self, "threshold", lowest)
        self._check_threshold(lowest, self.clients)

    def _settle_ring(self) -> None:
        needs = Requirements(
            corrupt=self.corrupt,
            dropout=self.dropout,
            security_bits=self.security_bits,
            correctness_bits=self.correctness_bits,
            adversary=self.adversary,
        )
        if self.neighbours is None:
            object.__setattr__(self, "neighbours", neighbourhood(self.clients, needs).neighbours)
        k = self.neighbours
        if not isinstance(k, int) or k % 2 or not 2 <= k < self.clients - 1:
            raise ParameterError(
                f"Expected neighbours to be even, from 2 to {self.clients - 2}, got {k!r}. "
                'Leave neighbours out, or use graph="complete".'
            )
        found = thresholds(self.clients, k, needs)
        if found is None:
            raise ParameterError(
                f"Expected enough neighbours for {self.clients} clients with corrupt="
                f"{self.corrupt} and dropout={self.dropout} at {self.security_bits} bits, got "
                f"{k}. Leave neighbours out to take the least safe number."
            )
        if self.threshold is None:
            object.__setattr__(self, "threshold", found.lowest)
        self._check_threshold(found.lowest, found.highest)

    def _check_threshold(self, lowest: int, highest: int) -> None:
        if not isinstance(self.threshold, int) or not lowest <= self.threshold <= highest:
            raise ParameterError(
                f"Expected a threshold from {lowest} to {highest} for {self.clients} clients, "
                f"the {self.graph} graph and the {self.adversary} server, got {self.threshold!r}. "
                "Leave threshold out to take the least safe one."
            )

    @property
    def active(self) -> bool:
        """Whether keys are signed and survivors confirmed."""
        return self.adversary == "active"

    @property
    def quorum(self) -> int:
        """Least number of clients in every phase, and so of inputs in any released sum.

        On the complete graph it is the threshold. On the ring the threshold is about one
        neighbourhood, so the quorum is what the complete graph would need; against the active
        server, who may make clients drop out, also no more drop-outs than were declared.
        """
        if self.graph == "complete":
            return max(self.min_cohort, self.shares_needed)
        present = self.clients - math.floor(self.dropout * self.clients) if self.active else 0
        return max(self.min_cohort, self._majority, present)

    @property
    def _majority(self) -> int:
        """More than half the clients and more than the corrupt ones.

        Against the active server: more than two thirds, and so many that any two such sets have
        an honest client in common.
        """
        n, corrupt = self.clients, math.floor(self.corrupt * self.clients)
        if self.active:
            return max(2 * n // 3, (n + corrupt) // 2) + 1
        return max(n // 2, corrupt) + 1

    @property
    def guaranteed_honest(self) -> int:
        """Least number of honest inputs in any released sum: the quorum less the corrupt clients.

        Noise that clients add themselves must be sized for this number, not for `clients`.
        """
        return self.quorum - math.floor(self.corrupt * self.clients)

    @property
    def shares_needed(self) -> int:
        """The threshold as a settled integer."""
        assert self.threshold is not None
        return self.threshold

    def canonical(self) -> bytes:
        """Bytes that differ whenever any field differs; they enter the round context."""
        return framed(*(repr(getattr(self, item.name)).encode() for item in fields(self)))
