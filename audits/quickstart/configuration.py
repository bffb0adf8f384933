"""Configuration: the TOML file of an experiment, checked before the run starts.

Every key is declared with a unit and bounds; an unknown key is an error that names the known ones.
The same values always have the same digest. Checkpoints carry the digest, so a run never resumes
under another configuration.

>>> load("quickstart").schedule.rounds
80

Sources: audits/quickstart/quickstart.toml, the commented example that ships with the package.
"""

import hashlib
import importlib.resources
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from audits.quickstart.errors import ConfigurationError
from privacy.execution.secure_sums import Adversary, GraphChoice, SecureSums

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# Below this expected size, the probability that a Poisson draw is too small for secure aggregation
# is no longer negligible compared with delta (30 expected: fewer than 3 with probability 5e-11).
LEAST_COHORT = 30
# Cohorts of a fixed size may be as small as secure aggregation allows.
FEWEST = 3
# The configurations in the package.
SHIPPED = ("quickstart", "quickstart-distributed")


class Section(BaseModel):
    """A table of the file: no unknown keys, no conversion of text or flags to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataSection(Section):
    """The population: Synthetic(alpha, beta)."""

    population: int = Field(ge=3, le=100_000, description="number of clients")
    alpha: float = Field(ge=0, le=100, description="standard deviation of the models' means")
    beta: float = Field(ge=0, le=100, description="standard deviation of the inputs' means")
    seed: int = Field(ge=0, lt=2**63, description="seed of the data")
    max_examples: int = Field(ge=50, le=10_000, description="cap on one client's examples")


class ClientSection(Section):
    """Local training: one epoch of SGD over the client's examples, in their order."""

    learning_rate: Positive = Field(le=1e3, description="step per mini-batch")
    batch_size: int = Field(ge=1, le=10_000, description="examples per step")


class ServerSection(Section):
    """FedAvgM and the descent on its two hyperparameters."""

    learning_rate: Positive = Field(le=1e3, description="initial server learning rate")
    momentum: float = Field(ge=0, lt=1, description="initial momentum")
    max_momentum: float = Field(ge=0, lt=1, description="momentum is projected to [0, this]")
    learning_rate_step: float = Field(ge=0, le=1e3, description="step on log(learning rate)")
    momentum_step: float = Field(ge=0, le=1e3, description="step on momentum")


class ScheduleSection(Section):
    """Number of rounds, and sampling of the cohorts."""

    rounds: int = Field(ge=1, le=100_000, description="rounds; each draws two fresh cohorts")
    sampling_rate: float = Field(
        gt=0,
        le=1,
        description="probability that a client takes part; with noise by clients, share of them that does",
    )
    spare_slots: int = Field(
        ge=0, le=1000, description="releases per purpose planned beyond the rounds, for retries"
    )


class ReleaseSection(Section):
    """The Gaussian mechanism of one purpose and its own budget."""

    epsilon: Positive = Field(le=100, description="budget of this purpose, released-model view")
    noise_multiplier: Positive = Field(le=1e4, description="noise std of a sum over clip_norm")
    clip_norm: Positive = Field(le=1e6, description="largest L2 norm of a client's contribution")


class PrivacySection(Section):
    """One budget for everything, split by purpose."""

    epsilon: Positive = Field(le=100, description="budget of all releases together")
    delta: float = Field(gt=0, le=0.1, description="delta of every budget")
    training: ReleaseSection
    hypergradient: ReleaseSection


class EngineSection(Section):
    """Secure aggregation, and the optional baseline."""

    fidelity: Literal["protocol", "ideal"] = Field(
        description='"protocol": every SecAgg message; "ideal": masks drawn so that they cancel'
    )
    noise: Literal["central", "distributed"] = Field(
        description='"central": the server adds it to the sum, cohorts are Poisson samples; '
        '"distributed": clients add shares, cohorts have a fixed and public size'
    )
    graph: GraphChoice = Field(
        default="auto",
        description='"complete": every client of a cohort exchanges keys with every other; "ring": '
        'with as few as corrupt and dropout allow; "auto": the ring in large cohorts',
    )
    adversary: Adversary = Field(
        default="semi-honest",
        description='"active": the server may send anything; clients sign keys and survivors',
    )
    corrupt: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="fraction of a cohort that may collude with the server",
    )
    dropout: float = Field(
        default=0.05, ge=0, lt=1, description="fraction of a cohort that may drop out"
    )
    baseline: bool = Field(
        description="run the same schedule without privacy; only for data that are public"
    )

    @model_validator(mode="after")
    def _analysed(self) -> "EngineSection":
        self.sums  # noqa: B018, which refuses what is not analysed together
        return self

    @property
    def sums(self) -> SecureSums:
        """The assumptions of secure aggregation."""
        return SecureSums(
            graph=self.graph,
            adversary=self.adversary,
            corrupt=self.corrupt,
            dropout=self.dropout,
        )


class Configuration(Section):
    """A whole experiment."""

    name: str = Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")
    data: DataSection
    client: ClientSection
    server: ServerSection
    schedule: ScheduleSection
    privacy: PrivacySection
    engine: EngineSection

    @model_validator(mode="after")
    def _consistent(self) -> "Configuration":
        expected = self.schedule.sampling_rate * self.data.population
        if self.fixed_size is not None:
            if self.fixed_size < FEWEST:
                raise ValueError(
                    f"expected sampling_rate * population of at least {FEWEST} clients in a cohort, got "
                    f"{expected:g}; raise either, or use sampling_rate = 1"
                )
        elif self.schedule.sampling_rate < 1 and expected < LEAST_COHORT:
            raise ValueError(
                f"expected sampling_rate * population of at least {LEAST_COHORT}, so that no draw "
                f"is too small for secure aggregation, got {expected:g}; raise either, or use "
                "sampling_rate = 1"
            )
        if self.server.momentum > self.server.max_momentum:
            raise ValueError("expected server.momentum of at most server.max_momentum")
        if self.privacy.delta >= 1 / self.data.population:
            raise ValueError(
                f"expected privacy.delta below 1 / population = {1 / self.data.population:g}: "
                "a larger delta allows one client's data to be published"
            )
        return self

    @property
    def fixed_size(self) -> int | None:
        """The size of every cohort if clients add the noise and not everyone takes part."""
        if self.engine.noise == "central" or self.schedule.sampling_rate == 1:
            return None
        return round(self.schedule.sampling_rate * self.data.population)

    @property
    def digest(self) -> str:
        """SHA-256 of the values, as hexadecimal digits; comments and order do not matter."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def load(source: str) -> Configuration:
    """Reads a configuration.

    Args:
      source: Path of a TOML file, or "quickstart" or "quickstart-distributed" for one in the package.

    Raises:
      ConfigurationError: No such file, not TOML, or a key that is unknown, missing or out of bounds.
    """
    return parse(text_of(source), source)


def parse(text: str, source: str = "text") -> Configuration:
    """Checks TOML text; `source` is its name in errors."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"Expected TOML in {source}, got a syntax error: {error}."
        ) from None
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_problem(item)}" for item in error.errors())
        raise ConfigurationError(
            f"Expected a valid configuration in {source}, got:\n{problems}\n"
            "Compare with audits/quickstart/quickstart.toml. Nothing was run."
        ) from None


def text_of(source: str) -> str:
    """The TOML text of a file, or of a configuration in the package.

    Raises:
      ConfigurationError: No such file, or not UTF-8 text.
    """
    if source in SHIPPED:
        package = importlib.resources.files("audits.quickstart")
        return package.joinpath(f"{source}.toml").read_text(encoding="utf-8")
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigurationError(
            f"Expected a TOML file or one of {', '.join(SHIPPED)}, got {source!r}: {reason}."
        ) from None


def _problem(item) -> str:
    """One line about one bad key."""
    where = ".".join(str(part) for part in item["loc"])
    match item["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key; known here are {', '.join(_known(item['loc'][:-1]))}"
        case "missing":
            return f"{where}: missing"
        case "value_error":
            return str(item["ctx"]["error"])
    return f"{where}: {item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}"


def _known(location: tuple) -> list[str]:
    section: Any = Configuration
    for part in location:
        section = section.model_fields[str(part)].annotation
    return sorted(section.model_fields)
