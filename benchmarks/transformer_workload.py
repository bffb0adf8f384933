"""A transformer that clients train: the workload of `bench_transformer.py`.

One round of Fig. 4 of the paper with three scalar hyperparameters: the clients take a step at a
broadcast rate, the server moves by their mean with a rate and a momentum of its own, the clients judge.
The model and the rate travel in one broadcast or in two, and its layers are a `scan` or written out.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import secfad as fad

HEADS, TOKENS, EXAMPLES = 4, 16, 2
ROUND = {"hyper": fad.SERVER, "model": fad.SERVER, "x": fad.CLIENTS}


def init(layers: int, width: int) -> dict[str, jax.Array]:
    """A model of about 12 width^2 numbers per layer, layers stacked."""
    shapes = {
        "attend": (width, 3 * width),
        "project": (width, width),
        "widen": (width, 4 * width),
        "narrow": (4 * width, width),
    }
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.normal(size=(layers, *shape)) / shape[0] ** 0.5, jnp.float32)
        for name, shape in shapes.items()
    }


def _normalised(x: jax.Array) -> jax.Array:
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)


def _layer(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
    split = (*x.shape[:-1], 3, HEADS, x.shape[-1] // HEADS)
    q, k, v = jnp.moveaxis((_normalised(x) @ p["attend"]).reshape(split), -3, 0)
    scores = jnp.einsum("btha,bsha->bhts", q, k) / q.shape[-1] ** 0.5
    seen = jnp.einsum("bhts,bsha->btha", jax.nn.softmax(scores), v)
    x = x + seen.reshape(x.shape) @ p["project"]
    return x + jax.nn.gelu(_normalised(x) @ p["widen"]) @ p["narrow"]


def loss(model: Any, x: jax.Array, unrolled: bool) -> jax.Array:
    """How far the transformer's output is from its input, a step later."""
    if unrolled:
        out = x
        for i in range(model["attend"].shape[0]):
            out = _layer(out, {name: p[i] for name, p in model.items()})
    else:
        out = jax.lax.scan(lambda h, p: (_layer(h, p), None), x, model)[0]
    return jnp.mean((_normalised(out)[:, :-1] - x[:, 1:]) ** 2)


def figure4(mean: Callable, broadcast: Callable, unrolled: bool, messages: int = 1) -> Callable:
    """The round, given how clients are averaged and told; a function of `ROUND`'s arguments.

    Args:
      mean: Of a function of each client's values.
      broadcast: Of a tree.
      unrolled: Whether layers are written out.
      messages: In which the model and the rate travel, 1 or 2.
    """
    own = lambda model, x: loss(model, x, unrolled)

    def delta(received: Any, x: jax.Array) -> Any:
        model, rate = received
        return jax.tree.map(lambda g: rate * g, jax.grad(own)(model, x))

    def round_of(hyper: Any, model: Any, x: jax.Array) -> jax.Array:
        local, server, momentum = hyper
        sent = (model, local)
        received = broadcast(sent) if messages == 1 else tuple(map(broadcast, sent))
        moved = mean(delta, received, x)
        model = jax.tree.map(lambda p, d: p - server * (d + momentum * 0.1 * p), model, moved)
        return mean(own, broadcast(model), x)

    return round_of


def by_secfad(unrolled: bool = False, messages: int = 1) -> fad.Computation:
    """The round as a computation."""
    made = figure4(lambda f, *values: fad.mean(f(*values)), fad.broadcast, unrolled, messages)
    return fad.computation(**ROUND)(made)


def by_hand(unrolled: bool = False) -> Callable:
    """The round over stacked clients, by `jax.vmap`."""

    def mean(fun: Callable, received: Any, x: jax.Array) -> Any:
        values = jax.vmap(fun, in_axes=(None, 0))(received, x)
        return jax.tree.map(lambda v: jnp.mean(v, axis=0), values)

    return figure4(mean, lambda tree: tree, unrolled)


def arguments(layers: int, width: int, clients: int) -> tuple:
    """Hyperparameters, a model and the data of the clients."""
    x = np.random.default_rng(1).normal(size=(clients, EXAMPLES, TOKENS, width))
    hyper = tuple(jnp.float32(h) for h in (0.1, 1.0, 0.5))
    return hyper, init(layers, width), jnp.asarray(x, jnp.float32)
