"""The table of federated programs that the law suites iterate over; `law_programs` fills it.

Each entry gives a computation over per-client values, the same mathematics written centrally over
stacked arrays (no secfad, no communication), arguments, and the argument to differentiate. Arrays
are made on demand, so that they have the precision of whoever asks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import secfad as fad

S, C = fad.SERVER, fad.CLIENTS
CLIENTS = 5


@dataclasses.dataclass(frozen=True)
class Case:
    """One federated program and its oracle.

    Attributes:
      computation: Over per-client values.
      oracle: The same over stacked values.
      make: Arguments for a number of clients.
      wrt: Position of the differentiated argument.
      refused: Modes that must raise, with a part of the message.
      other: Modes that are defined but are no derivative here: a custom rule that is not linear in
        the cotangent gives another number for another cotangent.
      contacts: Of the value, where the figure is part of the claim.
    """

    name: str
    computation: fad.Computation
    oracle: Callable
    make: Callable[[int], tuple]
    wrt: int = 0
    refused: tuple[tuple[str, str], ...] = ()
    other: tuple[str, ...] = ()
    contacts: float | None = None

    def args(self, clients: int = CLIENTS) -> tuple:
        """Arguments of a cohort of this size."""
        return self.make(clients)

    def specs(self) -> tuple:
        """What the server or one client holds."""
        one = zip(self.args(2), self.computation.placements.values())
        return tuple(jax.tree.map(lambda x, p=p: x[0] if p is C else x, a) for a, p in one)

    def modes(self) -> list[str]:
        """Modes that exist."""
        gone = {*self.other, *(mode for mode, _ in self.refused)}
        return [m for m in ("forward", "reverse", "mixed", "auto") if m not in gone]

    def derivative(self, mode: str) -> fad.Computation:
        """Gradient of a scalar result, Jacobian of any other."""
        take = fad.grad if self.is_scalar() else fad.jacobian
        return take(self.computation, argnums=self.wrt, mode=mode)

    def is_scalar(self) -> bool:
        """True if the result is one number."""
        out = jax.eval_shape(self.oracle, *self.args(2))
        return isinstance(out, jax.ShapeDtypeStruct) and out.shape == ()

    def expected_derivative(self, *args: Any) -> Any:
        """The centralised derivative, by forward mode: defined for every entry."""
        return jax.jacfwd(self.oracle, argnums=self.wrt)(*args)


CASES: dict[str, Case] = {}


def entry(placements: str, make: Callable[[int], tuple], oracle: Callable, **options: Any):
    """Adds the decorated function to the table; placements are one letter per argument."""

    def add(fun: Callable) -> Callable:
        names = fun.__code__.co_varnames[: fun.__code__.co_argcount]
        places = {n: S if p == "s" else C for n, p in zip(names, placements)}
        made = fad.computation(**places)(fun)
        CASES[fun.__name__] = Case(fun.__name__, made, oracle, make, **options)
        return fun

    return add


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def loss(w, x, y):
    return jnp.mean((jnp.tanh(x @ w) - y) ** 2)


def local_delta(w, x, y, rate=0.3):
    def step(v, _):
        return v - rate * jax.grad(loss)(v, x, y), None

    return w - jax.lax.scan(step, w, None, length=3)[0]


def over(fun: Callable, *axes) -> Callable:
    """`fun` at every client."""
    return jax.vmap(fun, in_axes=axes)


def regression(clients: int) -> tuple:
    """(w, x, y): a model, and four examples per client."""
    return normal(0, 3), normal(1, clients, 4, 3), normal(2, clients, 4)


def hyper_regression(clients: int) -> tuple:
    return (jnp.array([0.7, 0.4]), *regression(clients))
