"""FedAvgM with learned server hyperparameters: the quickstart's input to the shared loop.

The loop is `privacy.hypergradient_descent` in its sequential form with fresh cohorts. This module
defines the model, the clients' loss and training, and the updates of the two hyperparameters. The
learning rate is learned by its logarithm, which keeps it positive and gives both derivatives a
comparable size. The momentum is projected to [0, max_momentum].

    buffer' = momentum * buffer + delta,  model' = model - exp(log_learning_rate) * buffer'

Source: Rush, Charles, Garrett (JMLR 2024), section 4 and Fig. 4 (sequential form, fresh cohort).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from audits.quickstart.configuration import ClientSection, ServerSection
from privacy.execution.queries import Algorithm
from privacy.training.hypergradients import Learner, hypergradient_descent
from secfad.algorithms.local import LocalUpdate
from secfad.data.synthetic import CLASSES, FEATURES, ClientArrays

Tree = Any


def make_algorithm(client: ClientSection, server: ServerSection, one_client: Tree) -> Algorithm:
    """The algorithm for these settings, from a model of zeros."""
    zeros = {
        "weights": np.zeros((FEATURES, CLASSES), np.float32),
        "bias": np.zeros(CLASSES, np.float32),
    }
    learned = {
        "log_learning_rate": np.float32(np.log(server.learning_rate)),
        "momentum": np.float32(server.momentum),
    }
    steps = {"log_learning_rate": server.learning_rate_step, "momentum": server.momentum_step}

    def project(hyper: Tree) -> Tree:
        momentum = jnp.clip(hyper["server"]["momentum"], 0.0, server.max_momentum)
        return {"server": hyper["server"] | {"momentum": momentum}, "client": {}}

    return hypergradient_descent(
        client_loss,
        zeros,
        one_client,
        hyper={"server": learned, "client": {}},
        optimizer=lambda h: optax.sgd(jnp.exp(h["log_learning_rate"]), momentum=h["momentum"]),
        local=local_sgd(client.learning_rate, client.batch_size),
        hyper_optimizer=optax.partition(
            {name: optax.sgd(step) for name, step in steps.items()},
            {"server": {name: name for name in steps}, "client": {}},
        ),
        project=project,
        judge=client_loss,
    )


def learning_rate(learner: Learner) -> float:
    """Of the server."""
    return float(np.exp(learner.hyper["server"]["log_learning_rate"]))


def momentum(learner: Learner) -> float:
    """Of the server."""
    return float(learner.hyper["server"]["momentum"])


def local_sgd(learning_rate: float, batch_size: int) -> LocalUpdate:
    """One epoch over a client's examples in their order; padding has no effect."""

    def local(loss: Any, hyper: Tree, model: Tree, batch: Tree) -> Tree:
        del hyper
        parts = jax.tree.map(lambda a: a.reshape(-1, batch_size, *a.shape[1:]), batch)

        def step(current, part):
            gradient = jax.grad(loss)(current, part)
            return jax.tree.map(lambda p, g: p - learning_rate * g, current, gradient), None

        return jax.lax.scan(step, model, parts)[0]

    return local


def client_loss(model: Tree, batch: Tree) -> jax.Array:
    """Mean cross-entropy of a client's examples; 0 without any."""
    scores = jax.nn.log_softmax(batch["features"] @ model["weights"] + model["bias"])
    chosen = jnp.sum(scores * jax.nn.one_hot(batch["labels"], CLASSES), axis=-1)
    count = jnp.maximum(jnp.sum(batch["mask"]), 1.0)
    return -jnp.sum(chosen * batch["mask"]) / count


def batch_of(arrays: ClientArrays, batch_size: int) -> Tree:
    """The client arguments: arrays with rows padded to whole mini-batches."""
    missing = -arrays.labels.shape[1] % batch_size
    rows = ((0, 0), (0, missing))
    return {
        "features": np.pad(arrays.features, (*rows, (0, 0))),
        "labels": np.pad(arrays.labels, rows),
        "mask": np.pad(arrays.mask, rows),
    }


def members_of(batch: Tree, members: np.ndarray) -> Tree:
    """The client arguments of a cohort."""
    return jax.tree.map(lambda a: a[members], batch)
