"""The table of algorithms: one small example of each, with its oracle and its closed-form costs.

The law suite iterates over it, and it doubles as an index of usage: every entry shows how a factory
is called and what arguments its computation takes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import secfad as fad
from secfad.algorithms import (
    aggitd,
    baffle,
    centralised,
    compression,
    fedopt,
    hypergradients,
    local,
    projections,
    scaffold,
    schedulers,
)

Tree = Any
MODES = ("forward", "reverse", "mixed")
_MODEL_SIZE, _LOWER_SIZE, _UPPER_SIZE = 4, 3, 2


@dataclass(frozen=True)
class Algorithm:
    """One entry.

    Attributes:
      name: Of the algorithm.
      computation: The federated program.
      make: From a number of clients to example arguments; client arguments are stacked.
      reference: The same without federation; its results are `server_results` of the computation's.
      down: Numbers that a client receives in one evaluation, by the closed form; keys apart.
      up: Numbers that a client sends.
      wrt: The argument to differentiate.
      server_results: The part of the result that the reference gives; at the server.
      modes: In which a derivative of it exists.
      keys: Random keys that a client receives.
    """

    name: str
    computation: fad.Computation
    make: Callable[[int], tuple]
    reference: Callable
    down: int
    up: int
    wrt: int = 0
    server_results: Callable[[Any], Any] = field(default=lambda result: result)
    modes: tuple[str, ...] = MODES
    keys: int = 0

    def specs(self) -> tuple:
        """What the server or one client holds."""
        placed = zip(self.make(2), self.computation.placements.values())
        first = lambda p: lambda x: x[0] if p is fad.CLIENTS else x
        return tuple(jax.tree.map(first(p), arg) for arg, p in placed)

    @property
    def objective(self) -> fad.Computation:
        """A scalar of the results, to differentiate: half their squared norm."""
        fun = lambda *args: half_square(self.server_results(self.computation(*args)))
        return fad.Computation(fun, self.computation.placements, f"{self.name}.objective")

    def central_objective(self, *args: Any) -> jax.Array:
        """The objective, from the reference."""
        return half_square(self.reference(*args))


def half_square(tree: Tree) -> jax.Array:
    """Half the squared norm of a tree."""
    return 0.5 * jnp.sum(jnp.square(ravel_pytree(tree)[0]))


def loss(model: Tree, batch: Tree) -> jax.Array:
    """The example loss: one neuron."""
    return 0.5 * jnp.mean((jnp.tanh(batch["x"] @ model["w"] + model["b"]) - batch["y"]) ** 2)


def _normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def _model(seed: int = 0) -> Tree:
    return {"b": 0.5 * _normal(seed, 1)[0], "w": 0.5 * _normal(seed + 1, 3)}


def _batches(clients: int, seed: int = 2) -> Tree:
    """Two mini-batches of two examples."""
    return {"x": _normal(seed, clients, 2, 2, 3), "y": _normal(seed + 1, clients, 2, 2)}


def _batch(clients: int) -> Tree:
    return jax.tree.map(lambda x: x[:, 0], _batches(clients))


def _sizes(clients: int) -> jax.Array:
    return jnp.asarray(np.linspace(1.0, 0.4, clients))


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
        model = _model()
        chain = optimizer(hyper["server"])
        # A state that an earlier round left, so that momentum and moments are not zero.
        state = chain.update(_model(7), chain.init(model), model)[1]
        return hyper, model, state, _batches(clients), _sizes(clients)

    def reference(hyper, model, state, batches, sizes):
        moved = centralised.deltas(lambda p, b: gradient(p, b, model), model, batches, 0.3)
        delta = centralised.average(moved, list(sizes))
        return centralised.minus(model, step(hyper["server"], state, delta))

    return Algorithm(
        name, computation, make, reference, _MODEL_SIZE, _MODEL_SIZE + 1, 0, lambda r: r[0]
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


def _family() -> list[Algorithm]:
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


def _scaffold() -> Algorithm:
    def make(clients):
        own = {"b": _normal(20, clients), "w": _normal(21, clients, 3)}
        return jnp.asarray(0.8), _model(), _model(5), own, _batches(clients)

    return Algorithm(
        "scaffold", scaffold.make_round(loss, 0.3, fraction=0.5), make,
        centralised.scaffold(jax.grad(loss), 0.3, 0.5), 2 * _MODEL_SIZE, 2 * _MODEL_SIZE, 1,
        lambda r: r[:2],
    )  # fmt: skip


_SERVER = MappingProxyType({"learning_rate": 0.9, "momentum": 0.5})


def _judged(client: Tree) -> Callable[[int], tuple]:
    def make(clients):
        hyper = {
            "server": {k: jnp.asarray(v) for k, v in _SERVER.items()},
            "client": {k: jnp.asarray(v) for k, v in client.items()},
        }
        state = (optax.TraceState(trace=_model(9)), optax.EmptyState())
        held_out = _batches(clients, 11)
        return hyper, _model(), state, _batches(clients), _sizes(clients), held_out, _sizes(clients)

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

    down = 2 * _MODEL_SIZE + len(client)
    return Algorithm(
        name, hypergradients.next_loss(round_, loss), _judged(client), reference, down,
        _MODEL_SIZE + 3,
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
        tangents = jax.tree.map(lambda t: _normal(next(noise), *t.shape), start.tangents)
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


def _bilevel_example() -> aggitd.Bilevel:
    def lower(x, y, data):
        shifted = data["a"] @ y - data["c"] @ jnp.sin(x)
        return 0.5 * jnp.sum(shifted**2) + 0.5 * jnp.sum(y**2) + 0.1 * jnp.sum(jnp.cos(y))

    def upper(x, y, data):
        return 0.5 * jnp.sum((y - data["t"]) ** 2) + 0.1 * jnp.sum(x**2) * jnp.sum(y)

    return aggitd.Bilevel(upper, lower, rate=0.1, steps=3)


def _bilevel_arguments(clients: int) -> tuple:
    data = {
        "a": _normal(40, clients, 3, 3), "c": _normal(41, clients, 3, 2), "t": _normal(42, clients, 3)
    }  # fmt: skip
    return _normal(43, 2), _normal(44, 3), data


def _aggitd() -> list[Algorithm]:
    problem, steps, dx, dy = _bilevel_example(), 3, _UPPER_SIZE, _LOWER_SIZE
    parts = (problem.upper, problem.lower, problem.rate, problem.steps)
    value = centralised.unrolled(*parts)
    entry = lambda name, made, reference, down, up, modes=MODES: Algorithm(
        name, made, _bilevel_arguments, reference, down, up, modes=modes
    )
    once = dx + (steps + 1) * dy
    return [
        entry("aggitd_unrolled", aggitd.unrolled(problem), value, once, steps * dy + 1),
        entry(
            "aggitd_forward_matrix", aggitd.forward_matrix(problem), jax.grad(value),
            dx + (steps + 1) * dy * (1 + dx), steps * dy * (1 + dx) + dx, (),
        ),
        entry(
            "aggitd_reverse", aggitd.reverse_unrolled(problem), jax.grad(value),
            once + steps * dy + 1, (2 * steps + 1) * dy + dx, (),
        ),
        entry(
            "aggitd_shared_rounds", aggitd.shared_rounds(problem),
            centralised.implicit(*parts, None), dx + 2 * (steps + 1) * dy, 2 * steps * dy + dx,
        ),
        entry(
            "fednest", aggitd.fednest(problem, 2), centralised.implicit(*parts, 2),
            dx + (steps + 2 + 2) * dy, (steps + 1 + 2) * dy + dx,
        ),
    ]  # fmt: skip


def _baffle(name: str, step: float | None) -> Algorithm:
    directions = 5
    computation = baffle.make_round(loss, optax.sgd(0.5), directions=directions, step=step)

    def make(clients):
        model = _model()
        return (
            model,
            optax.sgd(0.5).init(model),
            jax.random.key(3),
            _batch(clients),
            _sizes(clients),
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
        name, computation, make, reference, _MODEL_SIZE, directions + 1, 0, lambda r: r[0], keys=1
    )


def _held(clients: int) -> Tree:
    """What clients hold from enrolment: everyone the same."""
    public = {"base": _model(), "key": jax.random.key(5), "previous_key": jax.random.key(6)}
    held = jax.tree.map(lambda x: jnp.broadcast_to(x, (clients, *x.shape)), public)
    return held | {"choice": jnp.arange(clients, dtype=jnp.int32) % 2}


def _matrix(project: projections.Projection, key: Any, coordinates: int, like: Any) -> jax.Array:
    columns = jnp.eye(coordinates, dtype=like.dtype)
    return jnp.stack([project(key, column, _MODEL_SIZE) for column in columns], 1)


def _compression() -> list[Algorithm]:
    d, count, descent = 2, 2, optax.sgd(0.5)
    found = []
    for name, project in (("dense", projections.dense), ("fastfood", projections.fastfood)):
        static = compression.static(loss, project, descent)
        make = lambda n: (
            _normal(50, d),
            descent.init(jnp.zeros(d)),
            _held(n),
            _batch(n),
            _sizes(n),
        )
        found.append(
            Algorithm(f"igc_static_{name}", static, make, _static_reference(project, False), d, d + 1,
                      0, lambda r: r[0])
        )  # fmt: skip
    varying = compression.time_varying(loss, projections.fastfood, descent)
    many = lambda n: (_normal(52, count, d), _held(n), _batch(n), _sizes(n))
    twice = lambda n: (
        _normal(51, d), _normal(50, d), descent.init(jnp.zeros(d)), _held(n), _batch(n), _sizes(n)
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


def _schedulers() -> list[Algorithm]:
    size, rates = _MODEL_SIZE, (0.05, 0.2, 0.5)
    data = lambda n: (_batches(n), _sizes(n))
    client = lambda: {"learning_rate": jnp.asarray(0.3), "steps": jnp.asarray(1.5)}
    draws = lambda n: jnp.asarray(np.linspace(0.1, 0.9, n))
    return [
        Algorithm("fedhyper", schedulers.fedhyper(loss, 0.3),
                  lambda n: (jnp.asarray(0.7), _model(), _model(5), *data(n)),
                  _fedhyper_reference, size, size + 1),
        Algorithm("fathom", schedulers.fathom(loss),
                  lambda n: (client(), _model(), _model(5), *data(n)),
                  _fathom_reference, size + 2, size + 2),
        Algorithm("fedex", schedulers.fedex(loss, rates),
                  lambda n: (_normal(60, 3), _model(), draws(n), *data(n)),
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


_ENTRIES = [
    *_family(),
    _scaffold(),
    _learned("learned_server", {}),
    _learned("learned_client_rate", {"learning_rate": 0.3}),
    _learned("learned_weighting", {"exponent": 0.6}),
    _parallel("parallel_server", {}, _MODEL_SIZE, 2 * _MODEL_SIZE + 2),
    _parallel("parallel_weighting", {"exponent": 0.6}, _MODEL_SIZE + 1, 3 * _MODEL_SIZE + 3),
    *_aggitd(),
    _baffle("baffle", 1e-3),
    _baffle("forward_gradient", None),
    *_compression(),
    *_schedulers(),
]
TABLE = MappingProxyType({entry.name: entry for entry in _ENTRIES})
