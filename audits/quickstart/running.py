"""Running: an experiment's algorithm in `privacy.train`, next to its twin without privacy.

    draw a cohort -> training release -> draw another -> hypergradient release -> update -> checkpoint

Cohorts and noise come from the operating system's randomness, never from a seed: anyone who could
predict them could undo both amplification and noise. The data and the initial model are
deterministic. The loop handles crashes; see `privacy.training.training`.

Sources: Rush, Charles, Garrett (JMLR 2024), Fig. 4; docs/ledger-slots.md, section 4.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import privacy
from audits.quickstart.baseline import Baseline
from audits.quickstart.fedavgm import members_of
from audits.quickstart.folders import RunFolder
from audits.quickstart.measuring import Measure
from audits.quickstart.tasks import Task
from privacy.ledger.reservations import Reservation
from privacy.training.training import Ask, LastRound, Trained

Observer = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, eq=False)
class Run:
    """One run in one folder.

    Attributes:
      task: The algorithm and its data.
      folder: The folder of the run.
      ledger: The ledger that is charged.
    """

    task: Task
    folder: RunFolder
    ledger: privacy.Ledger

    @property
    def id(self) -> str:
        """Name of the run in its ledger and checkpoint; the same after every resume."""
        configuration = self.task.configuration
        return f"{configuration.name}-{configuration.digest[:12]}-{self.ledger.id[:12]}"

    @property
    def reservations(self) -> list[Reservation]:
        """The charges of this run, in order."""
        found = [r for name in self.task.queries for r in self.ledger.find(f"{self.id}/{name}")]
        return sorted(found, key=lambda reservation: reservation.seq)

    def finish(self, observe: Observer = lambda _: None) -> Trained:
        """Runs all remaining rounds, or as many as the budget pays for.

        Args:
          observe: Called at the start and after each round, when its checkpoint is durable.

        Raises:
          ResumeRefused: The folder's checkpoint does not belong to this run.
          PrivacyError: A round was refused; the checkpoint holds the finished rounds.
        """
        configuration = self.task.configuration
        pair = _Pair(self.task)
        return privacy.train(
            pair.update,
            pair.start(),
            queries=self.task.queries,
            clients=pair.clients,
            sampling=self.task.sampling,
            ledger=self.ledger,
            rounds=configuration.schedule.rounds,
            run_id=self.id,
            folder=self.folder.path,
            fidelity=configuration.engine.fidelity,
            graph=configuration.engine.graph,
            adversary=configuration.engine.adversary,
            corrupt=configuration.engine.corrupt,
            dropout=configuration.engine.dropout,
            measure=Measure(self.task.data.test),
            observe=observe,
        )


class _Pair:
    """The private learner and its optional twin, in one state: {"private", "baseline"}."""

    def __init__(self, task: Task):
        self._algorithm, self._batch = task.algorithm, task.batch
        wanted = task.configuration.engine.baseline
        self._baseline = Baseline(task.algorithm.questions, task.batch) if wanted else None
        self._members = np.zeros(0, np.int64)

    def start(self) -> dict[str, Any]:
        twin = {"baseline": self._algorithm.state} if self._baseline else {}
        return {"private": self._algorithm.state} | twin

    def clients(self, members: np.ndarray) -> dict[str, Any]:
        """The cohort's data; records its members for the twin."""
        self._members = members
        return {"batches": members_of(self._batch, members)}

    def update(self, state: dict[str, Any], ask: Ask) -> dict[str, Any]:
        drawn: dict[str, np.ndarray] = {}

        def asking(name: str, *server_arguments: Any) -> Any:
            value = ask(name, *server_arguments)
            drawn[name] = self._members
            return value

        try:
            new = {"private": self._algorithm.update(state["private"], asking)}
        except LastRound as error:
            new = {"private": error.state}
            raise LastRound(new | self._twin(state, drawn), error.reason) from error
        return new | self._twin(state, drawn)

    def _twin(self, state: dict[str, Any], drawn: Mapping[str, np.ndarray]) -> dict[str, Any]:
        if self._baseline is None:
            return {}
        try:
            moved = self._algorithm.update(state["baseline"], self._baseline.asking(drawn))
        except LastRound as error:
            moved = error.state
        return {"baseline": moved}
