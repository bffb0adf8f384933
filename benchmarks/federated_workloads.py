"""The workloads of `bench_federated_ad.py`, written once for three implementations.

A workload needs one thing from an implementation: how to average a client function of a server value.
`by_hand` does it with `jax.vmap` over stacked clients, `by_drjax` with DrJAX, `by_secfad` with us.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import secfad as fad

LOCAL_STEPS, LOCAL_RATE = 10, 0.1


def init(layers: tuple[int, ...]) -> list[dict[str, jax.Array]]:
    keys = jax.random.split(jax.random.key(0), len(layers) - 1)
    return [
        {"w": jax.random.normal(k, (a, b)) / np.sqrt(a), "b": jnp.zeros(b)}
        for k, a, b in zip(keys, layers, layers[1:])
    ]


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    logits = x @ params[-1]["w"] + params[-1]["b"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))


def local_delta(params: Any, x: jax.Array, y: jax.Array) -> Any:
    def step(p, _):
        g = jax.grad(loss)(p, x, y)
        return jax.tree.map(lambda a, b: a - LOCAL_RATE * b, p, g), None

    trained, _ = jax.lax.scan(step, params, None, length=LOCAL_STEPS)
    return jax.tree.map(jnp.subtract, params, trained)


def server(hyper: jax.Array, params: Any, momentum: Any, delta: Any) -> Any:
    return jax.tree.map(lambda p, m, d: p - hyper[0] * (hyper[1] * m + d), params, momentum, delta)


def rounds(mean_over_clients: Callable) -> tuple[Callable, Callable]:
    """Fig. 4 and the mean loss, given how to average a client function of a server value."""

    def figure4(hyper, params, momentum, x, y):
        new = server(hyper, params, momentum, mean_over_clients(local_delta, params, x, y))
        return mean_over_clients(loss, new, x, y)

    def mean_loss(params, x, y):
        return mean_over_clients(loss, params, x, y)

    return figure4, mean_loss


def by_hand() -> dict[str, Callable]:
    def mean(fun, value, x, y):
        out = jax.vmap(fun, in_axes=(None, 0, 0))(value, x, y)
        return jax.tree.map(lambda v: jnp.mean(v, axis=0), out)

    return plain_modes(*rounds(mean))


def by_drjax(clients: int) -> dict[str, Callable]:
    import drjax

    def mean(fun, value, x, y):
        wires = drjax.broadcast(value)
        return drjax.reduce_mean(drjax.map_fn(fun, (wires, x, y)))

    placed = drjax.program(placements={"clients": clients})
    return plain_modes(*(placed(f) for f in rounds(mean)))


def plain_modes(figure4: Callable, mean_loss: Callable) -> dict[str, Callable]:
    """The modes by JAX's own transformations; arguments are those of `arguments`."""

    def hvp(params, direction, x, y):
        return jax.jvp(lambda p: jax.grad(mean_loss)(p, x, y), (params,), (direction,))[1]

    return {
        "value": figure4,
        "rev": jax.value_and_grad(figure4),
        "fwd": jax.jacfwd(figure4),
        "sgd": jax.grad(mean_loss),
        "hvp": hvp,
    }


def by_secfad(chunk_size: int | None = None) -> dict[str, Callable]:
    S, C = fad.SERVER, fad.CLIENTS
    figure4, mean_loss = rounds(lambda fun, v, x, y: fad.mean(fun(fad.broadcast(v), x, y)))
    figure4 = fad.computation(hyper=S, params=S, momentum=S, x=C, y=C)(figure4)
    mean_loss = fad.computation(params=S, x=C, y=C)(mean_loss)
    simulate = functools.partial(fad.simulate, chunk_size=chunk_size)
    directional = simulate(fad.jvp(fad.grad(mean_loss)))
    return {
        "value": simulate(figure4),
        "rev": simulate(fad.value_and_grad(figure4, mode="reverse")),
        "fwd": simulate(fad.grad(figure4, mode="forward")),
        "sgd": simulate(fad.grad(mean_loss)),
        "hvp": lambda p, direction, x, y: directional(p, x, y, direction)[1],
    }


def arguments(mode: str, layers, clients, examples) -> tuple:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(clients, examples, layers[0])), jnp.float32)
    y = jnp.asarray(rng.integers(0, layers[-1], size=(clients, examples)))
    params = init(layers)
    other = jax.tree.map(lambda p: 0.1 * jnp.ones_like(p), params)
    if mode in ("value", "rev", "fwd"):
        return jnp.array([1.0, 0.9]), params, other, x, y
    return (params, other, x, y) if mode == "hvp" else (params, x, y)


def over_keys(layers: tuple[int, ...], examples: int, client_work: Callable) -> fad.Computation:
    """The mean of client work on data that every client draws from its own key."""

    @fad.computation(params=fad.SERVER, key=fad.CLIENTS)
    def averaged(params, key):
        x = jax.random.normal(key, (examples, layers[0]))
        y = jax.random.randint(jax.random.fold_in(key, 1), (examples,), 0, layers[-1])
        return fad.mean(client_work(fad.broadcast(params), x, y), name="mean")

    return averaged


def residual_network(blocks: int) -> tuple[Callable, tuple]:
    """The mean loss of a deep residual network with normalised blocks, unrolled, and its shapes."""

    def normalised(x):
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)

    def network(params, x):
        for w, b in params:
            x = x + jax.nn.relu(normalised(x @ w + b))
        return jnp.mean(x**2)

    def mean_loss(params, x):
        return fad.mean(network(fad.broadcast(params), x))

    float32 = jnp.float32
    block = (jax.ShapeDtypeStruct((16, 16), float32), jax.ShapeDtypeStruct((16,), float32))
    return mean_loss, ([block] * blocks, jax.ShapeDtypeStruct((4, 16), float32))
