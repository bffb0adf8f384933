"""Examples of learned hyperparameters: the loss after a round, and the parallel form."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import centralised_algorithms as centralised
import jax
import jax.numpy as jnp
import optax
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

from secfad.algorithms import fedopt, hypergradients, local

Tree = Any

_SERVER = MappingProxyType({"learning_rate": 0.9, "momentum": 0.5})


def _judged(client: Tree) -> Callable[[int], tuple]:
    def make(clients):
        hyper = {
            "server": {k: jnp.asarray(v) for k, v in _SERVER.items()},
            "client": {k: jnp.asarray(v) for k, v in client.items()},
        }
        state = (optax.TraceState(trace=example_model(9)), optax.EmptyState())
        held_out = example_batches(clients, 11)
        return (
            hyper,
            example_model(),
            state,
            example_batches(clients),
            example_sizes(clients),
            held_out,
            example_sizes(clients),
        )

    return make


def _central_update(hyper, model, trace, batches, sizes):
    client, server = hyper["client"], hyper["server"] or _SERVER
    weights = sizes ** client.get("exponent", 1.0)
    moved = centralised.deltas(jax.grad(loss), model, batches, client.get("learning_rate", 0.3))
    delta = centralised.average(moved, list(weights))
    trace = centralised.minus(delta, trace, -server["momentum"])
    return centralised.minus(model, trace, server["learning_rate"])


def _learned(name: str, client: Tree) -> Algorithm:
    update = local.sgd(None if "learning_rate" in client else 0.3)
    round_ = fedopt.make_round(loss, fedopt.fedavgm, update)

    def reference(hyper, model, state, batches, sizes, judged, judge_sizes):
        new = _central_update(hyper, model, state[0].trace, batches, sizes)
        return centralised.mean_loss(loss, new, judged, judge_sizes)

    down = 2 * MODEL_SIZE + len(client)
    return Algorithm(
        name, hypergradients.next_loss(round_, loss), _judged(client), reference, down,
        MODEL_SIZE + 3,
    )  # fmt: skip


def _parallel(name: str, client: Tree, down: int, up: int) -> Algorithm:
    """Tangents are given, as from an earlier round."""
    optimizer = (lambda h: fedopt.fedavgm(_SERVER)) if client else fedopt.fedavgm
    round_ = fedopt.make_round(loss, optimizer, local.sgd(0.3))
    computation = hypergradients.parallel(round_, loss, optax.sgd(0.2))

    def make(clients):
        hyper, model, state, *data = _judged(client)(clients)
        if client:
            hyper = {"server": {}, "client": hyper["client"]}
        start = hypergradients.initial_learner(
            hyper, model, lambda h: optax.identity(), optax.sgd(0.2)
        )
        noise = iter(range(30, 60))
        tangents = jax.tree.map(lambda t: normal(next(noise), *t.shape), start.tangents)
        return start._replace(state=state, tangents=tangents), *data

    return Algorithm(name, computation, make, _parallel_reference, down, up, 0, _learned_part)


def _learned_part(learner):
    return learner.hyper, learner.model, learner.tangents


def _parallel_reference(learner, batches, sizes, judged, judge_sizes):
    gradient = jax.grad(lambda m: centralised.mean_loss(loss, m, judged, judge_sizes))
    g = ravel_pytree(gradient(learner.model))[0]
    flat, unravel = ravel_pytree(learner.hyper)
    of_leaf = lambda p, row: jnp.stack(jax.tree.leaves(row), -1).reshape(p.size, flat.size)
    rows = jax.tree.leaves(jax.tree.map(of_leaf, learner.model, learner.tangents))
    hyper = unravel(flat - 0.2 * g @ jnp.concatenate(rows))
    new = lambda h: _central_update(h, learner.model, learner.state[0].trace, batches, sizes)
    in_use = hyper | {"client": learner.hyper["client"]}
    return hyper, new(in_use), jax.jacrev(new)(in_use)


def learned() -> list[Algorithm]:
    """The loss after a round and the parallel form, for hyperparameters of server and clients."""
    return [
        _learned("learned_server", {}),
        _learned("learned_client_rate", {"learning_rate": 0.3}),
        _learned("learned_weighting", {"exponent": 0.6}),
        _parallel("parallel_server", {}, MODEL_SIZE, 2 * MODEL_SIZE + 2),
        _parallel("parallel_weighting", {"exponent": 0.6}, MODEL_SIZE + 1, 3 * MODEL_SIZE + 3),
    ]
