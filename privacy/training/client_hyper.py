"""Client hyperparameters: numbers sent with the model, and derivatives of the sums by them.

`hyper["client"]` is broadcast with the model. Clients differentiate their contributions with
respect to it, and the derivatives are sums like any other:

    delta_i = x - local(x)                                    d delta_i / d learning_rate, ...
    delta_i = clip((x - local(x)) / clip_norm, 1)             with a `clip_norm`
    weight_i delta_i, weight_i                                with a `weight`

The server combines the released sums to the mean delta, differentiably in the same hyperparameters:
delta = clip_norm sum(weight_i delta_i) / sum(weight_i). It is post-processing.

The mechanism's clip norm bounds the contributions of a client, because `privatize` clips after all
of this. The learned numbers scale the contributions, never the charge. A learned `clip_norm` is the
unit of the contributions. The noise of a round is a fixed multiple of the *mechanism's* clip norm
in this unit, so it scales with the learned number. A learned number that is too large, too small or
negative costs accuracy, not privacy.

Sources: Rush, Charles, Garrett (JMLR 2024), Fig. 12, for learned weights; Andrew et al. (2021) for sums in
units of a clip norm; docs/privacy-model.md, "Learned numbers and fixed bounds".
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import secfad as fad
from secfad.algorithms.local import LocalUpdate
from secfad.algorithms.trees import Loss, Tree, subtract

Weight = Callable[[Tree, Tree], Any]
"""Maps the client hyperparameters and a client's data to the client's weight, which should be at
most 1.
"""

CLIP_NORM = "clip_norm"
# Lower bound of a mean weight: noise must not reverse or blow up a step.
LEAST_WEIGHT = 1e-2


def training(loss: Loss, local: LocalUpdate, weight: Weight | None = None) -> fad.Computation:
    """`(hyper_client, model, batches) -> (sums, tangents)`, as means over the expected cohort.

    The sums are "delta" and, with a weight, "weight"; `joined` computes the mean delta from them.
    The tangents d(sums)/d(hyper_client) are () if there is nothing to learn.
    """

    @fad.computation(client=fad.SERVER, model=fad.SERVER, batches=fad.CLIENTS)
    def mean_delta(client, model, batches):
        sent, received = fad.broadcast((model, client), name="model")

        def contribution(h):
            delta = subtract(sent, local(loss, h, sent, batches))
            if _clipped(h):
                delta = fad.clip(jax.tree.map(lambda d: d / h[CLIP_NORM], delta), 1.0)
            sums = {"delta": delta}
            if weight is not None:
                own = jnp.asarray(weight(h, batches), jnp.float32)
                sums = {"delta": jax.tree.map(lambda d: own * d, delta), "weight": own}
            return sums, sums

        if not jax.tree.leaves(client):
            return _means(contribution(received)[0], ""), ()
        tangents, sums = jax.jacfwd(contribution, has_aux=True)(received)
        return _means(sums, ""), _means(tangents, ".tangent")

    return mean_delta


def _clipped(client: Tree) -> bool:
    return isinstance(client, Mapping) and CLIP_NORM in client


def _means(sums: Mapping[str, Tree], suffix: str) -> dict[str, Tree]:
    return {name: fad.mean(value, name=name + suffix) for name, value in sums.items()}


def joined(client: Tree, sums: Mapping[str, Tree]) -> Tree:
    """The mean delta for the server's optimizer, from released sums."""
    delta = sums["delta"]
    if "weight" in sums:
        whole = jnp.maximum(sums["weight"], LEAST_WEIGHT)
        delta = jax.tree.map(lambda d: d / whole, delta)
    if _clipped(client):
        delta = jax.tree.map(lambda d: client[CLIP_NORM] * d, delta)
    return delta


def displaced(tree: Tree, tangents: Tree, shift: Tree) -> Tree:
    """A tree moved along its tangents: x + sum over hyperparameters of (dx/dh) shift_h."""

    def leaf(x, row):
        moves = jax.tree.map(lambda t, s: jnp.tensordot(t, s, jnp.ndim(s)), row, shift)
        return sum(jax.tree.leaves(moves), x)

    return jax.tree.map(leaf, tree, tangents)
