"""Baselines that adapt hyperparameters from the sums that training sends anyway.

FedHyper    rate' = rate (1 + clip(<delta_t, delta_{t-1}>)): the learning-rate hypergradient with the
            gradient of the loss replaced by the next delta. No further message.
FATHOM      rate' = rate exp(gain cos(delta_t, smoothed deltas)) and as many local steps as still help:
            one further number up. The rule for the steps is our reading of the method.
FedEx       clients draw one of k configurations from the broadcast distribution and return its loss
            in a one-hot vector; the server takes an exponentiated-gradient step.

Sources: Wang et al. (2024), FedHyper; Kan (2022), FATHOM; Khodak et al. (2021), FedEx. Of the first
two the abstracts and descriptions of the released code were at hand.
"""

from typing import Any

import jax
import jax.numpy as jnp

import secfad as fad
from secfad.algorithms.local import sgd
from secfad.algorithms.trees import Loss, Tree, axpy, dot, subtract, whole


def fedhyper(
    loss: Loss, learning_rate: float, *, low: float = -0.8, high: float = 4.0
) -> fad.Computation:
    """One round: `(rate, model, last_delta, batches, size) -> (rate, model, delta)`.

    Args:
      loss: Of a model on a batch.
      learning_rate: Of local training.
      low: Least relative change of the server's rate in a round.
      high: Largest one.
    """
    local = sgd(learning_rate)

    @fad.computation(
        rate=fad.SERVER, model=fad.SERVER, last_delta=fad.SERVER,
        batches=fad.CLIENTS, size=fad.CLIENTS,
    )  # fmt: skip
    def fedhyper_round(rate, model, last_delta, batches, size):
        sent = fad.broadcast(model, name="model")
        delta = fad.mean(subtract(sent, local(loss, {}, sent, batches)), weights=size, name="delta")
        rate = rate * (1.0 + jnp.clip(dot(delta, last_delta), low, high))
        return rate, axpy(-rate, delta, model), delta

    return fedhyper_round


def fathom(
    loss: Loss, *, rate_gain: float = 0.01, steps_gain: float = 0.1, smoothing: float = 0.5
) -> fad.Computation:
    """One round: `(client, model, smoothed, batches, size) -> (client, model, smoothed)`.

    `client` holds `learning_rate` and `steps` (a number; clients run the steps below it) and is
    broadcast with the model.
    """

    @fad.computation(
        client=fad.SERVER, model=fad.SERVER, smoothed=fad.SERVER,
        batches=fad.CLIENTS, size=fad.CLIENTS,
    )  # fmt: skip
    def fathom_round(client, model, smoothed, batches, size):
        sent, hyper = fad.broadcast((model, client), name="model")
        moved = _counted_sgd(loss, hyper, sent, batches)
        change = subtract(sent, moved)
        helps = cosine(jax.grad(loss)(moved, whole(batches)), change)
        delta, agreement = fad.mean((change, helps), weights=size, name="delta")
        new = {
            "learning_rate": client["learning_rate"] * jnp.exp(rate_gain * cosine(delta, smoothed)),
            "steps": client["steps"] * jnp.exp(steps_gain * agreement),
        }
        smoothed = axpy(smoothing, subtract(smoothed, delta), delta)
        return new, subtract(model, delta), smoothed

    return fathom_round


def _counted_sgd(loss: Loss, hyper: Tree, model: Tree, batches: Tree) -> Tree:
    """Local descent over the steps whose number is below `hyper["steps"]`."""
    count = jax.tree.leaves(batches)[0].shape[0]

    def step(current, item):
        index, batch = item
        rate = jnp.where(index < hyper["steps"], hyper["learning_rate"], 0.0)
        return axpy(-rate, jax.grad(loss)(current, batch), current), None

    numbers = jnp.arange(count, dtype=hyper["steps"].dtype)
    return jax.lax.scan(step, model, (numbers, batches))[0]


def cosine(a: Tree, b: Tree) -> jax.Array:
    """The cosine of the angle between two trees; 0 if either is zero."""
    square = dot(a, a) * dot(b, b)
    positive = square > 0
    return jnp.where(positive, dot(a, b) / jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def fedex(loss: Loss, learning_rates: Any, *, step: float = 0.1) -> fad.Computation:
    """One round: `(logits, model, draw, batches, size) -> (logits, model)`.

    `draw` is a client's own uniform number. Costs D + k numbers down and D + k + 1 up.

    Args:
      loss: Of a model on a batch.
      learning_rates: The k configurations.
      step: Of the exponentiated gradient, which adds to the logits.
    """
    rates = [float(r) for r in learning_rates]
    local = sgd()

    @fad.computation(
        logits=fad.SERVER, model=fad.SERVER,
        draw=fad.CLIENTS, batches=fad.CLIENTS, size=fad.CLIENTS,
    )  # fmt: skip
    def fedex_round(logits, model, draw, batches, size):
        sent, chances = fad.broadcast((model, jax.nn.softmax(logits)), name="model")
        below = jnp.cumsum(chances) < draw
        choice = jnp.minimum(jnp.sum(below), len(rates) - 1)
        picked = jax.nn.one_hot(choice, len(rates), dtype=chances.dtype)
        rate = jnp.sum(jnp.stack([picked[i] * r for i, r in enumerate(rates)]))
        moved = local(loss, {"learning_rate": rate}, sent, batches)
        # Divided by the chance of the choice, the expectation is the loss of each configuration.
        losses = picked * (loss(moved, whole(batches)) / jnp.dot(picked, chances))
        delta, losses = fad.mean((subtract(sent, moved), losses), weights=size, name="delta")
        centred = losses - jnp.dot(jax.nn.softmax(logits), losses)
        return logits - step * centred, axpy(-1.0, delta, model)

    return fedex_round
