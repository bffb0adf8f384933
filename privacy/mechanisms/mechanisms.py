"""Mechanisms: the bound on a client's contribution to a sum, and the noise that hides it.

The set is closed, because a mechanism that the accountant does not know has no price. Both
mechanisms clip the contributions of a client in one round and add noise of a stated multiple of
that bound to the sum: `Gaussian` by the server or by clients, `Skellam` by clients. Noise and bound
are compared at the same point: on the sum, never on a mean.

>>> Gaussian(noise_multiplier=1.2, clip_norm={"delta": 0.5, "loss*": 2.0}).clip_norm_of("loss.tangent")
2.0

Sources: Abadi et al. (2016); McMahan et al. (2018), section 3, for several sums clipped jointly; Kairouz,
Liu, Steinke (2021) and Agarwal, Kairouz, Liu (2021) for noise by clients and for rotation.
"""

import abc
import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from privacy.checking import expect, expect_choice, expect_number, refusal
from privacy.errors import MechanismError

PURPOSES: tuple[str, ...] = ("training", "hypergradient", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Mechanism(abc.ABC):
    """The common base of all mechanisms; use `Gaussian` or `Skellam`.

    Attributes:
      noise_multiplier: Standard deviation of the noise on a sum over the largest L2 norm of one
        client's contribution to it; a number, or, for separately clipped sums, sum name (with
        wildcards) to number. See `split_noise`.
      clip_norm: That norm, in the units of the sum: one number for all sums of a round together, or
        sum name (with `*` and `?` as wildcards) to number; the first match counts.
      joint: Clip all sums of a round together: the norm of the concatenation of x_k / C_k is at most
        1. Otherwise each sum by itself, and the ledger composes them.
      grid: Integer steps per clip norm in the fixed-point encoding that is aggregated.
      honest_survivors: For noise by clients, the fraction of the cohort that is guaranteed to be
        honest and to answer. Their shares alone amount to the charged noise. With fewer survivors
        the release is withheld; with all clients the noise is larger than charged.
      rotation: Clients rotate their contributions by a shared random Hadamard transform, and the
        server rotates the sum back. Then no coordinate is large, so a smaller ring holds the sum:
        see `privacy.noise.capacity`.
    """

    kind: ClassVar[str]
    noise_kind: ClassVar[Literal["discrete_gaussian", "skellam"]]

    noise_multiplier: float | Mapping[str, float]
    clip_norm: float | Mapping[str, float]
    joint: bool = True
    grid: int = 1 << 16
    honest_survivors: float = 0.75
    rotation: bool = False

    def __post_init__(self):
        for field in ("noise_multiplier", "clip_norm"):
            object.__setattr__(self, field, _numbers(getattr(self, field), field))
        if self.joint and isinstance(self.noise_multiplier, Mapping):
            raise MechanismError(
                "Expected one noise_multiplier for jointly clipped sums, got one per sum. "
                "Pass joint=False to clip and noise each sum by itself."
            )
        share = _positive(self.honest_survivors, "honest_survivors")
        if share > 1:
            raise MechanismError(f"Expected honest_survivors as a fraction, got {share!r}.")
        if not isinstance(self.grid, int) or not 1 << 8 <= self.grid <= 1 << 24:
            raise MechanismError(
                f"Expected grid as an int from 2**8 to 2**24, got {self.grid!r}. A finer grid rounds "
                "less and needs a larger ring."
            )
        for field in ("joint", "rotation"):
            advice = f"Pass {field}=True or {field}=False."
            expect(getattr(self, field), bool, field, "a bool", advice, MechanismError)

    @property
    @abc.abstractmethod
    def by_clients(self) -> bool:
        """Whether clients add the noise, in shares."""

    def clip_norm_of(self, name: str) -> float:
        """The clip norm of a sum; `MechanismError` if no pattern matches its name."""
        return _matching(self.clip_norm, name, "clip norm", "clip_norm")

    def noise_multiplier_of(self, name: str) -> float:
        """The noise multiplier of a sum; `MechanismError` if no pattern matches its name."""
        return _matching(self.noise_multiplier, name, "noise multiplier", "noise_multiplier")

    def record(self) -> dict[str, Any]:
        """The mechanism as JSON, for certificates and round contexts."""
        return {
            "mechanism": self.kind,
            "noise_multiplier": _plain(self.noise_multiplier),
            "clip_norm": _plain(self.clip_norm),
            "joint": self.joint,
            "noise": "distributed" if self.by_clients else "central",
            "grid": self.grid,
            "honest_survivors": self.honest_survivors,
            "rotation": self.rotation,
        }

    def guaranteed_survivors(self, clients: int) -> int:
        """The number of clients of a cohort whose noise shares make up the charged noise."""
        return max(1, math.floor(self.honest_survivors * clients))


@dataclass(frozen=True, kw_only=True)
class Gaussian(Mechanism):
    """Clipped sums with Gaussian noise.

    Guarantees:
      One round releases sums whose joint noise multiplier under add-or-remove-one-client is
      `noise_multiplier` if clipped jointly; k separately clipped sums in a round have the joint
      multiplier noise_multiplier / sqrt(k), which is what a ledger charges.

    Attributes:
      noise: "central": the server adds noise to the decoded sum, before anyone sees it.
        "distributed": every client adds a share inside secure aggregation, so that the server never
        holds a sum without noise.
    """

    kind: ClassVar[str] = "gaussian"
    noise_kind: ClassVar[Literal["discrete_gaussian", "skellam"]] = "discrete_gaussian"

    noise: Literal["central", "distributed"] = "central"

    def __post_init__(self):
        super().__post_init__()
        expect_choice(self.noise, ("central", "distributed"), "noise", error=MechanismError)

    @property
    def by_clients(self) -> bool:
        """Whether clients add the noise, in shares."""
        return self.noise == "distributed"


@dataclass(frozen=True, kw_only=True)
class Skellam(Mechanism):
    """Clipped sums with Skellam noise, of which every client adds a share.

    A Skellam number is the difference of two Poisson counts, and sums of such numbers are exactly
    Skellam again. For any size of the shares, the survivors' noise therefore has the charged law.
    That law has no privacy loss distribution in closed form for vectors; it is priced by its Renyi
    divergence, so on a ledger with a filter, as in accountant="rdp@8". See decision 0036.

    Guarantees:
      One round releases sums with a Renyi divergence at every integer order of at most that of
      Agarwal, Kairouz, Liu (2021), theorem 3.5, for the L2 bound D2 of one client's integers, their L1
      bound, and the variance (noise_multiplier D2)^2; only the guaranteed honest survivors' shares count.

    Source: Agarwal, Kairouz, Liu (2021), sections 3 and 4.
    """

    kind: ClassVar[str] = "skellam"
    noise_kind: ClassVar[Literal["discrete_gaussian", "skellam"]] = "skellam"

    @property
    def by_clients(self) -> bool:
        """Always true: the server never holds a sum without noise."""
        return True


def split_noise(noise_multiplier: float, shares: Mapping[str, float]) -> dict[str, float]:
    """Noise multipliers of several sums of one round that together cost as much as one sum.

    Guarantees:
      sum_k z_k^-2 = z^-2, so that separately clipped sums with these multipliers have the joint
      multiplier z.

    Args:
      noise_multiplier: The multiplier z of the round.
      shares: Sum name to its share of the round's privacy loss; scaled to add to 1.

    Source: Gaussian composition; McMahan et al. (2018), section 3.
    """
    whole = _positive(noise_multiplier, "noise_multiplier")
    if not isinstance(shares, Mapping) or not shares:
        advice = "For example {'delta': 0.9, 'count': 0.1}."
        raise refusal(
            shares, "shares", "a mapping from sum names to shares", advice, MechanismError
        )
    weights = {name: _positive(share, f"shares[{name!r}]") for name, share in shares.items()}
    total = sum(weights.values())
    return {name: whole * math.sqrt(total / weight) for name, weight in weights.items()}


def _numbers(value: Any, what: str) -> float | Mapping[str, float]:
    """A positive number, or names with positive numbers."""
    if not isinstance(value, Mapping):
        return _positive(value, what)
    if not value:
        raise MechanismError(f"Expected a {what} for each sum, got none. Pass a number.")
    return MappingProxyType({str(k): _positive(v, f"{what}[{k!r}]") for k, v in value.items()})


def _matching(values: float | Mapping[str, float], name: str, what: str, field: str) -> float:
    if not isinstance(values, Mapping):
        return values
    for pattern, value in values.items():
        if fnmatch.fnmatchcase(name, pattern):
            return value
    raise MechanismError(
        f"Expected a {what} for the sum {name!r}, got ones for {sorted(values)}. "
        f"Add {name!r} or a pattern such as '*' to {field}."
    )


def _plain(value: float | Mapping[str, float]) -> float | dict[str, float]:
    return dict(value) if isinstance(value, Mapping) else value


def _positive(value: Any, what: str) -> float:
    advice = "Pass a float, or a mapping from sum names to floats where sums differ."
    return expect_number(value, what, "a positive finite number", advice, lambda x: x > 0)
