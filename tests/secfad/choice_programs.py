"""Programs in which the server chooses between branches that communicate.

Each takes a world (`Federated` or `Centralised`), the server's number and the clients' data, and gives one
number. Branches change at 0.1.
"""

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

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
    """Branches that send the same messages."""
    return jax.lax.cond(w > 0.1, means.sines, means.squares, w, x)


def in_scan(means, w, x):
    def body(w, _):
        value = jax.checkpoint(lambda w: choice(means, w, x))(w)
        return 0.5 * w - value, value

    w, values = jax.lax.scan(body, w, length=3)
    return w + values.sum()


def three_branches(means, w, x):
    """Branches that send different messages: two of them, none, those of a loop."""

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
        sines = lambda x, c: (jnp.sin(x) * jnp.sin(c)).sum()
        squares = lambda x, c: (jnp.exp(x) * c**2).sum()
        return jax.lax.cond(
            first,
            lambda c: means.mean(sines, x, means.broadcast(c)),
            lambda c: means.mean(squares, x, means.broadcast(c)),
            c,
        )

    def inner(c, _):
        return 0.5 * c - 0.3 * choose(c), c

    c, rows = jax.lax.scan(lambda c, _: jax.lax.scan(inner, c, length=2), w, length=2)
    return c * rows.sum()


def client_state(means, w, x):
    """Branches change what clients carry from round to round."""

    def moved(c, state):
        move = lambda s, x, c: jnp.tanh(s + jnp.sin(x) * c)
        new = means.client(move, state, x, means.broadcast(c))
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
        return choice(means, w, x) * means.mean(own, x, means.broadcast(w))

    return jax.lax.cond(w > 0.1, first, lambda w: means.squares(w, x), w)


def constant_tangents(means, w, x):
    """Clients receive one constant tangent or another."""
    received = jax.lax.cond(w > 0.1, lambda w: means.broadcast(2 * w), means.broadcast, w)
    return means.mean(lambda x, w: jnp.sin(x * w).sum(), x, received)


def own_or_public(means, w, x):
    """A value of the clients or a constant that both sides know, and a whole number."""
    own = lambda w: (means.broadcast(w), means.client(lambda x: x[0], x), 2)
    public = lambda w: (means.broadcast(w), means.broadcast(1.5), 3)
    received, factor, power = jax.lax.cond(w > 0.1, own, public, w)
    return means.mean(lambda x, w, factor: (x * w * factor).sum(), x, received, factor) ** power


def loop_of_unknown_length(means, w, x):
    """Its length depends on sums; nothing in it is differentiated."""

    def rounds(w):
        stopped = jax.lax.stop_gradient(w)
        more = lambda k: k + 1.0 + means.squares(0.1 * k, x)
        k = jax.lax.while_loop(lambda k: k < 3.0, more, stopped)
        return means.sines(w * k, x) ** 2

    return jax.lax.cond(w > 0.1, rounds, lambda w: means.squares(w, x), w)


def solver_in_a_branch(means, w, x):
    """The solution of a linear system whose matrix is an average over clients."""

    def product(v):
        return v + 0.3 * means.mean(lambda x, v: x * (x @ v), x, means.broadcast(v))

    def solved(w):
        return cg(product, jnp.stack([w, w**2]), tol=1e-14)[0].sum()

    return jax.lax.cond(w > 0.1, solved, lambda w: means.squares(w, x), w)
