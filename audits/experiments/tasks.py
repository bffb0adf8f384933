"""Tasks: a configuration made concrete, and certified, before any client is asked.

Making a task draws the data, privatizes the two computations, and has both certified. It sends
nothing and touches no ledger, so whatever is wrong with a configuration or a program shows here.

Source: docs/architecture.md, "The main job".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import privacy
from audits.certifying import certify
from audits.experiments.configuration import Configuration, ReleaseSection
from audits.experiments.fedavgm import Computations, Learner, batch_of, make_computations
from privacy.certificates import Certificate
from secfad.data.synthetic import SyntheticData, synthetic

TRAINING, HYPERGRADIENT = "training", "hypergradient"
PURPOSES = (TRAINING, HYPERGRADIENT)


@dataclass(frozen=True, eq=False)
class Task:
    """Everything a run needs, except the ledger.

    Attributes:
      configuration: Where it came from.
      data: The population, training and held-out examples.
      batch: All clients' training arguments, with a leading axis of clients.
      computations: The two computations, as the baseline runs them.
      private: Purpose to the private program.
      certificates: Purpose to its certificate.
    """

    configuration: Configuration
    data: SyntheticData
    batch: Any
    computations: Computations
    private: Mapping[str, privacy.PrivateProgram]
    certificates: Mapping[str, Certificate]

    @property
    def sampling(self) -> privacy.PoissonSampling:
        """How cohorts are drawn."""
        return privacy.PoissonSampling(
            population=self.configuration.data.population,
            rate=self.configuration.schedule.sampling_rate,
        )

    @property
    def slots(self) -> list[privacy.Slot]:
        """The planned releases of both purposes, spare ones included."""
        schedule = self.configuration.schedule
        count = schedule.rounds + schedule.spare_slots
        return [
            privacy.Slot(purpose, schedule.sampling_rate, section.noise_multiplier, count)
            for purpose, section in sections(self.configuration).items()
        ]

    def start(self) -> Learner:
        """The server before the first round."""
        server = self.configuration.server
        return Learner.initial(server.learning_rate, server.momentum)


def make_task(configuration: Configuration) -> Task:
    """Draws the data, privatizes the computations and certifies them.

    Raises:
      audits.CertificationError: A program does not pass; nothing was sent or charged.
    """
    section, client = configuration.data, configuration.client
    data = synthetic(
        clients=section.population,
        seed=section.seed,
        alpha=section.alpha,
        beta=section.beta,
        max_examples=section.max_examples,
    )
    batch = batch_of(data.train, client.batch_size)
    computations = make_computations(client.learning_rate, client.batch_size)
    private = _privatized(configuration, computations, batch)
    certificates = {purpose: certify(program) for purpose, program in private.items()}
    return Task(configuration, data, batch, computations, private, certificates)


def _privatized(
    configuration: Configuration, computations: Computations, batch: Any
) -> dict[str, privacy.PrivateProgram]:
    server = configuration.server
    learner = Learner.initial(server.learning_rate, server.momentum)
    held = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), batch)
    model = specs_of(learner.model)
    mechanisms = {
        purpose: privacy.Gaussian(
            noise_multiplier=section.noise_multiplier,
            clip_norm=section.clip_norm,
            noise=configuration.engine.noise,
        )
        for purpose, section in sections(configuration).items()
    }
    hyper, state = specs_of(learner.hyper), specs_of(learner.state)
    arguments = {TRAINING: (model, held), HYPERGRADIENT: (hyper, state, model, held)}
    functions = {
        TRAINING: computations.training,
        HYPERGRADIENT: computations.hypergradient,
    }
    return {
        purpose: privacy.privatize(
            functions[purpose],
            *arguments[purpose],
            mechanism=mechanisms[purpose],
            purpose=purpose,
        )
        for purpose in PURPOSES
    }


def sections(configuration: Configuration) -> dict[str, ReleaseSection]:
    """The mechanism of each purpose."""
    chosen = configuration.privacy
    return {TRAINING: chosen.training, HYPERGRADIENT: chosen.hypergradient}


def specs_of(tree: Any) -> Any:
    """Shapes and dtypes of a tree."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), np.asarray(a).dtype), tree)
