"""The baseline: the same algorithm without privacy, through `fad.simulate`.

It is what the private run is compared with, on the same data, cohorts and settings: no clip, no
noise, no secure aggregation, and means over the clients that really took part. It answers the
algorithm's questions in place of the private ones, so that both runs share every line of the loop.
Nothing about it is private, so it is only for data that are public; it is off unless the
configuration says so.

Source: design of the non-private twin in docs/privacy-model.md, "The baseline".
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import secfad as fad
from audits.quickstart.fedavgm import members_of
from privacy.errors import BudgetExceeded
from privacy.execution.queries import Question
from privacy.training.training import Ask

# Cohorts are padded to multiples of this with clients that have no examples, so that XLA compiles
# for a few sizes and not for each.
_SIZE_STEP = 16


class Baseline:
    """Answers an algorithm's questions in the clear.

    Args:
      questions: Of the algorithm.
      batch: All clients' data.
    """

    def __init__(self, questions: Mapping[str, Question], batch: Any):
        self._simulated = {name: fad.simulate(q.computation) for name, q in questions.items()}
        self._batch = batch

    def asking(self, drawn: Mapping[str, np.ndarray]) -> Ask:
        """The `Ask` of one round.

        Args:
          drawn: Query to members of the cohort that the private run asked; what it could not pay
            for has none and ends the baseline's round at the same place.
        """

        def ask(name: str, *server_arguments: Any) -> Any:
            if name not in drawn:
                raise BudgetExceeded(
                    f"Expected {name!r} to be asked by the private run too, got no cohort for it.",
                    purpose=name,
                    needed="a cohort",
                    left="none",
                )
            return self._mean(name, server_arguments, drawn[name])

        return ask

    def _mean(self, name: str, server: tuple, members: np.ndarray) -> Any:
        """The mean over members, computed on a padded cohort.

        A client without examples adds exactly zero to every question, so that the padded mean times
        padded size over real size is the mean.
        """
        padded = -(-len(members) // _SIZE_STEP) * _SIZE_STEP
        missing = padded - len(members)

        def pad(rows: np.ndarray) -> np.ndarray:
            return np.pad(rows, ((0, missing), *((0, 0),) * (rows.ndim - 1)))

        cohort = jax.tree.map(pad, members_of(self._batch, members))
        mean = self._simulated[name](*server, cohort)
        return jax.tree.map(lambda a: np.asarray(a) * np.float32(padded / len(members)), mean)
