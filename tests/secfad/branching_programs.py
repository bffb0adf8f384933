"""Programs in which the server chooses between branches that communicate.

Each takes a world (`Federated` or `Centralised`), the server's number and the clients' data, and gives one
number. Branches change at 0.1.
"""

import jax
import jax.numpy as jnp

import secfad as fad


class Federated:
    """Broadcasts and means over clients, and functions of their values."""

    def broadcast(self, value):
        return fad.broadcast(value)

    def mean(self, fun, *values):
        return fad.mean(fun(*values))

    def client(self, fun, *values):
        return fun(*values)

    def sines(self, w, x):
        return self.mean(lambda x, w: jnp.sin(x * w).sum(), x, self.broadcast(w))

    def squares(self, w, x):
        return self.mean(lambda x, w: (x * w).sum(), x, self.broadcast(w)) ** 2


class Centralised(Federated):
    """The same of stacked clients."""

    def __init__(self, clients):
        self.clients = clients

    def broadcast(self, value):
        return jnp.broadcast_to(value, (self.clients, *jnp.shape(value)))

    def mean(self, fun, *values):
        return jax.vmap(fun)(*values).mean(0)

    def client(self, fun, *values):
        return jax.vmap(fun)(*values)


def choice(means, w, x):
    return jax.lax.cond(w > 0.1, means.sines, means.squares, w, x)


def plain(means, w, x):
    return choice(means, w, x)


def in_scan(means, w, x):
    def body(w, _):
        value = choice(means, w, x)
        return 0.5 * w - value, value

    w, values = jax.lax.scan(body, w, length=3)
    return w + values.sum()


def in_nested_scans(means, w, x):
    def outer(w, _):
        return jax.lax.scan(lambda w, _: (0.5 * w - choice(means, w, x), w), w, length=2)

    w, values = jax.lax.scan(outer, w, length=2)
    return w * values.sum()


def in_checkpoint(means, w, x):
    return w + 2 * jax.checkpoint(lambda w: choice(means, w, x))(w)


def scan_in_checkpoint(means, w, x):
    return jax.checkpoint(lambda w: in_scan(means, w, x))(w)


def checkpoint_in_scan(means, w, x):
    def body(w, _):
        return 0.5 * w - jax.checkpoint(lambda w: choice(means, w, x))(w), None

    return jax.lax.scan(body, w, length=3)[0]


def branch_in_branch(means, w, x):
    return jax.lax.cond(w < 5, lambda w: choice(means, w, x), lambda w: w, w)


def with_numbers_and_loops(means, w, x):
    """Integer operands, and a loop that nobody differentiates in one branch."""

    def counted(w, k, x):
        factor = jax.lax.while_loop(lambda c: c < 3.0, lambda c: c * 1.5, 1.0 + k)
        return factor * means.sines(w, x)

    def other(w, k, x):
        return k * means.squares(w, x)

    return jax.lax.switch(jnp.int32(w > 0), [other, counted], w, 2, x)


def three_branches(means, w, x):
    """Branches that need different things for their derivatives: two messages, none, a loop."""

    def two_messages(w):
        delta = means.mean(lambda x, w: jnp.tanh(x * w), x, means.broadcast(w))
        return w * means.mean(lambda x, d: jnp.sin(x @ d), x, means.broadcast(delta))

    def loop(w):
        carry, seen = jax.lax.scan(lambda c, _: (c - means.sines(c, x), c**2), w, length=2)
        return carry * seen.sum()

    number = jnp.clip(jnp.floor(3 * w).astype(jnp.int32), 0, 2)
    return jax.lax.switch(number, [loop, lambda w: w**3, two_messages], w)


def decided_before(means, w, x):
    """The index does not change in the loops, nor what branches compute before their messages."""
    first = w > 0.1

    def choose(c):
        return jax.lax.cond(
            first,
            lambda c: means.mean(
                lambda x, c: (jnp.sin(x) * jnp.sin(c)).sum(), x, means.broadcast(c)
            ),
            lambda c: means.mean(lambda x, c: (jnp.exp(x) * c**2).sum(), x, means.broadcast(c)),
            c,
        )

    def inner(c, _):
        return 0.5 * c - 0.3 * choose(c), c

    c, rows = jax.lax.scan(lambda c, _: jax.lax.scan(inner, c, length=2), w, length=2)
    return c * rows.sum()


def with_constants(means, w, x):
    """A client value times a function of a number that both sides know."""

    def scaled(w, number, fun):
        return means.mean(
            lambda x, w, k: (x * jnp.sin(w) * fun(k)).sum(),
            x,
            means.broadcast(w),
            means.broadcast(jnp.asarray(number)),
        )

    return jax.lax.cond(
        w > 0.1, lambda w: scaled(w, 2.0, jnp.sin), lambda w: scaled(w, 0.3, jnp.exp) ** 2, w
    )


def constants_decided_before(means, w, x):
    first = w > 0.1

    def local_steps(x, w):
        def step(v, _):
            return v - 0.1 * jax.grad(lambda v: jnp.mean((jnp.tanh(x * v) - 1) ** 2))(v), None

        return w - jax.lax.scan(step, w, length=2)[0]

    def body(c, _):
        delta = jax.lax.cond(
            first,
            lambda c: means.mean(local_steps, x, means.broadcast(c)),
            lambda c: 0.5 * means.mean(local_steps, x, means.broadcast(c)) ** 2,
            c,
        )
        return c - 0.7 * delta, None

    return jax.lax.scan(body, w, length=2)[0] ** 2


def chosen_by_a_sum(means, w, x):
    """Nobody needs the value of the choice for its second derivative."""
    return jax.lax.cond(means.squares(w, x) > 0.01, means.sines, means.squares, w, x)


def kept_by_clients(means, w, x):
    """A client value that was computed before the choice."""
    kept = means.client(lambda x, w: jnp.sin(x * w), x, means.broadcast(w))
    chosen = jax.lax.cond(
        w > 0.1,
        lambda v: means.mean(lambda v: (v**2).sum(), v),
        lambda v: means.mean(lambda v: jnp.cos(v).sum(), v),
        kept,
    )
    return w * chosen


def client_state(means, w, x):
    """Branches change what clients carry from round to round."""

    def moved(c, state):
        new = means.client(
            lambda s, x, c: jnp.tanh(s + jnp.sin(x) * c), state, x, means.broadcast(c)
        )
        return c - 0.1 * means.mean(jnp.sum, new), new

    def kept(c, state):
        return c * means.mean(lambda s: jnp.cos(s).sum(), state), state

    start = w, means.client(jnp.zeros_like, x)
    first = w > 0.1
    (c, state), _ = jax.lax.scan(
        lambda carry, _: (jax.lax.cond(first, moved, kept, *carry), None), start, length=3
    )
    return c * means.mean(lambda s: (s**2).sum(), state)


def clients_choose_inside(means, w, x):
    """A choice of each client inside a branch of the server's, and a choice inside that one."""

    def own(x, w):
        return jax.lax.cond(
            x[0] > 0, lambda w: jnp.sin(x * w).sum(), lambda w: (x * w).sum() ** 3, w
        )

    def first(w):
        inside = jax.lax.cond(w < 5.0, means.sines, means.squares, w, x)
        return inside * means.mean(own, x, means.broadcast(w))

    return jax.lax.cond(w > 0.1, first, lambda w: means.squares(w, x), w)


def loop_of_unknown_length(means, w, x):
    """Its length depends on sums; nothing in it is differentiated."""

    def rounds(w):
        stopped = jax.lax.stop_gradient(w)
        k = jax.lax.while_loop(
            lambda k: k < 3.0, lambda k: k + 1.0 + means.squares(0.1 * k, x), stopped
        )
        return means.sines(w * k, x) ** 2

    return jax.lax.cond(w > 0.1, rounds, lambda w: means.squares(w, x), w)


def loop_in_cond(means, w, x):
    return jax.lax.cond(w < 5.0, lambda w: in_scan(means, w, x), lambda w: means.sines(w, x), w)


def integers_of_clients(means, w, x):
    """A branch reads of a differentiated value only what has no derivative."""
    products = means.client(lambda x, w: x * jnp.tanh(w), x, means.broadcast(w))

    def best(w):
        return w * means.mean(lambda p: jnp.argmax(p).astype(p.dtype), products)

    return jax.lax.cond(w > 0.1, best, lambda w: w**2, w)


def constant_tangents(means, w, x):
    """Clients receive one constant tangent or another."""
    received = jax.lax.cond(w > 0.1, lambda w: means.broadcast(2 * w), means.broadcast, w)
    return means.mean(lambda x, w: jnp.sin(x * w).sum(), x, received)


def own_or_public(means, w, x):
    """The gradient does not need what is broadcast, but what is chosen beside it."""
    own = lambda w: (means.broadcast(w), means.client(lambda x: x[0], x))
    public = lambda w: (means.broadcast(w), means.broadcast(1.5))
    received, factor = jax.lax.cond(w > 0.1, own, public, w)
    return means.mean(lambda x, w, factor: (x * w * factor).sum(), x, received, factor)
