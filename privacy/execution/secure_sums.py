"""The secure sums of a run: their graph and their adversary.

A run states its assumptions once: how many clients may collude with the server, and how many may
drop out. On the complete graph every client exchanges keys with every other client. On the ring it
exchanges keys with the fewest neighbours that the assumptions allow, which makes large cohorts
affordable. The ring's claims are probabilistic and hold only up to the stated drop-outs. With more
drop-outs the run aborts and releases nothing.

>>> sums = SecureSums()
>>> sums.graph_of(99, fewest=3), sums.graph_of(1000, fewest=3)
('complete', 'ring')

Sources: Bonawitz et al. (2017) for the complete graph; Bell et al. (2020), section 3, for the ring;
docs/threat-model.md, "The graph of a private run".
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import secagg
from privacy.checking import expect_choice, expect_number
from privacy.errors import MechanismError, RunRefused
from privacy.mechanisms.mechanisms import Mechanism

MIN_COHORT = 3
# Below, a ring saves little; the complete graph does not depend on who drops out.
RING_FROM = 100
SECURITY_BITS = 40
CORRECTNESS_BITS = 20

GraphChoice = Literal["auto", "complete", "ring"]
Adversary = Literal["semi-honest", "active"]


@dataclass(frozen=True, kw_only=True)
class SecureSums:
    """The assumptions of a run's secure aggregation, and the resulting graph.

    Guarantees:
      In every round the server learns one sum, over the reported survivors. On the ring this fails
      with probability at most 2**-SECURITY_BITS, if at most the stated clients collude and the
      drop-outs do not depend on the ring. A round with no more drop-outs than stated, or than the
      charge for noise by clients allows, completes. On the ring this fails with probability at most
      2**-CORRECTNESS_BITS; on the complete graph it always holds if more than half of the clients
      stay (active: two thirds).

    Attributes:
      graph: "complete"; "ring"; or "auto": the ring for RING_FROM or more clients against the
        semi-honest server, if a ring exists, and otherwise the complete graph.
      adversary: "semi-honest": the server follows the protocol. "active": it may send anything; clients
        sign their keys and confirm the survivors. That is analysed on the complete graph only.
      corrupt: Fraction of a cohort's clients that may collude with the server.
      dropout: Fraction that may drop out.
    """

    graph: GraphChoice = "auto"
    adversary: Adversary = "semi-honest"
    corrupt: float = 0.05
    dropout: float = 0.05

    def __post_init__(self):
        for name, known in (("graph", GraphChoice), ("adversary", Adversary)):
            expect_choice(getattr(self, name), get_args(known), name, error=MechanismError)
        for name in ("corrupt", "dropout"):
            expected = "a fraction in [0, 1)"
            expect_number(getattr(self, name), name, expected, "", lambda value: 0 <= value < 1)
        if self.graph == "ring" and self.adversary == "active":
            raise MechanismError(
                'Expected graph="complete" or "auto" against the active server, got "ring": such a '
                "server knows the ring before it says who dropped out, and the bounds of the ring are "
                'for drop-outs that do not depend on it. Pass graph="complete".'
            )

    def parameters(
        self, mechanism: Mechanism, *, clients: int, length: int, modulus_bits: int
    ) -> secagg.Parameters:
        """The parameters of one secure sum.

        Guarantees:
          If clients add the noise, a released sum includes at least as many clients as the charge
          assumes. On the ring, no more clients are missing than its size allows.

        Raises:
          RunRefused: No parameters meet the assumptions for this number of clients.
        """
        fewest = self.fewest(mechanism, clients)
        graph = self.graph_of(clients, fewest=fewest)
        sized = self._ring(clients, fewest) if graph == "ring" else {"corrupt": self.corrupt}
        try:
            return secagg.Parameters(
                clients=clients,
                length=length,
                modulus_bits=modulus_bits,
                graph=graph,
                adversary=self.adversary,
                **({"min_cohort": fewest} | sized),
            )
        except secagg.ParameterError as error:
            raise RunRefused(
                f"Expected a cohort for which secure sums meet the stated assumptions, got {error} "
                "Nothing was sent."
            ) from error

    def require(self, mechanism: Mechanism, clients: int) -> None:
        """Refuses a number of clients for which no parameters meet the assumptions.

        Raises:
          RunRefused: No such parameters exist.
        """
        self.parameters(mechanism, clients=clients, length=0, modulus_bits=1)

    def fewest(self, mechanism: Mechanism, clients: int) -> int:
        """The fewest survivors of a released sum: those whose noise was charged, if clients add it."""
        if not mechanism.by_clients:
            return MIN_COHORT
        return max(MIN_COHORT, mechanism.guaranteed_survivors(clients))

    def graph_of(self, clients: int, *, fewest: int) -> Literal["complete", "ring"]:
        """The graph of a cohort of this size; `fewest` as of `fewest`."""
        if self.graph != "auto":
            return self.graph
        if self.adversary == "active" or clients < RING_FROM:
            return "complete"
        try:
            secagg.Parameters(
                clients=clients, length=0, graph="ring", **self._ring(clients, fewest)
            )
        except secagg.ParameterError:
            return "complete"
        return "ring"

    def _ring(self, clients: int, fewest: int) -> dict[str, Any]:
        """The size of a ring for which `fewest` survivors, or the stated drop-outs, are enough.

        The ring is drawn among the clients that announced keys. If others are missing by then, the
        corrupt clients are a larger fraction of it.
        """
        gone = math.floor(self.dropout * clients)
        if fewest > MIN_COHORT:
            gone = max(gone, clients - fewest)
        return {
            "min_cohort": max(MIN_COHORT, clients - gone),
            "dropout": min((gone + 0.5) / clients, 1 - 1e-9),  # so that its floor is `gone` clients
            "corrupt": min(self.corrupt * clients / (clients - gone), 1 - 1e-9),
            "security_bits": SECURITY_BITS,
            "correctness_bits": CORRECTNESS_BITS,
        }

    def record(self, mechanism: Mechanism) -> dict[str, Any]:
        """The assumptions as JSON; independent of the size of a cohort."""
        dropout = self.dropout
        if mechanism.by_clients:
            dropout = max(dropout, 1 - mechanism.honest_survivors)
        return {
            "graph": self.graph,
            "ring_from": RING_FROM if self._may_be_a_ring and self.graph == "auto" else None,
            "adversary": self.adversary,
            "corrupt": self.corrupt,
            "dropout": round(dropout, 12),
            "security_bits": SECURITY_BITS if self._may_be_a_ring else None,
            "correctness_bits": CORRECTNESS_BITS if self._may_be_a_ring else None,
        }

    @property
    def _may_be_a_ring(self) -> bool:
        return self.graph != "complete" and self.adversary == "semi-honest"

    def statement(self, mechanism: Mechanism) -> str:
        """The assumptions in one line, for plans and reports."""
        stated = self.record(mechanism)
        article = "an" if self.adversary == "active" else "a"
        against = f"Secure sums against {article} {self.adversary} server"
        colluding = f"with which up to {self.corrupt:.3g} of a cohort may collude"
        if not self._may_be_a_ring:
            return f"{against}, {colluding}, on the complete graph."
        where = f" from {RING_FROM} clients on" if self.graph == "auto" else ""
        return (
            f"{against}, {colluding}, on a ring{where}: one sum per round but with probability "
            f"2^-{SECURITY_BITS}, if drop-outs do not depend on the ring; more drop-outs than "
            f"{stated['dropout']:.3g} of a cohort abort the round."
        )


STANDARD = SecureSums()
"""The default assumptions of a run."""
