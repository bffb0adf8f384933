"""`train`: the training loop, which spends the budget round by round and survives crashes.

A training algorithm is a function from the server's state to the next one that may *ask* certified
private programs. Each question is one draw of a cohort, one reservation and one release. The ledger
refuses a second question to the same cohort, because two questions to one cohort must be one
program. After every round the state is checkpointed with the head of the ledger. Ready-made
algorithms are in `privacy.training.algorithms` and `privacy.training.hypergradients`.

    update(state, ask):  delta = ask("training", model);  gradient = ask("hypergradient", ...);  ...

Client results of a question stay with their clients; see `privacy.training.client_state`. After a
crash the round is repeated: releases are read from the journal without a charge, and mere
reservations stay spent. When the budget ends, training ends with the current state.

Sources: Rush, Charles, Garrett (JMLR 2024), Figs. 4-5; docs/ledger-slots.md, section 4.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from privacy.errors import BudgetExceeded, MechanismError
from privacy.execution.aggregation import Faults
from privacy.execution.clip_activity import ClipActivity, clip_activity
from privacy.execution.cohorts import Cohort, Sampling
from privacy.execution.evaluations import Evaluation
from privacy.execution.execution import run
from privacy.execution.queries import Query
from privacy.execution.results import Result
from privacy.execution.run_arguments import check_held, check_next_state, check_training
from privacy.execution.secure_sums import Adversary, GraphChoice, SecureSums
from privacy.ledger.ledger import Ledger
from privacy.training.checkpoints import Checkpoint
from privacy.training.client_files import Kept
from privacy.training.client_state import (
    ClientState,
    check_kept,
    held_by_clients,
    kept_by,
    kept_names,
)
from privacy.training.run_files import RunFiles, round_line

State = TypeVar("State")
ClientData = Callable[[np.ndarray], Mapping[str, Any]]


class Ask(Protocol):
    """Asks a query on a fresh cohort and returns its released value.

    Pass server arguments in the order of the computation's parameters; the client arguments are
    those of the cohort. Each query can be asked once per round.
    """

    def __call__(self, name: str, *server_arguments: Any) -> Any:
        """The released value of query `name`."""
        ...


class LastRound(Exception):
    """Raised by an update whose budget ended during the round: the round counts, and it is the last.

    Without it the round would be dropped, including its paid releases. The state is the server's
    after the completed part.
    """

    def __init__(self, state: Any, reason: str):
        super().__init__(reason)
        self.state = state
        self.reason = reason


@dataclass(frozen=True)
class Trained:
    """The result of training.

    Attributes:
      state: The server's state.
      rounds: Finished rounds, including those before a resume.
      stopped: Why it ended before the planned rounds, or "".
      metrics: One entry per round, beginning with the initial state: the result of `measure`, and
        under "releases" the public facts about each release.
      clipping: Query to the estimates for its clip bounds from all its releases; read `statement`
        if it is not empty.
      client_state: The state of every client, stacked over the population; as secret as the data.
    """

    state: Any
    rounds: int
    stopped: str
    metrics: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    clipping: Mapping[str, tuple[ClipActivity, ...]] = field(default_factory=dict)
    client_state: Mapping[str, Any] = field(default_factory=dict, repr=False)


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
    client_state: Mapping[str, Any] | None = None,
    fidelity: Literal["protocol", "ideal"] = "protocol",
    graph: GraphChoice = "auto",
    adversary: Adversary = "semi-honest",
    corrupt: float = 0.05,
    dropout: float = 0.05,
    faults: Faults = lambda _: (),
    measure: Callable[[State], Mapping[str, float]] = lambda _: {},
    observe: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Trained:
    """Trains for a number of rounds, or for as many as the ledger pays for.

    Guarantees:
      Every value that `update` receives was released through the ledger. A repeated call with the
      same folder resumes after the last finished round and charges nothing twice. Client results of
      a question reach nobody else: not `update`, the journal, the metrics or the checkpoint.

    Args:
      update: One round: maps the state and `ask` to the next state. It must be deterministic,
        because a crash repeats it.
      state: A tree of arrays, the server's state before the first round.
      queries: Name to certified program.
      clients: Maps the indices of a cohort's members to its stacked client arguments by parameter
        name, without those in `client_state`.
      sampling: The sampling of the cohorts.
      ledger: The ledger that is charged.
      rounds: Total number of rounds, including those of earlier calls.
      run_id: Name of the run in the ledger; the query's name is appended.
      folder: Folder for the journal, the checkpoint and `metrics.jsonl`, which are as public as the
        model, and for the folder `clients` of client state, which is as secret as the data.
      client_state: Client argument to its initial value for every client, with a leading axis of
        the population. After a round that counts, the members of its cohorts whose contributions
        counted keep the results named by the query's `keep`; all others keep their old rows. It is
        rewritten after every round.
      fidelity: See `run`.
      graph: See `run`.
      adversary: See `run`.
      corrupt: See `run`.
      dropout: See `run`.
      faults: See `run`; the same for every question.
      measure: Maps a state to the numbers in `metrics.jsonl`; must not use client data.
      observe: Called with the newest line at the start and after each round, when it is durable.

    Raises:
      ResumeRefused: The checkpoint or the journal belongs to another run, state or ledger, or the
        ledger is an old copy.
      LedgerCorrupt: The ledger does not verify; this is checked before the first question.
      StorageFailed: The disk is full or cannot be written; call again once there is room.
      RunRefused: A query has a client result that nothing keeps.
      SizeNotPublic: Clients add the noise of a query, and the size of a cohort would be a secret.
      NoBoundKnown: The ledger holds charges whose price is not a bound.
      PrivacyError: A question was refused; the checkpoint holds the finished rounds.
    """
    check_training(
        update=update, state=state, queries=queries, clients=clients, sampling=sampling,
        ledger=ledger, rounds=rounds, run_id=run_id, folder=folder, client_state=client_state,
        fidelity=fidelity, faults=faults, measure=measure, observe=observe,
    )  # fmt: skip
    sums = SecureSums(graph=graph, adversary=adversary, corrupt=corrupt, dropout=dropout)
    for query in queries.values():
        query.check_sampling(sampling, ledger.charter.relation)
    ledger.bounds.require()
    ledger.verify_once()
    kept = ClientState(client_state or {}, sampling.population)
    check_kept(queries, kept, sampling)
    home = RunFiles(Path(folder), kept)
    found = home.begin(Checkpoint(run_id, 0, state, ledger.head), ledger, measure)
    observe(home.metrics.read()[-1])
    done, state, stopped = found.round, found.state, found.stopped
    while done < rounds and not stopped:
        ask = _Questions(
            queries, clients, sampling, ledger, run_id, done, home, sums, fidelity, faults
        )
        before = state
        try:
            state = update(state, ask)
        except BudgetExceeded as error:
            stopped = f"round {done}: {error}"
            home.kept.drop()
            break
        except LastRound as error:
            state, stopped = error.state, f"round {done}: {error.reason}"
        check_next_state(state, before)
        done += 1
        line = round_line(done, measure(state), ask.results)
        home.end_round(line, Checkpoint(run_id, done, state, ledger.head, stopped))
        observe(line)
    lines = home.metrics.read()
    clipping = _clipping(queries, lines, sampling)
    return Trained(state, done, stopped, tuple(lines), clipping, home.kept.whole)


def _clipping(
    queries: Mapping[str, Query], lines: Sequence[Mapping[str, Any]], sampling: Sampling
) -> dict[str, tuple[ClipActivity, ...]]:
    found = {}
    for name, query in queries.items():
        releases = [line["releases"][name] for line in lines if name in line["releases"]]
        records = [release["clipping"] for release in releases]
        found[name] = clip_activity(query.program, records, sampling)
    return found


@dataclass
class _Questions:
    """`Ask` for one round."""

    queries: Mapping[str, Query]
    clients: ClientData
    sampling: Sampling
    ledger: Ledger
    run_id: str
    round: int
    home: RunFiles
    sums: SecureSums
    fidelity: Literal["protocol", "ideal"]
    faults: Faults
    results: dict[str, Result] = field(default_factory=dict)

    def __post_init__(self):
        self._asked: set[str] = set()

    def __call__(self, name: str, *server_arguments: Any) -> Any:
        query = self._fresh(name)
        cohort = self.sampling.draw()
        self._require_members(name, query, cohort)
        state, files = self.home.kept, self.home.client_files
        kept: list[Kept] = []

        def keep(result: Result) -> None:
            if query.keep is not None:
                kept.append(kept_by(query, result, cohort.members))
                files.write_kept(kept[0])

        result = run(
            query.program,
            _arguments(query, name, server_arguments, self._held(name, query, cohort.members)),
            certificate=query.certificate,
            ledger=self.ledger,
            cohort=cohort,
            run_id=f"{self.run_id}/{name}",
            round=self.round,
            journal=self.home.journal,
            fidelity=self.fidelity,
            graph=self.sums.graph,
            adversary=self.sums.adversary,
            corrupt=self.sums.corrupt,
            dropout=self.sums.dropout,
            faults=self.faults,
            acknowledge=query.acknowledge,
            keep=keep,
        )
        if result.replayed and query.keep is not None:
            like = {name: state.whole[name] for name in kept_names(query)}
            kept.append(files.read_kept(result.seq, result.digest, like=like))
        for one in kept:
            state.hold(one.rows, one.members)
        self.results[name] = result
        return result.value

    def _require_members(self, name: str, query: Query, cohort: Cohort) -> None:
        """Refuses a draw that is too small before calling `clients`."""
        run_id = f"{self.run_id}/{name}"
        evaluation = Evaluation(query.program, self.ledger, cohort, run_id, self.round)
        with evaluation.charged_if_refused(self.home.journal):
            evaluation.require_large_enough()

    def _held(self, name: str, query: Query, members: np.ndarray) -> dict[str, Any]:
        """The client arguments of a cohort: from `clients` and from client state."""
        held, state = check_held(self.clients(members), name), self.home.kept
        both = sorted(set(held) & set(state.names))
        if both:
            raise MechanismError(
                f"Expected client arguments for {name!r} from `clients` or from client_state, got "
                f"({', '.join(both)}) from both. Client state stays with the clients: omit it from "
                "`clients`."
            )
        mine = [argument for argument in held_by_clients(query) if argument in state.names]
        return held | {argument: state.rows(argument, members) for argument in mine}

    def _fresh(self, name: str) -> Query:
        if not isinstance(name, str) or name not in self.queries:
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


def _arguments(query: Query, name: str, server: tuple, held: Mapping[str, Any]) -> list[Any]:
    """The program's arguments in order: client ones by name, server ones by position."""
    program = query.program.program
    at_clients = held_by_clients(query)
    at_server = [n for n in program.argument_names if n not in at_clients]
    if any(n not in held for n in at_clients) or any(n in held for n in at_server):
        raise MechanismError(
            f"Expected the client arguments ({', '.join(at_clients)}) from `clients` for {name!r}, and "
            f"none of the server's, got ({', '.join(held)}). What clients hold is never a server's."
        )
    if len(at_server) != len(server):
        raise MechanismError(
            f"Expected the server arguments ({', '.join(at_server)}) for {name!r}, got {len(server)}."
        )
    given = dict(zip(at_server, server)) | {n: held[n] for n in at_clients}
    return [given[n] for n in program.argument_names]
