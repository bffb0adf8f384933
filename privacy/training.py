"""`train`: the loop that spends the budget, round by round, and survives crashes.

A training algorithm is a function from the server's state to the next one that may *ask* certified
private programs. Each question is one draw of a cohort, one reservation and one release; asking twice
with the same cohort is refused by the ledger, because two questions to one cohort belong into one
program. After every round the state is checkpointed with the head of the ledger. Ready-made
algorithms are in `privacy.algorithms` and `privacy.hypergradients`.

    update(state, ask):  delta = ask("training", model);  gradient = ask("hypergradient", ...);  ...

A crash repeats its round: what was released is taken from the journal without a charge, what was only
reserved stays spent. When the budget ends, training ends, with the state it has reached.

Sources: Rush, Charles, Garrett (JMLR 2024), Figs. 4-5; docs/ledger-slots.md, section 4.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from privacy.checkpoints import Checkpoint, CheckpointFile
from privacy.clip_activity import ClipActivity, clip_activity
from privacy.cohorts import Sampling
from privacy.errors import BudgetExceeded, MechanismError
from privacy.execution import Result, run
from privacy.ledger import Ledger
from privacy.metrics import MetricsFile
from privacy.queries import Query
from privacy.releases import ReleaseJournal
from secfad import CLIENTS, Program

State = TypeVar("State")
ClientData = Callable[[np.ndarray], Mapping[str, Any]]


class Ask(Protocol):
    """Asks a query on a fresh cohort and gives its released value.

    Server arguments are given in the order of the computation's parameters; client arguments are the
    cohort's. Each query can be asked once per round.
    """

    def __call__(self, name: str, *server_arguments: Any) -> Any:
        """The released value of query `name`."""
        ...


class LastRound(Exception):
    """Raised by an update whose budget ended half-way: its round counts, and is the last.

    Without it the round would be dropped, and with it what was already paid for.

    Attributes:
      state: The server's state after what could be done.
      reason: Why nothing follows.
    """

    def __init__(self, state: Any, reason: str):
        super().__init__(reason)
        self.state = state
        self.reason = reason


@dataclass(frozen=True)
class Trained:
    """Where training ended.

    Attributes:
      state: The server's state.
      rounds: Rounds finished, those before a resume included.
      stopped: Why it ended before the planned rounds, or "".
      metrics: One entry per round, beginning with the state before the first: what `measure` gave,
        and under "releases" what is public about each release.
      clipping: Query to what its releases, all together, say about its clip bounds: read
        `statement` where there is one.
    """

    state: Any
    rounds: int
    stopped: str
    metrics: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    clipping: Mapping[str, tuple[ClipActivity, ...]] = field(default_factory=dict)


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
    observe: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Trained:
    """Trains for a number of rounds, or for as many as the ledger pays for.

    Guarantees:
      Every value that `update` gets was released through the ledger. A repeated call with the same
      folder continues after the last finished round and charges nothing twice.

    Args:
      update: One round: the state and `ask` to the next state; deterministic, as a crash repeats it.
      state: A tree of arrays, the server's state before the first round.
      queries: Name to certified program.
      clients: Indices of a cohort's members to its client arguments by parameter name, stacked.
      sampling: How cohorts are drawn.
      ledger: Pays.
      rounds: In all, those of earlier calls included.
      run_id: Names the run in the ledger; the query's name is added to it.
      folder: For the journal, the checkpoint and `metrics.jsonl`.
      fidelity: See `run`.
      measure: What to write to `metrics.jsonl` of a state; must not look at client data.
      observe: Called with the newest line at the start and after each round, when it is durable.

    Raises:
      ResumeRefused: The checkpoint is of another run, state or ledger, or the ledger is an old copy.
      PrivacyError: A question was refused; finished rounds are in the checkpoint.
    """
    if not isinstance(rounds, int) or rounds < 0:
        raise MechanismError(f"Expected rounds as an int of at least 0, got {rounds!r}.")
    home = _Home(Path(folder))
    found = home.begin(Checkpoint(run_id, 0, state, ledger.head), ledger, measure)
    observe(home.metrics.read()[-1])
    done, state, stopped = found.round, found.state, found.stopped
    while done < rounds and not stopped:
        ask = _Questions(queries, clients, sampling, ledger, run_id, done, home.journal, fidelity)
        try:
            state = update(state, ask)
        except BudgetExceeded as error:
            stopped = f"round {done}: {error}"
            break
        except LastRound as error:
            state, stopped = error.state, f"round {done}: {error.reason}"
        done += 1
        line = _line(done, measure(state), ask.results)
        home.end_round(line, Checkpoint(run_id, done, state, ledger.head, stopped))
        observe(line)
    lines = home.metrics.read()
    return Trained(state, done, stopped, tuple(lines), _clipping(queries, lines, sampling))


class _Home:
    """The files of a run in its folder."""

    def __init__(self, folder: Path):
        self.journal = ReleaseJournal(folder / "releases")
        self.checkpoint = CheckpointFile(folder / "checkpoint.npz")
        self.metrics = MetricsFile(folder / "metrics.jsonl")

    def begin(
        self,
        first: Checkpoint,
        ledger: Ledger,
        measure: Callable[[Any], Mapping[str, float]],
    ) -> Checkpoint:
        """Where an earlier call ended; `first` where there was none."""
        found = self.checkpoint.read(like=first.state, ledger=ledger, run_id=first.run_id)
        if found is not None:
            self.metrics.keep(found.round)
            return found
        self.metrics.clear()
        self.metrics.append(_line(0, measure(first.state), {}))
        return first

    def end_round(self, line: Mapping[str, Any], checkpoint: Checkpoint) -> None:
        """Metrics are durable before the checkpoint that counts the round."""
        self.metrics.append(line)
        self.checkpoint.write(checkpoint)


def _clipping(
    queries: Mapping[str, Query], lines: Sequence[Mapping[str, Any]], sampling: Sampling
) -> dict[str, tuple[ClipActivity, ...]]:
    found = {}
    for name, query in queries.items():
        releases = [line["releases"][name] for line in lines if name in line["releases"]]
        records = [release["clipping"] for release in releases]
        found[name] = clip_activity(query.program, records, sampling)
    return found


def _line(
    done: int, measured: Mapping[str, float], results: Mapping[str, Result]
) -> dict[str, Any]:
    releases = {name: result.public_record() for name, result in results.items()}
    return {"round": done} | {k: float(v) for k, v in measured.items()} | {"releases": releases}


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
    results: dict[str, Result] = field(default_factory=dict)

    def __post_init__(self):
        self._asked: set[str] = set()

    def __call__(self, name: str, *server_arguments: Any) -> Any:
        query = self._fresh(name)
        cohort = self.sampling.draw()
        held = self.clients(cohort.members)
        self.results[name] = run(
            query.program,
            _arguments(query, name, server_arguments, held),
            certificate=query.certificate,
            ledger=self.ledger,
            cohort=cohort,
            run_id=f"{self.run_id}/{name}",
            round=self.round,
            journal=self.journal,
            fidelity=self.fidelity,
            acknowledge=query.acknowledge,
        )
        return self.results[name].value

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


def _arguments(query: Query, name: str, server: tuple, held: Mapping[str, Any]) -> list[Any]:
    """The program's arguments in order: client ones by name, server ones by position."""
    program = query.program.program
    at_clients = _held_by_clients(program)
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


def _held_by_clients(program: Program) -> list[str]:
    """The names of the arguments that are placed at the clients."""
    places = iter(program.in_placements)
    sizes = [tree.num_leaves for tree in program.in_tree.children()]
    leaves = {n: list(islice(places, size)) for n, size in zip(program.argument_names, sizes)}
    return [name for name, found in leaves.items() if CLIENTS in found]
