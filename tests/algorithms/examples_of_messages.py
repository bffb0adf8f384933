"""Examples of short messages: BAFFLE and intrinsic compression."""

from collections.abc import Callable
from typing import Any

import centralised_algorithms as centralised
import jax
import jax.numpy as jnp
import optax
from algorithm_entries import Algorithm
from example_arguments import (
    MODEL_SIZE,
    example_batch,
    example_model,
    example_sizes,
    loss,
    normal,
)
from jax.flatten_util import ravel_pytree

from secfad.algorithms import baffle, compression, projections

Tree = Any


def forward_only() -> list[Algorithm]:
    """BAFFLE with forward differences and with exact directional derivatives."""
    return [_baffle("baffle", 1e-3), _baffle("forward_gradient", None)]


def _baffle(name: str, step: float | None) -> Algorithm:
    directions = 5
    computation = baffle.make_round(loss, optax.sgd(0.5), directions=directions, step=step)

    def make(clients):
        model = example_model()
        return (
            model,
            optax.sgd(0.5).init(model),
            jax.random.key(3),
            example_batch(clients),
            example_sizes(clients),
        )

    def reference(model, state, key, batch, sizes):
        del state
        flat, unravel = ravel_pytree(model)
        vectors = jax.random.normal(key, (directions, flat.size), flat.dtype)
        objective = lambda p: centralised.average(
            [loss(unravel(p), b) for b in centralised.clients(batch)], list(sizes)
        )
        slope = lambda v: (
            jax.grad(objective)(flat) @ v if step is None
            else (objective(flat + step * v) - objective(flat)) / step
        )  # fmt: skip
        return unravel(flat - 0.5 * sum(slope(v) * v for v in vectors) / directions)

    return Algorithm(
        name, computation, make, reference, MODEL_SIZE, directions + 1, 0, lambda r: r[0], keys=1
    )


def _held(clients: int) -> Tree:
    """What clients hold from enrolment: everyone the same."""
    public = {"base": example_model(), "key": jax.random.key(5), "previous_key": jax.random.key(6)}
    held = jax.tree.map(lambda x: jnp.broadcast_to(x, (clients, *x.shape)), public)
    return held | {"choice": jnp.arange(clients, dtype=jnp.int32) % 2}


def _matrix(project: projections.Projection, key: Any, coordinates: int, like: Any) -> jax.Array:
    columns = jnp.eye(coordinates, dtype=like.dtype)
    return jnp.stack([project(key, column, MODEL_SIZE) for column in columns], 1)


def compressed() -> list[Algorithm]:
    """Static, time-varying, and K subspaces with public groups or a secret choice."""
    d, count, descent = 2, 2, optax.sgd(0.5)
    found = []
    for name, project in (("dense", projections.dense), ("fastfood", projections.fastfood)):
        static = compression.static(loss, project, descent)
        make = lambda n: (
            normal(50, d),
            descent.init(jnp.zeros(d)),
            _held(n),
            example_batch(n),
            example_sizes(n),
        )
        found.append(
            Algorithm(f"igc_static_{name}", static, make, _static_reference(project, False), d, d + 1,
                      0, lambda r: r[0])
        )  # fmt: skip
    varying = compression.time_varying(loss, projections.fastfood, descent)
    many = lambda n: (normal(52, count, d), _held(n), example_batch(n), example_sizes(n))
    twice = lambda n: (
        normal(51, d), normal(50, d), descent.init(jnp.zeros(d)), _held(n), example_batch(n), example_sizes(n)
    )  # fmt: skip
    group = compression.subspace(loss, projections.family(projections.fastfood, count), 1)
    hidden = compression.hidden_subspace(loss, projections.family(projections.fastfood, count))
    return [
        *found,
        Algorithm("igc_time_varying", varying, twice, _static_reference(projections.fastfood, True),
                  2 * d, d + 1, 1, lambda r: r[0]),
        Algorithm("igc_subspace", group, many, _subspace_reference(1), count * d, d + 1),
        Algorithm("igc_hidden_subspace", hidden, many, _subspace_reference(None), count * d,
                  count * d + count),
    ]  # fmt: skip


def _static_reference(project: projections.Projection, varying: bool) -> Callable:
    def step(previous, coordinates, held, batch, sizes):
        base = held["base"]
        flat, unravel = ravel_pytree(jax.tree.map(lambda x: x[0], base))
        if varying:
            flat = flat + _matrix(project, held["previous_key"][0], 2, flat) @ previous
        a = _matrix(project, held["key"][0], 2, flat)
        gradients = [
            a.T @ jax.grad(lambda p, b=b: loss(unravel(p), b))(flat + a @ coordinates)
            for b in centralised.clients(batch)
        ]
        return coordinates - 0.5 * centralised.average(gradients, list(sizes))

    if varying:
        return lambda previous, s, state, held, batch, sizes: step(previous, s, held, batch, sizes)
    return lambda s, state, held, batch, sizes: step(None, s, held, batch, sizes)


def _subspace_reference(index: int | None) -> Callable:
    def gradients(coordinates, held, batch, sizes):
        flat, unravel = ravel_pytree(jax.tree.map(lambda x: x[0], held["base"]))
        keys = [jax.random.fold_in(held["key"][0], k) for k in range(2)]
        blocks = [_matrix(projections.fastfood, key, 2, flat) for key in keys]
        point = flat + sum(a @ s for a, s in zip(blocks, coordinates))
        per_client = [jax.grad(lambda p, b=b: loss(unravel(p), b))(point)
                      for b in centralised.clients(batch)]  # fmt: skip
        rows = []
        for k, a in enumerate(blocks):
            chosen = [i for i in range(len(per_client)) if index is not None or i % 2 == k]
            weights = [sizes[i] for i in chosen]
            rows.append(a.T @ centralised.average([per_client[i] for i in chosen], weights))
        return jnp.stack(rows) if index is None else rows[index]

    return gradients
