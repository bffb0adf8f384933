"""Results: what a private evaluation returns, split by who may have it.

Server results come from noisy sums. Client results are raw values of clients: a simulation has them, a
server never does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from privacy.mechanisms.privatization import PrivateProgram
from secfad import CLIENTS


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a private evaluation.

    Attributes:
      value: The computation's result at the server, computed from noisy sums; None in place of
        client results.
      at_clients: The client results, stacked over the cohort; None in place of server results. They
        are raw client values: a simulation has them, a server never does. A replay recomputes them
        from its arguments.
      seq: The ledger's record of the charge.
      noise_multiplier: Joint multiplier of all releases.
      releases: Names of the sums of every round.
      bytes_up: Bytes that one client sent, on average over the cohort; 0 for a replay. They depend
        on the secret cohort size: see `privacy.execution.traffic`.
      bytes_down: Bytes that one client received, including broadcasts; 0 for a replay.
      replayed: The release came from the journal and nothing was charged.
      transcripts: Of secure aggregation, one per round, with distributed noise. Empty with central
        noise, because a transcript holds the decoded sum before the server adds noise.
      norm_squares: The squared norm of the released sums under each bound, for
        `privacy.execution.clip_activity`.
      secure_sums: The assumptions of secure aggregation: graph, adversary, colluding and dropped
        clients, and the probabilities; see `privacy.execution.secure_sums`. They do not depend on
        who took part.
      digest: Digest of the releases, which a ledger commits.
      survivors: Positions in the cohort of the clients that are in the sums, as secret as the cohort;
        None for all of them, and for a replay.
    """

    value: Any
    at_clients: Any = field(repr=False)
    seq: int
    noise_multiplier: float
    releases: tuple[str, ...]
    bytes_up: float
    bytes_down: float
    replayed: bool = False
    transcripts: tuple[Any, ...] = field(default=(), repr=False)
    norm_squares: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    secure_sums: Mapping[str, Any] = field(default_factory=dict, repr=False)
    digest: str = ""
    survivors: tuple[int, ...] | None = field(default=None, repr=False)

    def public_record(self) -> dict[str, Any]:
        """The public facts about the release, independent of who took part.

        Bytes are omitted, because they depend on the cohort size.
        """
        return {"seq": self.seq, "replayed": self.replayed, "clipping": list(self.norm_squares)}


def by_place(private_program: PrivateProgram, value: Any) -> tuple[Any, Any]:
    """Splits a result into server results and client results."""
    places = private_program.program.out_placements
    leaves, tree = jax.tree.flatten(value)
    server = [None if place is CLIENTS else leaf for leaf, place in zip(leaves, places)]
    clients = [leaf if place is CLIENTS else None for leaf, place in zip(leaves, places)]
    return jax.tree.unflatten(tree, server), jax.tree.unflatten(tree, clients)
