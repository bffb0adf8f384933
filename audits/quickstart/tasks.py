"""Tasks: the certified programs and data of a configuration, before any client is contacted.

Creating a task draws the data, and privatizes and certifies the two computations. It sends nothing
and touches no ledger, so errors in a configuration or a program appear before the run.

Source: docs/architecture.md, "The main job".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

import privacy
from audits.certifying import certify
from audits.quickstart.configuration import Configuration
from audits.quickstart.fedavgm import batch_of, make_algorithm
from audits.quickstart.schedules import Schedule, sections
from privacy.execution.queries import Algorithm, Query
from secfad.data.synthetic import SyntheticData, synthetic


@dataclass(frozen=True, eq=False)
class Task:
    """The inputs of a run, except the ledger.

    Attributes:
      configuration: The configuration of the run.
      data: The population, training and held-out examples.
      batch: All clients' training arguments, with a leading axis of clients.
      algorithm: The learning algorithm and its queries.
      queries: Purpose to its certified private program.
    """

    configuration: Configuration
    data: SyntheticData
    batch: Any
    algorithm: Algorithm
    queries: Mapping[str, Query]

    @property
    def schedule(self) -> Schedule:
        """The schedule of draws and its cost."""
        return Schedule(self.configuration, self.queries)

    @property
    def sampling(self) -> privacy.PoissonSampling | privacy.FixedSampling:
        """The sampling of the cohorts."""
        return self.schedule.sampling

    @property
    def secure_sums(self) -> dict[str, str]:
        """The assumptions of secure aggregation as text, by purpose."""
        sums = self.configuration.engine.sums
        return {n: sums.statement(q.program.mechanism) for n, q in self.queries.items()}

    @property
    def slots(self) -> list[privacy.Slot]:
        """The planned releases of both purposes, including spare ones; empty on a filter."""
        return self.schedule.slots


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
    held = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), batch)
    algorithm = make_algorithm(client, configuration.server, held)
    queries = algorithm.queries(mechanisms(configuration), certify)
    return Task(configuration, data, batch, algorithm, queries)


def mechanisms(configuration: Configuration) -> dict[str, privacy.Gaussian]:
    """Clip norms and noise of each purpose."""
    return {
        purpose: privacy.Gaussian(
            noise_multiplier=section.noise_multiplier,
            clip_norm=section.clip_norm,
            noise=configuration.engine.noise,
        )
        for purpose, section in sections(configuration).items()
    }
