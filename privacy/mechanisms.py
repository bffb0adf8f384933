"""Mechanisms: how much a client may add to a sum, and how much noise hides it.

A closed set, because a mechanism that the accountant does not know has no price. `Gaussian` clips
what a client sends in one round and adds Gaussian noise of a stated multiple of that bound to the
sum. Noise and bound are compared at the same point: on the sum, never on a mean.

>>> Gaussian(noise_multiplier=1.2, clip_norm={"delta": 0.5, "loss*": 2.0}).clip_norm_of("loss.tangent")
2.0

Sources: Abadi et al. (2016); McMahan et al. (2018), section 3, for several sums clipped jointly.
"""

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from privacy.errors import MechanismError

Purpose = Literal["training", "hypergradient", "evaluation"]
PURPOSES: tuple[str, ...] = ("training", "hypergradient", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Clipped sums with Gaussian noise.

    Guarantees:
      One round releases sums whose joint noise multiplier under add-or-remove-one-client is
      `noise_multiplier` if clipped jointly; k separately clipped sums in a round have the joint
      multiplier noise_multiplier / sqrt(k), which is what a ledger charges.

    Attributes:
      noise_multiplier: Standard deviation of the noise on a sum over the largest L2 norm of one
        client's contribution to it.
      clip_norm: That norm, in the units of the sum: one number for all sums of a round together, or
        sum name (with `*` and `?` as wildcards) to number; the first match counts.
      joint: Clip all sums of a round together: the norm of the concatenation of x_k / C_k is at most
        1. Otherwise each sum by itself, and the ledger composes them.
      noise: "central": the server adds noise to the decoded sum, before anyone sees it.
        "distributed": every client adds a share inside secure aggregation, so that the server never
        holds a sum without noise.
      grid: Integer steps per clip norm in the fixed-point encoding that is aggregated.
      honest_survivors: For distributed noise, the fraction of the cohort that is guaranteed to be
        honest and to answer. Their shares alone make up the noise; with fewer survivors than that
        the release is withheld, and with all of them the noise is larger than charged.
    """

    noise_multiplier: float
    clip_norm: float | Mapping[str, float]
    joint: bool = True
    noise: Literal["central", "distributed"] = "central"
    grid: int = 1 << 16
    honest_survivors: float = 0.75

    def __post_init__(self):
        object.__setattr__(
            self, "noise_multiplier", _positive(self.noise_multiplier, "noise_multiplier")
        )
        if isinstance(self.clip_norm, Mapping):
            norms = {str(k): _positive(v, f"clip_norm[{k!r}]") for k, v in self.clip_norm.items()}
            if not norms:
                raise MechanismError("Expected a clip norm for each sum, got none. Pass a number.")
            object.__setattr__(self, "clip_norm", MappingProxyType(norms))
        else:
            object.__setattr__(self, "clip_norm", _positive(self.clip_norm, "clip_norm"))
        if self.noise not in ("central", "distributed"):
            raise MechanismError(f"Expected noise='central' or 'distributed', got {self.noise!r}.")
        share = _positive(self.honest_survivors, "honest_survivors")
        if share > 1:
            raise MechanismError(f"Expected honest_survivors as a fraction, got {share!r}.")
        if not isinstance(self.grid, int) or not 1 << 8 <= self.grid <= 1 << 24:
            raise MechanismError(
                f"Expected grid as an int from 2**8 to 2**24, got {self.grid!r}. A finer grid rounds "
                "less and needs a larger ring."
            )

    def clip_norm_of(self, name: str) -> float:
        """The clip norm of a sum.

        Raises:
          MechanismError: No pattern matches the name.
        """
        if not isinstance(self.clip_norm, Mapping):
            return self.clip_norm
        for pattern, norm in self.clip_norm.items():
            if fnmatch.fnmatchcase(name, pattern):
                return norm
        raise MechanismError(
            f"Expected a clip norm for the sum {name!r}, got ones for {sorted(self.clip_norm)}. "
            f"Add {name!r} or a pattern such as '*' to clip_norm."
        )

    def record(self) -> dict[str, Any]:
        """The mechanism as JSON, for certificates and round contexts."""
        norm = dict(self.clip_norm) if isinstance(self.clip_norm, Mapping) else self.clip_norm
        return {
            "mechanism": "gaussian",
            "noise_multiplier": self.noise_multiplier,
            "clip_norm": norm,
            "joint": self.joint,
            "noise": self.noise,
            "grid": self.grid,
            "honest_survivors": self.honest_survivors,
        }

    def guaranteed_survivors(self, clients: int) -> int:
        """The number of clients of a cohort whose noise shares make up the charged noise."""
        return max(1, math.floor(self.honest_survivors * clients))


def _positive(value: Any, what: str) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value <= 0:
        raise MechanismError(f"Expected {what} as a positive finite number, got {value!r}.")
    return float(value)
