"""`fedopt`: federated optimization with any Optax optimizer at the server, ready for `train`.

    delta = mean of what clients' models moved,    model <- server optimizer(model, delta)

Every client has the same weight: a weight that depends on the client's data would be a further
release. The delta is asked as "training", is paid by the purpose training, and everything that the
optimizer makes of it is post-processing.

Sources: Reddi et al. (2021), Algorithm 1; McMahan et al. (2018) for the mean under privacy.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import secfad as fad
from privacy.queries import Algorithm, Question
from secfad.algorithms.local import LocalUpdate
from secfad.algorithms.trees import Loss, Tree, subtract


def fedopt(
    loss: Loss,
    model: Tree,
    one_client: Any,
    *,
    optimizer: optax.GradientTransformation,
    local: LocalUpdate,
) -> Algorithm:
    """Federated optimization as an algorithm for `train`.

    Args:
      loss: Of a model on a batch of a client's examples.
      model: The model before the first round.
      one_client: What one client holds: shapes and dtypes, passed to `local`.
      optimizer: Treats the mean delta as a gradient; `optax.sgd(1.0)` is FedAvg.
      local: What clients do with a received model; see `secfad.algorithms.local`.

    Returns:
      State {"model", "optimizer"}; question "training" of the server argument `model` and the client
      argument `batches`.
    """
    model = as_arrays(model)

    @fad.computation(model=fad.SERVER, batches=fad.CLIENTS)
    def mean_delta(model, batches):
        sent = fad.broadcast(model, name="model")
        return fad.mean(subtract(sent, local(loss, {}, sent, batches)), name="delta")

    @jax.jit
    def step(state, delta):
        change, inner = optimizer.update(delta, state["optimizer"], state["model"])
        return {"model": optax.apply_updates(state["model"], change), "optimizer": inner}

    def update(state, ask):
        return step(state, ask("training", state["model"]))

    state = {"model": model, "optimizer": as_arrays(optimizer.init(model))}
    question = Question(mean_delta, (specs_of(model), specs_of(one_client)), "training")
    return Algorithm(state, update, {"training": question})


def as_arrays(tree: Tree) -> Tree:
    """The tree with arrays for leaves, so that every round sees the same dtypes."""
    return jax.tree.map(jnp.asarray, tree)


def specs_of(tree: Tree) -> Tree:
    """Shapes and dtypes of a tree."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(getattr(a, "shape", np.shape(a)), jnp.result_type(a)), tree
    )
