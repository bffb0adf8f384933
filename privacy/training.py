"""`train`: the loop that spends the budget, round by round, and survives crashes.

A training algorithm is a function from the server's state to the next one that may *ask* certified
private programs. Each question is one draw of a cohort, one reservation and one release; asking twice
with the same cohort is refused by the ledger, because two questions to one cohort belong into one
program. After every round the state is checkpointed with the head of the ledger.

    update(state, ask):  delta = ask("training", model);  gradient = ask("hypergradient", ...);  ...

A crash repeats its round: what was released is taken from the journal without a charge, what was only
reserved stays spent. When the budget ends, training ends, with the state it has reached.

Sources: Rush, Charles, Garrett (JMLR 2024), Figs. 4-5; docs/ledger-slots.md, section 4.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from privacy.certificates import Certificate
from privacy.checkpoints import Checkpoint, CheckpointFile
from privacy.cohorts import Sampling
from privacy.errors import BudgetExceeded, MechanismError
from privacy.execution import run
from privacy.ledger import Ledger
from privacy.privatization import PrivateProgram
from privacy.releases import ReleaseJournal

State = TypeVar("State")
ClientData = Callable[[np.ndarray], Mapping[str, Any]]


@dataclass(frozen=True)
class Query:
    """A certified private program that a training algorithm may ask.

    Attributes:
      program: From `privatize`.
      certificate: From `audits.certify`.
    """

    program: PrivateProgram
    certificate: Certificate


class Ask(Protocol):
    """Asks a query on a fresh cohort and gives its released value.

    Server arguments are given in the order of the computation's parameters; client arguments are the
    cohort's. Each query can be asked once per round.
    """

    def __call__(self, name: str, *server_arguments: Any) -> Any:
        """The released value of query `name`."""
        ...


@dataclass(frozen=True)
class Trained:
    """Where training ended.

    Attributes:
      state: The server's state.
      rounds: Rounds finished, those before a resume included.
      stopped: Why it ended before the planned rounds, or "".
    """

    state: Any
    rounds: int
    stopped: str


def train(
    update: Callable[[State, Ask], State],
    state: State,
    *,
    queries: Mapping[str, Query],
    clients: ClientData,
    sampling: Sampling,
    ledger: Ledger,
    rounds: int,
    run_id: str,
    folder: str | os.PathLike[str],
    fidelity: Literal["protocol", "ideal"] = "protocol",
    measure: Callable[[State], Mapping[str, float]] = lambda _: {},
) -> Trained:
    """Trains for a number of rounds, or for as many as the ledger pays for.

    Guarantees:
      Every value that `update` gets was released through the ledger. A repeated call with the same
      folder continues after the last finished round and charges nothing twice.

    Args:
      update: One round: the state and `ask` to the next state.
      state: A tree of arrays, the server's state before the first round.
      queries: Name to certified program.
      clients: Indices of a cohort's members to its client arguments by parameter name, stacked.
      sampling: How cohorts are drawn.
      ledger: Pays.
      rounds: In all, those of earlier calls included.
      run_id: Names the run in the ledger.
      folder: For the journal, the checkpoint and `metrics.jsonl`.
      fidelity: See `run`.
      measure: What to write to `metrics.jsonl` of a state; must not look at client data.

    Raises:
      ResumeRefused: The folder's checkpoint belongs to another ledger or to an older copy of it.
      PrivacyError: A question was refused; finished rounds are in the checkpoint.
    """
    if not isinstance(rounds, int) or rounds < 0:
        raise MechanismError(f"Expected rounds as an int of at least 0, got {rounds!r}.")
    home = Path(folder)
    journal = ReleaseJournal(home / "releases")
    checkpoint = CheckpointFile(home / "checkpoint.npz")
    found = checkpoint.read(like=state, ledger=ledger)
    done, state = (0, state) if found is None else (found.round, found.state)
    stopped = ""
    while done < rounds and not stopped:
        questions = _Questions(queries, clients, sampling, ledger, run_id, done, journal, fidelity)
        try:
            state = update(state, questions)
        except BudgetExceeded as error:
            stopped = f"round {done}: {error}"
            break
        done += 1
        checkpoint.write(Checkpoint(done, state, ledger.head))
        _append_metrics(home / "metrics.jsonl", done, measure(state))
    return Trained(state, done, stopped)


@dataclass
class _Questions:
    """`Ask` for one round."""

    queries: Mapping[str, Query]
    clients: ClientData
    sampling: Sampling
    ledger: Ledger
    run_id: str
    round: int
    journal: ReleaseJournal
    fidelity: Literal["protocol", "ideal"]

    def __post_init__(self):
        self._asked: set[str] = set()

    def __call__(self, name: str, *server_arguments: Any) -> Any:
        query = self._fresh(name)
        cohort = self.sampling.draw()
        held = self.clients(cohort.members)
        result = run(
            query.program,
            _arguments(query.program, name, server_arguments, held),
            certificate=query.certificate,
            ledger=self.ledger,
            cohort=cohort,
            run_id=f"{self.run_id}/{name}",
            round=self.round,
            journal=self.journal,
            fidelity=self.fidelity,
        )
        return result.value

    def _fresh(self, name: str) -> Query:
        if name not in self.queries:
            raise MechanismError(
                f"Expected a query among {sorted(self.queries)}, got {name!r}. Pass it in queries."
            )
        if name in self._asked:
            raise MechanismError(
                f"Expected {name!r} at most once in a round, got it again. Give the second question a "
                "name of its own in queries."
            )
        self._asked.add(name)
        return self.queries[name]


def _arguments(
    private: PrivateProgram, name: str, server: tuple, held: Mapping[str, Any]
) -> list[Any]:
    """The program's arguments in order: client ones by name, server ones by position."""
    names = private.program.argument_names
    at_server = [n for n in names if n not in held]
    if len(at_server) != len(server):
        raise MechanismError(
            f"Expected the server arguments ({', '.join(at_server)}) for {name!r}, got {len(server)}."
        )
    given = dict(zip(at_server, server)) | {n: held[n] for n in names if n in held}
    return [given[n] for n in names]


def _append_metrics(path: Path, round: int, values: Mapping[str, float]) -> None:
    line = json.dumps({"round": round} | {k: float(v) for k, v in values.items()})
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
