"""BAFFLE: training with forward passes only; a client uploads K numbers, whatever the model's size.

    v_k ~ N(0, I) from a public random key that the server broadcasts, k = 1..K
    client: s_k = (loss(x + scale v_k) - loss(x)) / scale      or, exactly, <grad loss(x), v_k> by jvp
    server: g = (1/K) sum_k mean(s_k) v_k,  then any optimizer

All clients use the *same* directions: the server multiplies a sum over clients by one v_k. With
scale -> 0 this is forward-mode federated differentiation with K random tangents, of which only the
key is sent. E||g - grad||^2 = (D + 1) / K ||grad||^2.

Sources: Feng et al. (2023), "Does Federated Learning Really Need Backpropagation?"; Baydin et al.
(2022) for the exact form.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

import secfad as fad
from secfad.algorithms.trees import Loss, Tree, axpy, scale


def make_round(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    directions: int,
    step: float | None = None,
) -> fad.Computation:
    """One round: `(model, state, key, batch, size) -> (model, state)`.

    Costs each client D numbers and a key of 8 bytes down, and K + 1 numbers up.

    Args:
      loss: Of a model on a batch.
      optimizer: Optax optimizer at the server.
      directions: K.
      step: Scale of the perturbation in forward differences; None for exact directional derivatives.
    """

    @fad.computation(
        model=fad.SERVER, state=fad.SERVER, key=fad.SERVER, batch=fad.CLIENTS, size=fad.CLIENTS
    )
    def baffle_round(model, state, key, batch, size):
        sent, sent_key = fad.broadcast((model, key), name="model")
        slopes = client_slopes(loss, sent, sent_key, batch, directions, step)
        gradient = combine(fad.mean(slopes, weights=size, name="slopes"), key, model)
        change, state = optimizer.update(gradient, state, model)
        return optax.apply_updates(model, change), state

    return baffle_round


def client_slopes(
    loss: Loss, model: Tree, key: Any, batch: Tree, directions: int, step: float | None
) -> jax.Array:
    """What a client sends: the slope of its loss along each of the K directions."""
    slope = exact_slope if step is None else difference(step)
    tangents = random_directions(key, model, directions)
    return jax.vmap(lambda v: slope(loss, model, v, batch))(tangents)


def exact_slope(loss: Loss, model: Tree, direction: Tree, batch: Tree) -> jax.Array:
    """The directional derivative, by forward-mode differentiation."""
    return jax.jvp(lambda m: loss(m, batch), (model,), (direction,))[1]


def difference(step: float) -> Callable:
    """The forward difference quotient of this step: two losses."""

    def slope(loss: Loss, model: Tree, direction: Tree, batch: Tree) -> jax.Array:
        return (loss(axpy(step, direction, model), batch) - loss(model, batch)) / step

    return slope


def random_directions(key: Any, model: Tree, directions: int) -> Tree:
    """K standard normal trees like the model, stacked; the same for everyone with the key."""
    flat, unravel = ravel_pytree(model)
    return jax.vmap(unravel)(jax.random.normal(key, (directions, flat.size), flat.dtype))


def combine(slopes: jax.Array, key: Any, model: Tree) -> Tree:
    """The server's estimate of the gradient."""
    tangents = random_directions(key, model, slopes.shape[0])
    total = jax.tree.map(lambda v: jnp.tensordot(slopes, v, 1), tangents)
    return scale(1.0 / slopes.shape[0], total)
