"""The two worlds of random programs: crossings by the two primitives, and the same over an axis."""

import dataclasses

import jax
import jax.numpy as jnp
from random_operations import LOCAL, MEANING, SPECIAL

import secfad as fad

OPERATIONS = LOCAL | SPECIAL


@dataclasses.dataclass(frozen=True)
class Federated:
    """Crossings by the two primitives."""

    def broadcast(self, tree):
        return fad.broadcast(tree, name="wire")

    def total(self, tree):
        return fad.sum(tree, name="total")

    def mean(self, tree, weights=None):
        return fad.mean(tree, weights=weights, name="mean")

    def local(self, fun, *values):
        return fun(*values)

    def constant(self, value):
        return value

    def operation(self, name):
        return OPERATIONS[name]

    def moment(self, w, x):
        return _moment(w, x)

    def call(self, fun, newest, own):
        placed = fad.computation(newest=fad.SERVER, own=fad.CLIENTS)
        return placed(lambda newest, own: fun(newest, own))(newest, own=own)


@dataclasses.dataclass(frozen=True)
class Central:
    """The same over a leading axis of clients, and without custom rules."""

    clients: int

    def broadcast(self, tree):
        return jax.tree.map(self.constant, tree)

    def total(self, tree):
        return jax.tree.map(lambda v: v.sum(0, dtype=v.dtype), tree)

    def mean(self, tree, weights=None):
        weights = jnp.ones(self.clients) if weights is None else weights
        return jax.tree.map(
            lambda v: (jnp.tensordot(weights, v, 1) / weights.sum()).astype(v.dtype), tree
        )

    def local(self, fun, *values):
        return jax.vmap(fun)(*values)

    def constant(self, value):
        return jnp.broadcast_to(value, (self.clients, *jnp.shape(value)))

    def operation(self, name):
        return MEANING.get(name) or OPERATIONS[name]

    def moment(self, w, x):
        return jnp.sin(w * x).sum(0)

    def call(self, fun, newest, own):
        return fun(newest, own)


@jax.custom_jvp
def _moment(w, x):
    """A sum over clients with a derivative rule of its own, which communicates too."""
    return fad.sum(jnp.sin(fad.broadcast(w) * x), name="moment")


@_moment.defjvp
def _(primals, tangents):
    w, x = primals
    received = fad.broadcast(w)
    slope = jnp.cos(received * x)
    along_w, along_x = fad.sum((slope * x, slope * received * tangents[1]), name="slopes")
    return _moment(w, x), along_w * tangents[0] + along_x
