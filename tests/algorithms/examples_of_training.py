"""Examples of training: the FedOpt family and SCAFFOLD."""

from collections.abc import Callable
from typing import Any

import centralised_algorithms as centralised
import jax
import jax.numpy as jnp
from algorithm_entries import Algorithm
from example_arguments import (
    MODEL_SIZE,
    example_batches,
    example_model,
    example_sizes,
    loss,
    normal,
)

from secfad.algorithms import fedopt, local, scaffold

Tree = Any


def _fedopt(
    name: str,
    optimizer: fedopt.Optimizer,
    step: Callable[[Tree, Tree, Tree], Tree],
    server: Tree,
    update: local.LocalUpdate | None = None,
    gradient: Callable = lambda p, b, start: jax.grad(loss)(p, b),
) -> Algorithm:
    """`step(server hyper, state, delta)` is the oracle's server step."""
    computation = fedopt.make_round(loss, optimizer, update or local.sgd(0.3))

    def make(clients):
        hyper = {"server": {k: jnp.asarray(v) for k, v in server.items()}, "client": {}}
        model = example_model()
        chain = optimizer(hyper["server"])
        # A state that an earlier round left, so that momentum and moments are not zero.
        state = chain.update(example_model(7), chain.init(model), model)[1]
        return hyper, model, state, example_batches(clients), example_sizes(clients)

    def reference(hyper, model, state, batches, sizes):
        moved = centralised.deltas(lambda p, b: gradient(p, b, model), model, batches, 0.3)
        delta = centralised.average(moved, list(sizes))
        return centralised.minus(model, step(hyper["server"], state, delta))

    return Algorithm(
        name, computation, make, reference, MODEL_SIZE, MODEL_SIZE + 1, 0, lambda r: r[0]
    )


def _plain(hyper, state, delta):
    del state
    return jax.tree.map(lambda d: hyper["learning_rate"] * d, delta)


def _momentum(hyper, state, delta):
    trace = centralised.minus(delta, state[0].trace, -hyper["momentum"])
    return _plain(hyper, None, trace)


def _pulled(model, batch, start):
    return centralised.minus(jax.grad(loss)(model, batch), centralised.minus(start, model), 0.1)


def _adapted(model, batch, start):
    del start
    first, second = ({k: v[half] for k, v in batch.items()} for half in (slice(0, 1), slice(1, 2)))
    inner = lambda p: loss(centralised.minus(p, jax.grad(loss)(p, first), 0.2), second)
    return jax.grad(inner)(model)


def family() -> list[Algorithm]:
    """FedAvg, FedAvgM, FedAdam, FedYogi, FedAdagrad, FedProx, Per-FedAvg."""
    rate = {"learning_rate": 0.9}
    adam = lambda h, s, d: centralised.adam(s, d, h["learning_rate"])
    yogi = lambda h, s, d: centralised.adam(s, d, h["learning_rate"], yogi=True)
    adagrad = lambda h, s, d: centralised.adagrad(s, d, h["learning_rate"])
    return [
        _fedopt("fedavg", fedopt.fedavg, _plain, rate),
        _fedopt("fedavgm", fedopt.fedavgm, _momentum, rate | {"momentum": 0.8}),
        _fedopt("fedadam", fedopt.fedadam, adam, {"learning_rate": 0.1}),
        _fedopt("fedyogi", fedopt.fedyogi, yogi, {"learning_rate": 0.1}),
        _fedopt("fedadagrad", fedopt.fedadagrad, adagrad, {"learning_rate": 0.1}),
        _fedopt("fedprox", fedopt.fedavg, _plain, rate, local.proximal(0.1, 0.3), _pulled),
        _fedopt("perfedavg", fedopt.fedavg, _plain, rate, local.personalised(0.2, 0.3), _adapted),
    ]


def control_variates() -> Algorithm:
    """SCAFFOLD."""

    def make(clients):
        own = {"b": normal(20, clients), "w": normal(21, clients, 3)}
        return jnp.asarray(0.8), example_model(), example_model(5), own, example_batches(clients)

    return Algorithm(
        "scaffold", scaffold.make_round(loss, 0.3, fraction=0.5), make,
        centralised.scaffold(jax.grad(loss), 0.3, 0.5), 2 * MODEL_SIZE, 2 * MODEL_SIZE, 1,
        lambda r: r[:2],
    )  # fmt: skip
