"""The baseline: the same schedule without privacy, through `fad.simulate`.

It is what the private run is compared with, on the same data, cohorts and settings: no clip, no
noise, no secure aggregation, and means over the clients that really took part. Nothing about it is
private, so it is only for data that are public; it is off unless the configuration says so.

Source: design of the non-private twin in docs/privacy-model.md, "The baseline".
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import secfad as fad
from audits.experiments.configuration import ServerSection
from audits.experiments.fedavgm import Computations, Learner, members_of

# Cohorts are padded to multiples of this with clients that have no examples, so that XLA compiles
# for a few sizes and not for each.
_SIZE_STEP = 16


class Baseline:
    """Rounds without privacy, one call each."""

    def __init__(self, computations: Computations, server: ServerSection, batch: Any):
        self._training = fad.simulate(computations.training)
        self._hypergradient = fad.simulate(computations.hypergradient)
        self._server = server
        self._batch = batch

    def round(self, learner: Learner, training: np.ndarray, hypergradient: np.ndarray) -> Learner:
        """One round on the cohorts with these members."""
        delta = self._mean(lambda batch: self._training(learner.model, batch), training)
        gradient = self._mean(
            lambda batch: self._hypergradient(learner.hyper, learner.state, delta, batch),
            hypergradient,
        )
        return learner.updated(delta).descended(
            gradient,
            learning_rate_step=self._server.learning_rate_step,
            momentum_step=self._server.momentum_step,
            max_momentum=self._server.max_momentum,
        )

    def _mean(self, simulated: Callable[[Any], Any], members: np.ndarray) -> Any:
        """The mean over members, computed on a padded cohort.

        A client without examples adds exactly zero to both computations, so that the padded mean
        times padded size over real size is the mean.
        """
        padded = -(-len(members) // _SIZE_STEP) * _SIZE_STEP
        missing = padded - len(members)

        def pad(rows: np.ndarray) -> np.ndarray:
            return np.pad(rows, ((0, missing), *((0, 0),) * (rows.ndim - 1)))

        mean = simulated(jax.tree.map(pad, members_of(self._batch, members)))
        return jax.tree.map(lambda a: np.asarray(a) * np.float32(padded / len(members)), mean)
