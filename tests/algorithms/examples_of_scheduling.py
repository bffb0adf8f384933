"""Examples of hyperparameter baselines: FedHyper, FATHOM, FedEx."""

from collections.abc import Callable
from typing import Any

import centralised_algorithms as centralised
import jax
import jax.numpy as jnp
import numpy as np
from algorithm_entries import Algorithm
from example_arguments import (
    MODEL_SIZE,
    example_batches,
    example_model,
    example_sizes,
    loss,
    normal,
)
from jax.flatten_util import ravel_pytree

from secfad.algorithms import schedulers

Tree = Any


def scheduled() -> list[Algorithm]:
    """Schedulers of learning rates and local steps, and sampled configurations."""
    size, rates = MODEL_SIZE, (0.05, 0.2, 0.5)
    data = lambda n: (example_batches(n), example_sizes(n))
    client = lambda: {"learning_rate": jnp.asarray(0.3), "steps": jnp.asarray(1.5)}
    draws = lambda n: jnp.asarray(np.linspace(0.1, 0.9, n))
    return [
        Algorithm("fedhyper", schedulers.fedhyper(loss, 0.3),
                  lambda n: (jnp.asarray(0.7), example_model(), example_model(5), *data(n)),
                  _fedhyper_reference, size, size + 1),
        Algorithm("fathom", schedulers.fathom(loss),
                  lambda n: (client(), example_model(), example_model(5), *data(n)),
                  _fathom_reference, size + 2, size + 2),
        Algorithm("fedex", schedulers.fedex(loss, rates),
                  lambda n: (normal(60, 3), example_model(), draws(n), *data(n)),
                  _fedex_reference(rates), size + 3, size + 4, 1),
    ]  # fmt: skip


def _fedhyper_reference(rate, model, last, batches, sizes):
    moved = centralised.deltas(jax.grad(loss), model, batches, 0.3)
    delta = centralised.average(moved, list(sizes))
    product = ravel_pytree(delta)[0] @ ravel_pytree(last)[0]
    rate = rate * (1 + jnp.minimum(jnp.maximum(product, -0.8), 4.0))
    return rate, centralised.minus(model, delta, rate), delta


def _cosine(a: Tree, b: Tree) -> jax.Array:
    a, b = ravel_pytree(a)[0], ravel_pytree(b)[0]
    return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


def _fathom_reference(client, model, smoothed, batches, sizes):
    # 1.5 steps: the steps with numbers 0 and 1 run, which are all that the example has.
    moved = centralised.deltas(jax.grad(loss), model, batches, client["learning_rate"])
    delta = centralised.average(moved, list(sizes))
    ends = [centralised.minus(model, change) for change in moved]
    slopes = [jax.grad(loss)(end, centralised.pooled(own))
              for end, own in zip(ends, centralised.clients(batches))]  # fmt: skip
    helps = centralised.average([_cosine(g, c) for g, c in zip(slopes, moved)], list(sizes))
    new = {
        "learning_rate": client["learning_rate"] * jnp.exp(0.01 * _cosine(delta, smoothed)),
        "steps": client["steps"] * jnp.exp(0.1 * helps),
    }
    blend = jax.tree.map(lambda s, d: 0.5 * s + 0.5 * d, smoothed, delta)
    return new, centralised.minus(model, delta), blend


def _fedex_reference(rates: tuple[float, ...]) -> Callable:
    def reference(logits, model, draws, batches, sizes):
        chances = jnp.exp(logits) / jnp.sum(jnp.exp(logits))
        edges = jnp.cumsum(chances)
        moved, losses = [], []
        for draw, own in zip(draws, centralised.clients(batches)):
            choice = jnp.searchsorted(edges, draw)
            end = centralised.descent(jax.grad(loss), model, own, jnp.asarray(rates)[choice])
            moved.append(centralised.minus(model, end))
            value = loss(end, centralised.pooled(own)) / chances[choice]
            losses.append(jnp.zeros(3).at[choice].set(value))
        per_choice = centralised.average(losses, list(sizes))
        new = centralised.minus(model, centralised.average(moved, list(sizes)))
        return logits - 0.1 * (per_choice - chances @ per_choice), new

    return reference
