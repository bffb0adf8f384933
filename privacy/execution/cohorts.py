"""Cohorts: the clients of an evaluation, drawn as the ledger charges them.

A sampling scheme draws members with the operating system's randomness and states the rate that a
ledger charges. A cohort has a random name; the ledger never sees its members. Two evaluations on
one cohort are one draw (they compose *inside* the sampling), and two draws compose outside. The
code shows which of the two applies: it uses the same `Cohort` object, or it draws again.

Sources: Abadi et al. (2016) for Poisson sampling; docs/privacy-model.md, "Cohorts".
"""

import math
import secrets
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from privacy.checking import expect, expect_count, expect_number, refusal
from privacy.errors import MechanismError, PrivacyError, RunRefused
from secagg import SecureStream


@dataclass(frozen=True, eq=False)
class Cohort:
    """One draw of clients.

    Attributes:
      id: Random name of the draw.
      members: Indices of the clients in the population, increasing.
      sampling: The scheme that drew it.

    Raises:
      MechanismError: A member occurs twice, or is not in the population.
    """

    id: str
    members: np.ndarray = field(repr=False)
    sampling: "Sampling"

    def __post_init__(self):
        advice = "Draw a cohort by sampling.draw(); a client is in it once or not at all."
        expect(self.id, str, "id", "a name", advice, MechanismError)
        expect_sampling(self.sampling, MechanismError)
        # A client that occurs twice would change a sum by twice the charged sensitivity.
        members, population = np.asarray(self.members), self.sampling.population
        if members.ndim != 1 or members.dtype.kind not in "iu":
            raise refusal(self.members, "members", "indices of clients", advice, MechanismError)
        inside = len(members) == 0 or (members.min() >= 0 and members.max() < population)
        if not inside or np.any(np.diff(members) <= 0):
            raise MechanismError(
                f"Expected members as increasing indices below the population of {population}, each "
                "once, got others. A client takes part in a draw once or not at all."
            )


class Sampling(Protocol):
    """A way to draw cohorts."""

    @property
    def population(self) -> int:
        """Number of clients."""
        ...

    @property
    def kind(self) -> str:
        """The name of the scheme in a ledger."""
        ...

    @property
    def rate(self) -> float:
        """Probability that a client takes part."""
        ...

    @property
    def expected_size(self) -> float:
        """Public number of clients that a private mean divides by."""
        ...

    def draw(self, stream: SecureStream | None = None) -> Cohort:
        """Draws a cohort."""
        ...


def expect_sampling(sampling: Any, error: type[PrivacyError] = RunRefused) -> None:
    """Refuses a value that is not a sampling scheme."""
    needed = ("population", "kind", "rate", "expected_size", "draw")
    if isinstance(sampling, type) or not all(hasattr(sampling, name) for name in needed):
        advice = (
            "Call privacy.PoissonSampling(population, rate), privacy.FixedSampling(population, size) or"
            " privacy.FullParticipation(population)."
        )
        raise refusal(sampling, "sampling", "a way to draw cohorts", advice, error)


def _cohort(members: np.ndarray, sampling: Sampling) -> Cohort:
    return Cohort(secrets.token_hex(16), np.sort(members), sampling)


@dataclass(frozen=True)
class PoissonSampling:
    """Every client takes part with the same probability `rate`, independently of all others."""

    population: int
    rate: float
    kind = "poisson"

    def __post_init__(self):
        _check_population(self.population)
        advice = "It is the probability with which each client takes part."
        expect_number(
            self.rate, "rate", "a number from 2^-53 to 1", advice, lambda q: 2**-53 <= q <= 1
        )

    @property
    def expected_size(self) -> float:
        """Q times the population."""
        return self.rate * self.population

    def draw(self, stream: SecureStream | None = None) -> Cohort:
        """Draws a cohort; `stream` is for tests and for paired non-private baselines."""
        stream = stream or SecureStream()
        # The stream's numbers are multiples of 2^-53: rounded down, no rate is exceeded.
        threshold = math.floor(self.rate * 2**53) / 2**53
        return _cohort(np.flatnonzero(stream.uniform(self.population) < threshold), self)


@dataclass(frozen=True)
class FixedSampling:
    """A fixed number of clients, without replacement."""

    population: int
    size: int
    kind = "fixed"

    def __post_init__(self):
        _check_population(self.population)
        expect_count(self.size, "size", "It counts clients.", least=1, error=MechanismError)
        if self.size > self.population:
            raise MechanismError(
                f"Expected a size of at most the population of {self.population}, got {self.size}."
            )

    @property
    def rate(self) -> float:
        """Size over population."""
        return self.size / self.population

    @property
    def expected_size(self) -> float:
        """The size."""
        return float(self.size)

    def draw(self, stream: SecureStream | None = None) -> Cohort:
        """Draws a cohort by ordering random keys: every subset is equally likely."""
        stream = stream or SecureStream()
        # Ties among 64-bit keys have probability below population**2 / 2**65.
        return _cohort(np.argsort(stream.uint64(self.population))[: self.size], self)


@dataclass(frozen=True)
class FullParticipation:
    """Everyone takes part."""

    population: int
    kind = "poisson"
    rate = 1.0

    def __post_init__(self):
        _check_population(self.population)

    @property
    def expected_size(self) -> float:
        """The population."""
        return float(self.population)

    def draw(self, stream: SecureStream | None = None) -> Cohort:
        """The whole population, as a draw with its own name."""
        del stream
        return _cohort(np.arange(self.population), self)


def _check_population(population: int) -> None:
    expect_count(population, "population", "It counts clients.", least=1, error=MechanismError)
