"""The one neuron that most examples train, and what their clients hold."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any
MODEL_SIZE = 4


def loss(model: Tree, batch: Tree) -> jax.Array:
    """The example loss: one neuron."""
    return 0.5 * jnp.mean((jnp.tanh(batch["x"] @ model["w"] + model["b"]) - batch["y"]) ** 2)


def normal(seed: int, *shape: int) -> jax.Array:
    """Standard normal numbers, the same ones for the same seed."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def example_model(seed: int = 0) -> Tree:
    """A neuron: MODEL_SIZE numbers."""
    return {"b": 0.5 * normal(seed, 1)[0], "w": 0.5 * normal(seed + 1, 3)}


def example_batches(clients: int, seed: int = 2) -> Tree:
    """Two mini-batches of two examples for every client."""
    return {"x": normal(seed, clients, 2, 2, 3), "y": normal(seed + 1, clients, 2, 2)}


def example_batch(clients: int) -> Tree:
    """The first mini-batch of every client."""
    return jax.tree.map(lambda x: x[:, 0], example_batches(clients))


def example_sizes(clients: int) -> jax.Array:
    """Weights of the clients, all different."""
    return jnp.asarray(np.linspace(1.0, 0.4, clients))
