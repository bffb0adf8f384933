"""Schedules: the sampling of cohorts, the neighbouring relation, and the planned cost of a run.

With noise by the server, the size of a cohort is secret: cohorts are Poisson samples, planned as
slots and priced by PLD. With noise by the clients, it is public: cohorts have the fixed size
sampling_rate x population, the relation replaces one client, and a filter on the Renyi divergence
pays, at the order for which the plan uses the smallest part of the filter. With full participation,
the size is that of the population, which is public. The contribution of a client is hidden, and
slots can be used.

Source: docs/decisions/0037-noise-by-clients-needs-public-sizes.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import privacy
from audits.quickstart.configuration import Configuration, ReleaseSection
from privacy.accounting.slots import TOTAL, Plan
from privacy.accounting.slots import plan as price_slots
from privacy.errors import BudgetExceeded
from privacy.execution.queries import Query
from privacy.ledger.planning import Draws, filter_for, louder, noise_that_fits, quote
from privacy.relations import Relation

TRAINING, HYPERGRADIENT = "training", "hypergradient"
PURPOSES = (TRAINING, HYPERGRADIENT)


@dataclass(frozen=True, eq=False)
class Schedule:
    """The planned draws of a run.

    Attributes:
      configuration: The configuration of the run.
      queries: Purpose to its certified private program.
    """

    configuration: Configuration
    queries: Mapping[str, Query]

    @property
    def sampling(self) -> privacy.PoissonSampling | privacy.FixedSampling:
        """The sampling of the cohorts."""
        size = self.configuration.fixed_size
        if size is not None:
            return privacy.FixedSampling(population=self._population, size=size)
        return self._secret

    @property
    def relation(self) -> Relation:
        """The neighbouring relation of the epsilons."""
        if self.configuration.engine.noise == "central":
            return Relation.ADD_OR_REMOVE_ONE
        everyone = self.configuration.fixed_size is None
        return Relation.REPLACE_SPECIAL if everyone else Relation.REPLACE_ONE

    @property
    def slots(self) -> list[privacy.Slot]:
        """The planned releases of both purposes, including spare ones; empty on a filter."""
        if self.configuration.fixed_size is not None:
            return []
        return self._slots(self._planned, self.sampling)

    def draws(self, counts: Mapping[str, int]) -> list[Draws]:
        """A number of draws of each purpose, as the ledger charges them."""
        return [
            query.draws(self.sampling, counts[purpose], self.relation)
            for purpose, query in self.queries.items()
            if counts[purpose]
        ]

    def price(self, counts: Mapping[str, int] | None = None) -> Plan:
        """The cost of a number of draws of each purpose; by default of the planned draws."""
        counts = self._planned if counts is None else counts
        terms: dict[str, Any] = {"purposes": self.purposes, "relation": self.relation}
        if self.configuration.fixed_size is not None:
            return quote(self.draws(counts), self.budget, accountant=self.accountant, **terms)
        return price_slots(self._slots(counts, self.sampling), self.budget, **terms)

    def price_with_central_noise(self, counts: Mapping[str, int] | None = None) -> dict[str, float]:
        """The released view of the same draws with noise by the server and secret sizes."""
        counts = self._planned if counts is None else counts
        slots = [
            privacy.Slot(name, self._secret.rate, query.noise_multiplier, counts[name])
            for name, query in self.queries.items()
            if counts[name]
        ]
        return dict(price_slots(slots, self.budget, purposes=self.purposes).released)

    @property
    def accountant(self) -> str:
        """The accountant of the ledger."""
        if self.configuration.fixed_size is None:
            return "pld"
        return filter_for(
            self.draws(self._planned),
            self.budget,
            purposes=self.purposes,
            relation=self.relation,
        )

    @property
    def budget(self) -> privacy.Budget:
        """The global budget."""
        return privacy.Budget(self.configuration.privacy.epsilon, self.configuration.privacy.delta)

    @property
    def purposes(self) -> dict[str, privacy.Budget]:
        """The budget of each purpose."""
        return {
            name: privacy.Budget(section.epsilon, self.configuration.privacy.delta)
            for name, section in sections(self.configuration).items()
        }

    @property
    def statement(self) -> str:
        """The consequences of noise by clients for cohorts and epsilon; "" with noise by the
        server.
        """
        if self.configuration.engine.noise == "central":
            return ""
        size = self.configuration.fixed_size
        if size is None:
            return (
                f"Clients add the noise, and all {self._population} take part: how many there are is public."
                " Epsilon speaks of one client's contribution being there or zero."
            )
        return (
            f"Clients add the noise, so that sizes are public: every cohort has {size} of the"
            f" {self._population} clients. Epsilon speaks of one client replaced by another, which moves a"
            " sum by two clip norms, and holds for those who know the sizes."
        )

    def require_fit(self) -> None:
        """Refuses a schedule on a filter that exceeds its budgets.

        Raises:
          BudgetExceeded: With noise multipliers that fit.
        """
        plan = self.price()
        if self.configuration.fixed_size is None or plan.fits:
            return
        central = self.price_with_central_noise()
        lines = "".join(
            f"\n  [privacy.{name}] noise_multiplier = {value:g}"
            for name, value in self._multipliers_that_fit().items()
        )
        needed = ", ".join(f"{name} {value:.2f}" for name, value in plan.released.items())
        raise BudgetExceeded(
            f"Expected a schedule within epsilon {self.budget.epsilon:g} in total and that of each purpose,"
            f" got one that needs {needed}. {self.statement} Nothing was run or charged. It fits with"
            f"{lines}\nor with fewer rounds, a lower sampling_rate or larger budgets. With noise ="
            f' "central", and secret sizes, the noise as it stands costs {central[TOTAL]:.2f} in total.',
            purpose=None,
            needed=f"epsilon {plan.released[TOTAL]:.2f}",
            left=f"epsilon {self.budget.epsilon:g}",
        )

    def _multipliers_that_fit(self) -> dict[str, float]:
        """Noise multipliers with which the plan fits, rounded up to three digits."""
        planned = self.draws(self._planned)
        terms: dict[str, Any] = {"purposes": self.purposes, "relation": self.relation}
        factors = noise_that_fits(planned, self.budget, **terms)
        found = {}
        for name, section in sections(self.configuration).items():
            wanted = section.noise_multiplier * factors[name]
            step = 10.0 ** (len(str(int(wanted))) - 3)
            found[name] = section.noise_multiplier
            if factors[name] > 1:
                found[name] = round((wanted // step + 1) * step, 6)
        scaled = {n: found[n] / s.noise_multiplier for n, s in sections(self.configuration).items()}
        assert quote([louder(d, scaled[d.purpose]) for d in planned], self.budget, **terms).fits
        return found

    def _slots(self, counts: Mapping[str, int], sampling: Any) -> list[privacy.Slot]:
        return [
            query.slot(sampling, counts[purpose])
            for purpose, query in self.queries.items()
            if counts[purpose]
        ]

    @property
    def _planned(self) -> dict[str, int]:
        schedule = self.configuration.schedule
        return dict.fromkeys(self.queries, schedule.rounds + schedule.spare_slots)

    @property
    def _population(self) -> int:
        return self.configuration.data.population

    @property
    def _secret(self) -> privacy.PoissonSampling:
        rate = self.configuration.schedule.sampling_rate
        return privacy.PoissonSampling(population=self._population, rate=rate)


def sections(configuration: Configuration) -> dict[str, ReleaseSection]:
    """The mechanism of each purpose."""
    chosen = configuration.privacy
    return {TRAINING: chosen.training, HYPERGRADIENT: chosen.hypergradient}
