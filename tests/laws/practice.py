"""Programs of practice: written once over an aggregator, read as a federated and as a centralised program.

`over` is either `FEDERATED`, whose `mean` and `sum` are those of secfad over what every client computes from
a broadcast, or `CENTRAL`, whose `mean` and `sum` map the same client function over stacked data with plain
JAX. The second is the oracle for the first: it knows nothing of secfad.

`programs_of_practice` fills the table `PROGRAMS`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import secfad as fad
from secfad.errors import SecfadError

CLIENTS = 4
MODES = ("forward", "reverse", "factored", "mixed", "blockwise", "auto")


class _Federated:
    """What every client computes from a broadcast, added or averaged over secfad's messages."""

    def mean(self, fun, shared, *data, weights=None):
        return fad.mean(fun(fad.broadcast(shared), *data), weights=weights)

    def sum(self, fun, shared, *data):
        return fad.sum(fun(fad.broadcast(shared), *data))


class _Central:
    """The same on stacked data."""

    def mean(self, fun, shared, *data, weights=None):
        rows = _rows(fun, shared, data)
        if weights is None:
            return jax.tree.map(lambda a: a.mean(0), rows)
        share = weights / weights.sum()
        return jax.tree.map(lambda a: jnp.tensordot(share, a, 1), rows)

    def sum(self, fun, shared, *data):
        return jax.tree.map(lambda a: a.sum(0), _rows(fun, shared, data))


def _rows(fun, shared, data):
    return jax.vmap(fun, in_axes=(None, *(0 for _ in data)))(shared, *data)


FEDERATED, CENTRAL = _Federated(), _Central()


@dataclasses.dataclass(frozen=True)
class Practice:
    """One program.

    Attributes:
      fun: Takes an aggregator, then the arguments.
      places: "s" for an argument of the server, "c" for one of clients.
      make: The arguments for a number of clients.
      refused: Modes that must be refused, with the error and a part of its text that is true of the
        program; "value" for the program itself.
      jacobian: How the oracle differentiates: `jax.jacfwd`, or `jax.jacrev` for reverse rules.
      tolerance: Relative to the largest entry.
      theme: The module that holds it.
    """

    name: str
    fun: Callable
    places: str
    make: Callable[[int], tuple]
    refused: Mapping[str, tuple[type[SecfadError], str]]
    jacobian: Callable
    tolerance: float
    theme: str

    def args(self, clients: int = CLIENTS) -> tuple:
        return self.make(clients)

    def specs(self) -> tuple:
        """What the server or one client holds."""
        pairs = zip(self.args(2), self.places)
        return tuple(jax.tree.map(lambda x: x[0], a) if p == "c" else a for a, p in pairs)

    @property
    def computation(self) -> fad.Computation:
        count = len(self.places)
        names = self.fun.__code__.co_varnames[1 : 1 + count]
        placed = {n: fad.SERVER if p == "s" else fad.CLIENTS for n, p in zip(names, self.places)}
        return fad.Computation(lambda *args: self.fun(FEDERATED, *args), placed, self.name)

    def oracle(self, *args: Any) -> Any:
        return self.fun(CENTRAL, *args)

    def derivative(self, mode: str) -> fad.Computation:
        """Gradient of a scalar result, Jacobian of any other."""
        out = jax.tree.leaves(jax.eval_shape(self.oracle, *self.args(2)))
        scalar = len(out) == 1 and out[0].shape == () and jnp.issubdtype(out[0].dtype, jnp.floating)
        take = fad.grad if scalar else fad.jacobian
        return take(self.computation, mode=mode)


PROGRAMS: dict[str, Practice] = {}


def program(places: str, make: Callable[[int], tuple], **options: Any) -> Callable:
    """Adds the decorated function to the table."""
    options = {"refused": {}, "jacobian": jax.jacfwd, "tolerance": 1e-10} | options

    def add(fun: Callable) -> Callable:
        assert fun.__name__ not in PROGRAMS, fun.__name__
        theme = fun.__module__.rsplit(".", 1)[-1]
        PROGRAMS[fun.__name__] = Practice(fun.__name__, fun, places, make, theme=theme, **options)
        return fun

    return add


def objective(make: Callable[[int], tuple], **options: Any) -> Callable:
    """Adds the mean over clients of the decorated loss of a model and a client's data."""

    def add(loss: Callable) -> Callable:
        count = loss.__code__.co_argcount
        places = "s" + "c" * (count - 1)

        def averaged(over, *args):
            return over.mean(loss, *args)

        names = ("over", *loss.__code__.co_varnames[:count])
        averaged.__code__ = averaged.__code__.replace(co_name=loss.__name__)
        averaged.__name__, averaged.__module__ = loss.__name__, loss.__module__
        fun = _named(averaged, names)
        program(places, make, **options)(fun)
        return loss

    return add


def _named(fun: Callable, names: tuple[str, ...]) -> Callable:
    """The function with named parameters, which a computation reads its placements from."""
    text = f"lambda {', '.join(names)}: fun({', '.join(names)})"
    made = eval(text, {"fun": fun})
    made.__name__, made.__module__ = fun.__name__, fun.__module__
    return made


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def uniform(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(0.2, 1.0, size=shape))


def regression(clients: int) -> tuple:
    """(w, x, y): a model, and five examples per client."""
    return 0.5 * normal(0, 3), normal(1, clients, 5, 3), normal(2, clients, 5)


def classes(clients: int) -> tuple:
    """(w, x, y): a linear classifier of three classes, and labels."""
    labels = jnp.asarray(np.random.default_rng(3).integers(0, 3, (clients, 5)))
    return 0.5 * normal(0, 3, 3), normal(1, clients, 5, 3), labels


def keys(clients: int, seed: int = 5, impl: str | None = None) -> jax.Array:
    return jax.random.split(jax.random.key(seed, impl=impl), clients)
