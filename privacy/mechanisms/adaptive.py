"""Adaptive clipping: a clip norm that follows a quantile of the clients' norms.

The clip norm is server state. Each client divides its contribution by the broadcast norm, so its
message is bounded by 1 for any norm. It adds one number, plus or minus a half, which says whether
its norm was below. The noisy mean of this number determines the direction in which the clip norm
moves. The sum of this number is clipped, noised and charged like any other.

>>> float(updated(1.0, fraction_below=0.5, quantile=0.5))
1.0

Sources: Andrew, Thakkar, McMahan, Ramaswamy, "Differentially Private Learning with Adaptive Clipping"
(2021), algorithm 1 and theorem 1.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from privacy.checking import expect_number
from secfad import clip

# The sum of the indicators under this name is read as a count of clients by
# `privacy.execution.clip_activity`.
COUNT = "clients_below"
# The norm never leaves this range, whatever the noise.
SMALLEST, LARGEST = 1e-8, 1e8


@dataclass(frozen=True)
class AdaptiveClip:
    """The parameters of an adaptive clip norm.

    Attributes:
      initial: The clip norm before the first round.
      quantile: Target fraction of clients below it.
      rate: Step size in the logarithm; 0 keeps the norm and only counts.
    """

    initial: float
    quantile: float = 0.5
    rate: float = 0.2

    def __post_init__(self):
        for name, low, high in (
            ("initial", SMALLEST, LARGEST),
            ("quantile", 0.0, 1.0),
            ("rate", 0.0, math.inf),
        ):
            expected, advice = (
                f"a number from {low:g} to {high:g}",
                "A clip norm is in model units.",
            )
            within = lambda x, low=low, high=high: low <= x <= high
            expect_number(getattr(self, name), name, expected, advice, within)


def normalised(tree: Any, clip_norm: Any) -> tuple[Any, jax.Array]:
    """A contribution in units of the clip norm, and an indicator of whether it was below.

    For client code: `clip_norm` is the broadcast norm. Sum both in one message, with the clip norms
    1 for the tree and 0.5 for the indicator, each by itself (`joint=False`).

    Guarantees:
      The tree has an L2 norm of at most 1, the indicator is 0.5 or -0.5, for every input.

    Returns:
      (tree / clip_norm, clipped to 1; the indicator, to be averaged to `fraction_below` - 0.5).
    """
    scaled = jax.tree.map(lambda x: x / clip_norm, tree)
    square = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(scaled))
    return clip(scaled, 1.0), jnp.where(square <= 1.0, 0.5, -0.5)


def updated(
    clip_norm: Any, *, fraction_below: Any, quantile: float = 0.5, rate: float = 0.2
) -> jax.Array:
    """The next clip norm: C exp(-rate (fraction_below - quantile)), for server code.

    `fraction_below` is the noisy fraction of clients below C: the mean indicator plus a half.

    Source: Andrew et al. (2021), equation 1.
    """
    moved = clip_norm * jnp.exp(-rate * (fraction_below - quantile))
    return jnp.clip(moved, SMALLEST, LARGEST)
