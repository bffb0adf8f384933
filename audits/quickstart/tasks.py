"""Tasks: a configuration made concrete, and certified, before any client is asked.

Making a task draws the data, privatizes the two computations, and has both certified. It sends
nothing and touches no ledger, so whatever is wrong with a configuration or a program shows here.

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
    """Everything a run needs, except the ledger.

    Attributes:
      configuration: Where it came from.
      data: The population, training and held-out examples.
      batch: All clients' training arguments, with a leading axis of clients.
      algorithm: What learns, and what it asks.
      queries: Purpose to its certified private program.
    """

    configuration: Configuration
    data: SyntheticData
    batch: Any
    algorithm: Algorithm
    queries: Mapping[str, Query]

    @property
    def schedule(self) -> Schedule:
        """Who is asked how often, and what it costs."""
        return Schedule(self.configuration, self.queries)

    @property
    def sampling(self) -> privacy.PoissonSampling | privacy.FixedSampling:
        """How cohorts are drawn."""
        return self.schedule.sampling

    @property
    def secure_sums(self) -> dict[str, str]:
        """What secure aggregation assumes, in words, by purpose."""
        sums = self.configuration.engine.sums
        return {n: sums.statement(q.program.mechanism) for n, q in self.queries.items()}

    @property
    def slots(self) -> list[privacy.Slot]:
        """The planned releases of both purposes, spare ones included; none on a filter."""
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
