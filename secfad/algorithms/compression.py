"""Intrinsic gradient compression: training in random subspaces; messages of d numbers, not D.

    model = base + A s,   s in R^d;   a client sends A^T grad, which is the gradient by s

The compressor is linear, so it commutes with the sum: nothing is decoded per client, no error is fed
back. What clients hold from enrolment, the public `held = {"base", "key"}`, is an argument placed at
the clients and costs no message.

  static        one A                                        d down, d up
  time_varying  a new A each epoch, moved into the base      2 d down, d up, base kept by the client
  subspaces     K matrices; a client serves one of them      K d down, d up (K d if secretly chosen)

Source: Rothchild et al. (2021/22), "Intrinsic gradient compression for federated learning".
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

import secfad as fad
from secfad.algorithms.projections import Projection
from secfad.algorithms.trees import Loss, Tree


def moved(base: Tree, project: Projection, key: Any, coordinates: jax.Array) -> Tree:
    """The model `base + A s`."""
    flat, unravel = ravel_pytree(base)
    return unravel(flat + project(key, coordinates, flat.size))


def compressed_gradient(
    loss: Loss, base: Tree, project: Projection, key: Any, coordinates: jax.Array, batch: Tree
) -> jax.Array:
    """A^T grad at `base + A s`: what a client sends."""
    return jax.grad(lambda s: loss(moved(base, project, key, s), batch))(coordinates)


def static(
    loss: Loss, project: Projection, optimizer: optax.GradientTransformation
) -> fad.Computation:
    """One round: `(coordinates, state, held, batch, size) -> (coordinates, state)`."""

    @fad.computation(
        coordinates=fad.SERVER, state=fad.SERVER,
        held=fad.CLIENTS, batch=fad.CLIENTS, size=fad.CLIENTS,
    )  # fmt: skip
    def static_round(coordinates, state, held, batch, size):
        sent = fad.broadcast(coordinates, name="coordinates")
        gradient = compressed_gradient(loss, held["base"], project, held["key"], sent, batch)
        total = fad.mean(gradient, weights=size, name="compressed")
        step, state = optimizer.update(total, state, coordinates)
        return optax.apply_updates(coordinates, step), state

    return static_round


def time_varying(
    loss: Loss, project: Projection, optimizer: optax.GradientTransformation
) -> fad.Computation:
    """One round: `(previous, coordinates, state, held, batch, size) -> (coordinates, state, base)`.

    A client that is seen once per epoch first moves its base by the last epoch's final coordinates
    (`previous`, with the matrix of `held["previous_key"]`); the new base stays at the client.
    """

    @fad.computation(
        previous=fad.SERVER, coordinates=fad.SERVER, state=fad.SERVER,
        held=fad.CLIENTS, batch=fad.CLIENTS, size=fad.CLIENTS,
    )  # fmt: skip
    def time_varying_round(previous, coordinates, state, held, batch, size):
        last, sent = fad.broadcast((previous, coordinates), name="coordinates")
        base = moved(held["base"], project, held["previous_key"], last)
        gradient = compressed_gradient(loss, base, project, held["key"], sent, batch)
        total = fad.mean(gradient, weights=size, name="compressed")
        step, state = optimizer.update(total, state, coordinates)
        return optax.apply_updates(coordinates, step), state, base

    return time_varying_round


def subspace(loss: Loss, projects: Sequence[Projection], index: int) -> fad.Computation:
    """`(coordinates, held, batch, size) -> gradient` of the public group that serves one subspace.

    `coordinates` has shape (K, d); the cohort is the group, the result has shape (d,). A round of
    the K-subspace method is one such evaluation per group.
    """

    @fad.computation(coordinates=fad.SERVER, held=fad.CLIENTS, batch=fad.CLIENTS, size=fad.CLIENTS)
    def subspace_gradient(coordinates, held, batch, size):
        sent = fad.broadcast(coordinates, name="coordinates")
        gradient = jax.grad(lambda s: loss(combined(held, projects, sent.at[index].set(s)), batch))(
            sent[index]
        )
        return fad.mean(gradient, weights=size, name="compressed")

    return subspace_gradient


def hidden_subspace(loss: Loss, projects: Sequence[Projection]) -> fad.Computation:
    """`(coordinates, held, batch, size) -> gradients (K, d)`, where `held["choice"]` stays secret.

    A client sends zeros for the subspaces that it does not serve; each row is divided by the sizes of
    the clients that serve it, and is zero if there is none.
    """

    @fad.computation(coordinates=fad.SERVER, held=fad.CLIENTS, batch=fad.CLIENTS, size=fad.CLIENTS)
    def hidden_subspace_gradient(coordinates, held, batch, size):
        sent = fad.broadcast(coordinates, name="coordinates")
        gradient = jax.grad(lambda s: loss(combined(held, projects, s), batch))(sent)
        serves = size * jax.nn.one_hot(held["choice"], sent.shape[0], dtype=gradient.dtype)
        total, sizes = fad.sum((serves[:, None] * gradient, serves), name="compressed")
        served = sizes > 0
        return jnp.where(served[:, None], total / jnp.where(served, sizes, 1.0)[:, None], 0.0)

    return hidden_subspace_gradient


def combined(held: Tree, projects: Sequence[Projection], coordinates: jax.Array) -> Tree:
    """The model `base + sum_k A_k s_k`."""
    flat, unravel = ravel_pytree(held["base"])
    for project, row in zip(projects, rows(coordinates)):
        flat = flat + project(held["key"], row, flat.size)
    return unravel(flat)


def rows(matrix: jax.Array) -> list[jax.Array]:
    """The rows of a matrix, one by one."""
    return [matrix[k] for k in range(matrix.shape[0])]
