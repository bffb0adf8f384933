"""Random federated programs, and what each means centrally.

A program is a list of instructions over two stacks of vectors, one at the server and one at every
client. The same instructions run in two worlds: federated, where crossing is `broadcast` and `sum`,
and central, where client values have a leading axis, crossing is `broadcast_to` and `sum(0)`, and
what a client does is mapped over the axis (`random_worlds`). Which programs are drawn is in
`random_drawing`.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from random_operations import PAIR, THRESHOLD
from random_worlds import Central, Federated

import secfad as fad


@dataclasses.dataclass(frozen=True)
class Step:
    """One instruction: what it does, on which entries of the stacks, with which inner programs."""

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
    return [*server, world.operation(step.op)(pick(server, step.first))], client


def _server_pair(step, world, server, client):
    made = PAIR[step.op](pick(server, step.first), pick(server, step.second))
    return [*server, made], client


def _client(step, world, server, client):
    return server, [*client, world.local(world.operation(step.op), pick(client, step.first))]


def _client_pair(step, world, server, client):
    made = world.local(PAIR[step.op], pick(client, step.first), pick(client, step.second))
    return server, [*client, made]


def _constant(step, world, server, client):
    value = jnp.cos(jnp.arange(3, dtype=server[-1].dtype))
    if step.op == "client":
        return server, [*client, world.constant(value)]
    return [*server, value], client


def _broadcast(step, world, server, client):
    value, own = pick(server, step.first), pick(client, step.second)
    if step.op == "tree":
        sent = {"v": value, "more": (jnp.argmax(value), value > THRESHOLD, jnp.sum(value))}
    elif step.op == "matrix":
        sent = jnp.outer(value, jnp.sin(value))
    else:
        return server, [*client, world.broadcast(value)]

    def use(got, own):
        if step.op == "matrix":
            return jnp.tanh(got @ own)
        index, flags, number = got["more"]
        return jnp.where(flags, got["v"], own) * jnp.sin(number + own[index])

    return server, [*client, world.local(use, world.broadcast(sent), own)]


def _sum(step, world, server, client):
    a, b = pick(client, step.first), pick(client, step.second)
    if step.op == "one":
        return [*server, jnp.tanh(0.3 * world.total(a))], client
    if step.op == "rule":
        return [*server, 0.5 * world.moment(server[-1], a)], client
    if step.op == "constant":
        count, values = world.total((world.constant(jnp.ones((), a.dtype)), a))
        return [*server, jnp.sin(values / count)], client
    if step.op == "tree":
        total = world.total(world.local(_statistics, a, b))
        made = jnp.tanh(0.2 * total["more"]["matrix"] @ server[-1]) + 0.1 * total["counts"]
        return [*server, made * jnp.sin(total["more"]["number"])], client
    a, b = world.total((jnp.sin(a), b))
    return [*server, jnp.tanh(a), jnp.tanh(0.2 * b)], client


def _statistics(a, b):
    counts = (a > THRESHOLD).astype(jnp.int32)
    return {"counts": counts, "more": {"matrix": jnp.outer(a, b), "number": jnp.sum(jnp.sin(b))}}


_WEIGHTS: dict[str, Callable] = {
    "weighted": lambda v: 1.5 + jnp.sin(jnp.sum(v)),
    "counted": lambda v: 1 + jnp.argmax(v),
}


def _mean(step, world, server, client):
    a, b = pick(client, step.first), pick(client, step.second)
    if step.op == "tree":
        many, number = world.mean(world.local(lambda v: (jnp.outer(v, v), v[0] ** 2), a))
        return [*server, jnp.sin(many @ server[-1]) / (1 + number)], client
    weights = world.local(_WEIGHTS[step.op], b) if step.op else None
    return [*server, world.mean(a, weights)], client


def _solver(step, world, server, client):
    # Conjugate gradients whose product is a sum over clients.
    own = world.local(jnp.tanh, pick(client, step.first))

    def product(v):
        return v + 0.1 * world.total(world.local(lambda o, u: o * (o @ u), own, world.broadcast(v)))

    solved, _ = cg(product, jnp.sin(pick(server, step.second)), tol=1e-14, maxiter=9)
    return [*server, solved], client


def _inner(body, world, server, client):
    """A body as a function from the newest values to the newest values, with the rest in reach."""

    def fun(newest, own):
        inside = run(body, world, [*server, newest], [*client, own])
        return inside[0][-1], inside[1][-1]

    return fun


def _scan(step, world, server, client):
    # Without client state; with it; over sequences, also of clients, with results of every round.
    fun = _inner(step.bodies[0], world, server, client)
    if step.op == "collected":

        def one_round(carry, row):
            newest, own = fun(carry * row[0], row[1])
            return 0.5 * (carry + newest), (newest, own)

        rows = (jnp.stack([server[0], server[-1]]), jnp.stack([client[0], client[-1]]))
        newest, seen = jax.lax.scan(one_round, server[-1], rows, reverse=True)
        return [*server, newest, seen[0].mean(0)], [*client, seen[1].mean(0)]
    if step.op:
        length = 1 if step.op == "once" else 2
        (newest, own), seen = jax.lax.scan(
            lambda c, _: (fun(*c), jnp.sum(c[0])), (server[-1], client[-1]), None, length=length
        )
        return [*server, newest * jnp.sum(0.5 * seen)], [*client, own]
    rates = jnp.array([1.0, 0.7], server[-1].dtype)
    newest, _ = jax.lax.scan(lambda c, r: (fun(c * r, client[-1])[0], None), server[-1], rates)
    return [*server, newest], client


def _fori(step, world, server, client):
    fun = _inner(step.bodies[0], world, server, client)
    if step.op == "stateful":
        newest, own = jax.lax.fori_loop(
            0, 2, lambda i, c: fun(c[0] * (1 - 0.1 * i), c[1]), (server[-1], client[-1])
        )
        return [*server, newest], [*client, own]
    newest = jax.lax.fori_loop(1, 3, lambda i, v: fun(v / i, client[-1])[0], server[-1])
    return [*server, newest], client


def _while(step, world, server, client):
    # The server decides how many rounds there are, alone or by asking the clients.
    fun = _inner(step.bodies[0], world, server, client)

    def going_on(state):
        rounds, newest, own = state
        if step.op == "asking":
            newest = world.total(world.local(jnp.sin, own)) + newest
        return (rounds < 1) | ((rounds < 3) & (jnp.sum(newest) > THRESHOLD))

    def one_round(state):
        newest, own = fun(*state[1:])
        return state[0] + 1, newest, own if step.op else state[2]

    _, newest, own = jax.lax.while_loop(going_on, one_round, (0, server[-1], client[-1]))
    return [*server, newest], [*client, own]


def _cond(step, world, server, client):
    """The server chooses by a number: what it computes, or what the clients compute as well."""
    branches = [_inner(body, world, server, client) for body in step.bodies]
    newest, own = server[-1], client[-1]
    positive = jnp.sum(newest) > THRESHOLD
    if step.op == "stateful":
        newest, own = jax.lax.switch(positive.astype(int), branches, newest, own)
        return [*server, newest], [*client, own]
    bound = [lambda v, fun=fun: fun(v, own)[0] for fun in branches]
    if len(bound) == 2:
        return [*server, jax.lax.cond(positive, *bound, newest)], client
    return [*server, jax.lax.switch(jnp.argmax(newest), bound, newest)], client


def _saving(fun):
    return jax.checkpoint(fun, policy=jax.checkpoint_policies.dots_saveable)


def _wrapped(step, world, server, client):
    fun = _inner(step.bodies[0], world, server, client)
    if step.op == "call":
        newest, own = world.call(fun, server[-1], client[-1])
    else:
        wrap = {"jit": jax.jit, "checkpoint": jax.checkpoint, "saving": _saving}[step.op]
        newest, own = wrap(fun)(server[-1], client[-1])
    return [*server, newest], [*client, own]


def _mapped(step, world, server, client):
    # The same rounds for several hyperparameters at once.
    fun = _inner(step.bodies[0], world, server, client)
    rates = jnp.array([1.0, 0.6], server[-1].dtype)
    newest, own = jax.vmap(lambda rate: fun(rate * server[-1], client[-1]))(rates)
    return [*server, newest.mean(0)], [*client, own.mean(0)]


def _derived(step, world, server, client):
    # A derivative of rounds is part of the program.
    fun = _inner(step.bodies[0], world, server, client)
    newest, own = server[-1], client[-1]
    if step.op == "client":
        made = jax.grad(lambda o: jnp.sum(jnp.sin(fun(newest, o)[0])))(own)
        return server, [*client, made]
    if step.op == "grad":
        made = jax.grad(lambda v: jnp.sum(jnp.sin(fun(v, own)[0])))(newest)
    elif step.op == "vjp":
        made = jax.vjp(lambda v: fun(v, own)[0], newest)[1](jnp.cos(newest))[0]
    else:
        made = jax.jvp(lambda v: fun(v, own)[0], (newest,), (jnp.cos(newest),))[1]
    return [*server, jnp.tanh(made)], client


HANDLERS: dict[str, Callable] = {
    "server": _server,
    "server_pair": _server_pair,
    "client": _client,
    "client_pair": _client_pair,
    "constant": _constant,
    "broadcast": _broadcast,
    "sum": _sum,
    "mean": _mean,
    "solver": _solver,
    "scan": _scan,
    "fori": _fori,
    "while": _while,
    "cond": _cond,
    "switch": _cond,
    "wrapped": _wrapped,
    "mapped": _mapped,
    "derived": _derived,
}


def _kind(x, label):
    """What a client knows beside its data."""
    return jnp.where(jnp.arange(3) == label, x, 0.3)


def results(steps, world, w, h, x, labels):
    """One number that depends on everything the program made at the server last; the last values."""
    at_server = [h["rate"] * jnp.append(h["bias"], h["rate"]), w]
    server, client = run(steps, world, at_server, [world.local(_kind, x, labels), x])
    loss = jnp.sum(jnp.sin(server[-1])) + jnp.sum(server[-1] * server[-2])
    return loss, {"server": server[-1], "client": client[-1], "labels": labels}


def computation(steps, select: Callable = lambda r: r[0]) -> fad.Computation:
    """The program, or a selection of its results, as a federated computation."""

    @fad.computation(w=fad.SERVER, h=fad.SERVER, x=fad.CLIENTS, labels=fad.CLIENTS)
    def program(w, h, x, labels):
        return select(results(steps, Federated(), w, h, x, labels))

    return program


def oracle(steps, clients: int, select: Callable = lambda r: r[0]) -> Callable:
    """The program as plain JAX over stacked arrays."""
    return lambda *args: select(results(steps, Central(clients), *args))
