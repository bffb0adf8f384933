"""DrJAX programs, as their users write them, with a server argument, data at five clients and a result."""

import dataclasses
from collections.abc import Callable
from typing import Any

import drjax
import jax
import jax.numpy as jnp
import numpy as np

CLIENTS = 5
RNG = np.random.default_rng(0)
MODEL = {"w": RNG.normal(size=(3, 2)), "b": RNG.normal(size=2)}
DATA = {"x": RNG.normal(size=(CLIENTS, 4, 3)), "y": RNG.normal(size=(CLIENTS, 4, 2))}
COUNTS = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
ALL = ("forward", "reverse", "mixed", "auto")


@dataclasses.dataclass(frozen=True)
class Case:
    """A program with its arguments; `modes` are those in which its derivative exists."""

    fun: Callable
    args: tuple[Any, ...]
    placements: dict[str, str]
    modes: tuple[str, ...] = ALL


CASES: dict[str, Case] = {}
program = drjax.program(placements={"clients": CLIENTS})


def case(*args: Any, modes: tuple[str, ...] = ALL, **placements: str) -> Callable:
    """Adds a program to the table."""

    def add(fun: Callable) -> Callable:
        CASES[fun.__name__] = Case(fun, args, placements, modes)
        return fun

    return add


def local_loss(model, data):
    """Mean squared error of one client."""
    guess = jnp.tanh(data["x"] @ model["w"] + model["b"])
    return jnp.mean((guess - data["y"]) ** 2)


def local_steps(model, data, rate=0.1):
    """Two steps of gradient descent at one client."""

    def step(model, _):
        gradient = jax.grad(local_loss)(model, data)
        return jax.tree.map(lambda m, g: m - rate * g, model, gradient), None

    return jax.lax.scan(step, model, None, length=2)[0]


def squared(tree):
    """A scalar of a model."""
    return sum(jnp.sum(jnp.sin(leaf) ** 2) for leaf in jax.tree.leaves(tree))


@case(MODEL, DATA, model="server", data="clients")
@program
def fedsgd(model, data):
    return drjax.reduce_mean(drjax.map_fn(local_loss, (drjax.broadcast(model), data)))


@case(MODEL, DATA, model="server", data="clients")
@program
def fedavg_then_loss(model, data):
    new = drjax.reduce_mean(drjax.map_fn(local_steps, (drjax.broadcast(model), data)))
    return drjax.reduce_mean(drjax.map_fn(local_loss, (drjax.broadcast(new), data)))


@case(0.7, MODEL, DATA, rate="server", model="server", data="clients")
@program
def deltas_outside_of_map_fn(rate, model, data):
    sent = drjax.broadcast(model)
    trained = drjax.map_fn(local_steps, (sent, data))
    deltas = jax.tree.map(lambda a, b: 0.5 * (b - a) + jnp.zeros_like(a), trained, sent)
    mean = drjax.reduce_mean(deltas)
    return squared(jax.tree.map(lambda m, d: m - rate * d, model, mean))


@case(MODEL, DATA, COUNTS, model="server", data="clients", counts="clients")
@program
def weighted_mean(model, data, counts):
    losses = drjax.map_fn(local_loss, (drjax.broadcast(model), data))
    return drjax.reduce_weighted_mean(losses, counts)


@case(MODEL, DATA, COUNTS, model="server", data="clients", counts="clients")
@program
def weighted_mean_of_models(model, data, counts):
    trained = drjax.map_fn(local_steps, (drjax.broadcast(model), data))
    weights = drjax.map_fn(lambda m, c: jax.tree.map(lambda x: 0 * x + c, m), (trained, counts))
    return squared(drjax.reduce_weighted_mean(trained, weights))


@case(MODEL, DATA, model="server", data="clients")
@program
def equal_weights_made_at_the_server(model, data):
    losses = drjax.map_fn(local_loss, (drjax.broadcast(model), data))
    return drjax.reduce_weighted_mean(losses, 2 * jnp.ones(CLIENTS)) / CLIENTS


@case(MODEL, DATA, model="server", data="clients")
@program
def rounds_in_a_scan(model, data):
    def one_round(carry, step):
        model, momentum = carry
        trained = drjax.map_fn(local_steps, (drjax.broadcast(model), data))
        mean = drjax.reduce_mean(trained)
        momentum = jax.tree.map(lambda v, a, b: 0.5 * v + a - b, momentum, model, mean)
        model = jax.tree.map(lambda m, v: m - 0.1 * (1 + step) * v, model, momentum)
        return (model, momentum), squared(mean)

    start = (model, jax.tree.map(jnp.zeros_like, model))
    (model, _), losses = jax.lax.scan(one_round, start, jnp.arange(3.0))
    return squared(model) + jnp.sum(losses)


@case(MODEL, DATA, model="server", data="clients", modes=("forward", "reverse"))
@program
def clients_with_state(model, data):
    def one_round(carry, _):
        model, state = carry
        state = drjax.map_fn(
            lambda s, m, d: 0.5 * s + local_loss(m, d), (state, drjax.broadcast(model), data)
        )
        drift = drjax.reduce_mean(state)
        return (jax.tree.map(lambda m: m * jnp.cos(drift), model), state), state

    start = (model, jnp.zeros(CLIENTS))
    (model, state), states = jax.lax.scan(one_round, start, None, length=2)
    last = drjax.map_fn(lambda s, t: s + jnp.sum(t**2), (state, jnp.swapaxes(states, 0, 1)))
    return squared(model) + drjax.reduce_sum(last)


@case(0.3, MODEL, DATA, rate="server", model="server", data="clients")
@program
def batches_in_a_scan(rate, model, data):
    def one_round(model, batch):
        gradient = drjax.map_fn(jax.grad(local_loss), (drjax.broadcast(model), batch))
        mean = drjax.reduce_mean(gradient)
        return jax.tree.map(lambda m, g: m - rate * g, model, mean), None

    batches = jax.tree.map(
        lambda a: jnp.swapaxes(a.reshape(CLIENTS, 2, 2, *a.shape[2:]), 0, 1), data
    )
    return squared(jax.lax.scan(one_round, model, batches)[0])


@case(0.3, DATA, rate="server", data="clients")
@program
def branches_of_the_server(rate, data):
    def once(rate):
        return drjax.reduce_mean(
            drjax.map_fn(lambda r, d: jnp.sin(r * d["y"]).sum(), (drjax.broadcast(rate), data))
        )

    low = jax.lax.cond(rate > 0, lambda r: once(r) + once(2 * r), lambda r: 3 * r, rate)
    return low * once(low)


@case(0.3, DATA, rate="server", data="clients", modes=("forward",))
@program
def while_of_the_server(rate, data):
    def body(carry):
        i, r = carry
        moved = drjax.map_fn(lambda r, d: jnp.cos(r) * d["y"].mean(), (drjax.broadcast(r), data))
        return i + 1, r + 0.1 * drjax.reduce_sum(moved)

    return jax.lax.while_loop(lambda c: c[0] < 3, body, (0, rate))[1]


@case(0.3, DATA, rate="server", data="clients")
@program
def branches_and_loops_of_clients(rate, data):
    def work(r, d):
        def halve(c):
            return jax.lax.cond(c[1] > 0, lambda v: v * r, lambda v: -v, c[1]), c[1] / 2

        first = jax.lax.fori_loop(0, 3, lambda i, c: halve(c), (r, d["y"][0, 0]))[0]
        return first + jax.nn.relu(r * d["x"]).sum() + jnp.sort(r * d["y"][0])[0]

    return drjax.reduce_sum(drjax.map_fn(work, (drjax.broadcast(rate), data)))


@case(MODEL, DATA, model="server", data="clients")
@program
def helpers_under_jit_and_checkpoint(model, data):
    @jax.jit
    def average(model):
        return drjax.reduce_mean(drjax.map_fn(local_steps, (drjax.broadcast(model), data)))

    new = jax.checkpoint(average)(average(model))
    return squared(new)


@case(MODEL, DATA, model="server", data="clients")
@program
def gradient_inside(model, data):
    def loss(model):
        return drjax.reduce_mean(drjax.map_fn(local_loss, (drjax.broadcast(model), data)))

    value, gradient = jax.value_and_grad(loss)(model)
    return value + squared(gradient)


@case(np.array([0.1, 0.2]), DATA, rates="server", data="clients")
@program
def sweep_over_rates(rates, data):
    def once(rate):
        return drjax.reduce_mean(
            drjax.map_fn(lambda r, d: jnp.sin(r * d["y"]).sum(), (drjax.broadcast(rate), data))
        )

    return jnp.sum(jax.vmap(once)(rates) ** 2)


@case(np.array([0.3, -0.2, 0.4]), DATA, shift="server", data="clients", modes=("reverse",))
@program
def conjugate_gradients(shift, data):
    def product(v):
        rows = drjax.map_fn(lambda v, d: d["x"].T @ (d["x"] @ v), (drjax.broadcast(v), data))
        return v + drjax.reduce_mean(rows)

    solution, _ = jax.scipy.sparse.linalg.cg(product, shift, tol=1e-14)
    return jnp.sum(solution**3)


@case(MODEL, DATA, model="server", data="clients")
@program
def no_server_data_but_the_model(model, data):
    counted = drjax.reduce_sum(drjax.map_fn(lambda d: jnp.ones(()), data))
    return squared(model) * counted + drjax.reduce_mean(drjax.map_fn(jnp.sum, data["y"]))
