"""Random federated programs, and what each means centrally.

A program is a list of instructions over two stacks of vectors, one at the server and one at every
client. The same instructions run in two worlds: federated, where crossing is `broadcast` and `sum`,
and central, where client values have a leading axis and crossing is `broadcast_to` and `sum(0)`.
All arithmetic is along the last axis and bounded, so that derivatives neither vanish nor explode.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from hypothesis import strategies as st

import secfad as fad

LOCAL = {
    "sin": jnp.sin,
    "tanh": jnp.tanh,
    "shift": lambda v: 0.5 * v + 0.1,
    "roll": lambda v: jnp.roll(v, 1, axis=-1),
    "gate": lambda v: jnp.where(v > 0, v, 0.3 * v),
    "center": lambda v: v - jnp.mean(v, axis=-1, keepdims=True),
    "cumulate": lambda v: jnp.tanh(jnp.cumsum(v, axis=-1)),
    "gradient": lambda v: jax.grad(lambda u: jnp.sum(jnp.cos(u)))(v),
    "loop": lambda v: jax.lax.fori_loop(0, 2, lambda i, u: jnp.sin(u + 0.1 * i), v),
    "jit": jax.jit(lambda v: jnp.cos(v) * v),
}
PAIR = {
    "add": lambda a, b: 0.5 * (a + b),
    "multiply": lambda a, b: jnp.sin(a * b),
    "dot": lambda a, b: a * jnp.tanh(jnp.sum(a * b, axis=-1, keepdims=True)),
}


@dataclasses.dataclass(frozen=True)
class Federated:
    """Crossings by the two primitives."""

    def broadcast(self, value):
        return fad.broadcast(value, name="wire")

    def total(self, values):
        return fad.sum(values, name="total")

    def mean(self, value, weight):
        weights = None if weight is None else 1.5 + jnp.sin(jnp.sum(weight))
        return fad.mean(value, weights=weights, name="mean")


@dataclasses.dataclass(frozen=True)
class Central:
    """The same over a leading axis of clients."""

    clients: int

    def broadcast(self, value):
        return jnp.broadcast_to(value, (self.clients, *value.shape))

    def total(self, values):
        return jax.tree.map(lambda v: v.sum(0), values)

    def mean(self, value, weight):
        if weight is None:
            return value.mean(0)
        weights = 1.5 + jnp.sin(weight.sum(-1))
        return weights @ value / weights.sum()


@dataclasses.dataclass(frozen=True)
class Step:
    """One instruction: what it does, on which entries of the stacks, with which inner program."""

    kind: str
    op: str = ""
    first: int = 0
    second: int = 0
    bodies: tuple[tuple["Step", ...], ...] = ()


def run(steps, world, server, client):
    """Runs instructions; the newest value of each stack is last."""
    for step in steps:
        server, client = HANDLERS[step.kind](step, world, server, client)
    return server, client


def pick(stack, index):
    return stack[index % len(stack)]


def _server(step, world, server, client):
    return [*server, LOCAL[step.op](pick(server, step.first))], client


def _server_pair(step, world, server, client):
    made = PAIR[step.op](pick(server, step.first), pick(server, step.second))
    return [*server, made], client


def _client(step, world, server, client):
    return server, [*client, LOCAL[step.op](pick(client, step.first))]


def _client_pair(step, world, server, client):
    made = PAIR[step.op](pick(client, step.first), pick(client, step.second))
    return server, [*client, made]


def _broadcast(step, world, server, client):
    return server, [*client, world.broadcast(pick(server, step.first))]


def _sum(step, world, server, client):
    a, b = world.total((jnp.sin(pick(client, step.first)), pick(client, step.second)))
    return [*server, jnp.tanh(a), jnp.tanh(0.2 * b)], client


def _mean(step, world, server, client):
    weight = pick(client, step.second) if step.op == "weighted" else None
    return [*server, world.mean(pick(client, step.first), weight)], client


def _inner(body, world, server, client):
    """A body as a function from the newest values to the newest values, with the rest in reach."""

    def fun(newest, own):
        inside = run(body, world, [*server, newest], [*client, own])
        return inside[0][-1], inside[1][-1]

    return fun


def _scan(step, world, server, client):
    # A scan without client state, or one in which clients carry a value from round to round.
    fun = _inner(step.bodies[0], world, server, client)
    if step.op == "stateful":
        (newest, own), seen = jax.lax.scan(
            lambda c, _: (fun(*c), jnp.sum(c[0])), (server[-1], client[-1]), None, length=2
        )
        return [*server, newest * jnp.mean(seen)], [*client, own]
    newest, _ = jax.lax.scan(
        lambda c, i: (fun(c * i, client[-1])[0], None), server[-1], jnp.array([1.0, 0.7])
    )
    return [*server, newest], client


def _cond(step, world, server, client):
    branches = [_inner(body, world, server, client) for body in step.bodies]
    newest = jax.lax.cond(
        jnp.sum(server[-1]) > 0,
        *(lambda v, fun=fun: fun(v, client[-1])[0] for fun in branches),
        server[-1],
    )
    return [*server, newest], client


def _wrapped(step, world, server, client):
    wrap = {"jit": jax.jit, "checkpoint": jax.checkpoint}[step.op]
    newest, own = wrap(_inner(step.bodies[0], world, server, client))(server[-1], client[-1])
    return [*server, newest], [*client, own]


HANDLERS: dict[str, Callable] = {
    "server": _server,
    "server_pair": _server_pair,
    "client": _client,
    "client_pair": _client_pair,
    "broadcast": _broadcast,
    "sum": _sum,
    "mean": _mean,
    "scan": _scan,
    "cond": _cond,
    "wrapped": _wrapped,
}

_INDEX = st.integers(0, 3).map(lambda i: -1 - i)


def _steps(depth: int, most: int):
    pairs = st.sampled_from(sorted(PAIR))
    flat = [
        st.builds(Step, st.just("server"), st.sampled_from(sorted(LOCAL)), _INDEX),
        st.builds(Step, st.just("client"), st.sampled_from(sorted(LOCAL)), _INDEX),
        st.builds(Step, st.just("server_pair"), pairs, _INDEX, _INDEX),
        st.builds(Step, st.just("client_pair"), pairs, _INDEX, _INDEX),
        st.builds(Step, st.just("broadcast"), st.just(""), _INDEX),
        st.builds(Step, st.just("sum"), st.just(""), _INDEX, _INDEX),
        st.builds(Step, st.just("mean"), st.sampled_from(["", "weighted"]), _INDEX, _INDEX),
    ]
    if depth:
        body = _steps(depth - 1, 4)

        def nested(kind, ops, count):
            bodies = st.tuples(*[body] * count)
            zero = st.just(0)
            return st.builds(Step, st.just(kind), st.sampled_from(ops), zero, zero, bodies)

        flat += [
            nested("scan", ["", "stateful"], 1),
            nested("cond", [""], 2),
            nested("wrapped", ["jit", "checkpoint"], 1),
        ]
    return st.lists(st.one_of(flat), min_size=1, max_size=most).map(tuple)


def programs(depth: int, most: int):
    """Programs with crossings in both directions at the start and the end.

    Args:
      depth: Of control flow in control flow.
      most: Instructions at the top level.
    """
    first = Step("broadcast", "", -1)
    mixing = Step("client_pair", "dot", -1, -2)
    end = (mixing, Step("mean", "", -1), Step("server_pair", "add", -1, -2))
    return _steps(depth, most).map(lambda steps: (first, mixing, *steps, *end))


def loss(steps, world, w, x):
    """One number that depends on everything the program made at the server last."""
    server, _ = run(steps, world, [w], [x])
    return jnp.sum(jnp.sin(server[-1])) + jnp.sum(server[-1] * server[-2])


def computation(steps) -> fad.Computation:
    """The program as a federated computation."""
    return fad.computation(w=fad.SERVER, x=fad.CLIENTS)(lambda w, x: loss(steps, Federated(), w, x))


def oracle(steps, clients: int) -> Callable:
    """The program as plain JAX over stacked arrays."""
    return lambda w, x: loss(steps, Central(clients), w, x)
