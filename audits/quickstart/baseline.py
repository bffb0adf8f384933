"""The baseline: the same algorithm without privacy, through `fad.simulate`.

The private run is compared with it on the same data, cohorts and settings: no clip, no noise, no
secure aggregation, and means over the clients that took part. It answers the algorithm's queries in
place of the private ones, so both runs share every line of the loop. Nothing about it is private,
so use it only with public data; it is off by default.

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

# Cohorts are padded to multiples of this with clients without examples, so that XLA compiles for
# few sizes.
_SIZE_STEP = 16


class Baseline:
    """Answers an algorithm's queries in the clear.

    Args:
      questions: The queries of the algorithm.
      batch: All clients' data.
    """

    def __init__(self, questions: Mapping[str, Question], batch: Any):
        self._simulated = {name: fad.simulate(q.computation) for name, q in questions.items()}
        self._batch = batch

    def asking(self, drawn: Mapping[str, np.ndarray]) -> Ask:
        """The `Ask` of one round.

        Args:
          drawn: Query to members of the cohort that the private run asked. A query that the private
            run could not pay for has no members and ends the baseline's round at the same point.
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

        A client without examples adds exactly zero to every query, so the mean is the padded mean
        times the padded size divided by the real size.
        """
        padded = -(-len(members) // _SIZE_STEP) * _SIZE_STEP
        missing = padded - len(members)

        def pad(rows: np.ndarray) -> np.ndarray:
            return np.pad(rows, ((0, missing), *((0, 0),) * (rows.ndim - 1)))

        cohort = jax.tree.map(pad, members_of(self._batch, members))
        mean = self._simulated[name](*server, cohort)
        return jax.tree.map(lambda a: np.asarray(a) * np.float32(padded / len(members)), mean)
