"""Running: rounds of private training and hypergradients, each followed by a checkpoint.

    draw a cohort -> training release -> draw another -> hypergradient release -> update -> checkpoint

Cohorts and noise come from the operating system's randomness, never from a seed: whoever could
predict them could undo both amplification and noise. The data and the initial model are
deterministic. After a crash the round is repeated: a release that was journalled is used again
without a charge, any other is charged anew, and what was reserved stays spent.

Sources: Rush, Charles, Garrett (JMLR 2024), Fig. 4; docs/ledger-slots.md, section 4.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import privacy
from audits.experiments import checkpoints
from audits.experiments.baseline import Baseline
from audits.experiments.checkpoints import History, Progress
from audits.experiments.fedavgm import Learner, members_of
from audits.experiments.folders import RunFolder
from audits.experiments.measuring import Measure
from audits.experiments.tasks import HYPERGRADIENT, TRAINING, Task
from privacy.errors import BudgetExceeded

Observer = Callable[[Progress], None]


@dataclass(frozen=True, eq=False)
class Run:
    """One run in one folder.

    Attributes:
      task: What to do.
      folder: Where.
      ledger: Pays for it.
    """

    task: Task
    folder: RunFolder
    ledger: privacy.Ledger

    @property
    def id(self) -> str:
        """Name of the run in its ledger; the same after every resume."""
        return f"{self.task.configuration.name}-{self.ledger.id[:12]}"

    def finish(self, observe: Observer = lambda _: None) -> Progress:
        """Runs all remaining rounds, or as many as the budget pays for.

        Args:
          observe: Called at the start and after each round, when its checkpoint is durable.

        Raises:
          ResumeRefused: The folder's checkpoint does not belong to this run.
          PrivacyError: A round was refused; what was finished before is in the checkpoint.
        """
        configuration = self.task.configuration
        progress = self.folder.read_progress(configuration, self.ledger)
        measure = Measure(self.task.data.test)
        baseline = None
        if configuration.engine.baseline:
            baseline = Baseline(self.task.computations, configuration.server, self.task.batch)
        if progress is None:
            progress = self._start(measure)
        observe(progress)
        while progress.round < configuration.schedule.rounds and not progress.stopped:
            progress = self._round(progress, baseline, measure)
            checkpoints.save(progress, self.folder.checkpoint)
            observe(progress)
        return progress

    def _start(self, measure: Measure) -> Progress:
        configuration, start = self.task.configuration, self.task.start()
        baseline = start if configuration.engine.baseline else None
        history = History()
        measure.record(history, start, baseline)
        return Progress(0, start, baseline, "", configuration.digest, self.ledger.head, history)

    def _round(self, before: Progress, baseline: Baseline | None, measure: Measure) -> Progress:
        sampling, history = self.task.sampling, before.history
        first, second = sampling.draw(), sampling.draw()
        learner, stopped = self._private_round(before, first, second)
        if learner is before.private:
            return replace(before, stopped=stopped, ledger_head=self.ledger.head)
        twin = before.baseline
        if baseline is not None and twin is not None:
            twin = baseline.round(twin, first.members, second.members)
        measure.record(history, learner, twin)
        return replace(
            before,
            round=before.round + 1,
            private=learner,
            baseline=twin,
            stopped=stopped,
            ledger_head=self.ledger.head,
        )

    def _private_round(
        self, before: Progress, first: privacy.Cohort, second: privacy.Cohort
    ) -> tuple[Learner, str]:
        """The server after the round, and why this was the last one, or ""."""
        server, learner = self.task.configuration.server, before.private
        try:
            delta = self._release(TRAINING, (learner.model,), first, before)
        except BudgetExceeded as error:
            return learner, f"round {before.round}: {error}"
        arguments = (learner.hyper, learner.state, delta)
        learner = learner.updated(delta)
        try:
            gradient = self._release(HYPERGRADIENT, arguments, second, before)
        except BudgetExceeded as error:
            return learner, f"round {before.round}: {error}"
        return learner.descended(
            gradient,
            learning_rate_step=server.learning_rate_step,
            momentum_step=server.momentum_step,
            max_momentum=server.max_momentum,
        ), ""

    def _release(
        self, purpose: str, server: tuple, cohort: privacy.Cohort, before: Progress
    ) -> Any:
        result = privacy.run(
            self.task.private[purpose],
            (*server, members_of(self.task.batch, cohort.members)),
            certificate=self.task.certificates[purpose],
            ledger=self.ledger,
            cohort=cohort,
            run_id=self.id,
            round=before.round,
            journal=self.folder.journal,
            fidelity=self.task.configuration.engine.fidelity,
        )
        before.history.count(purpose, result)
        return {name: np.asarray(value) for name, value in result.value.items()}
