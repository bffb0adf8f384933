"""What the table says of an algorithm: a program, example arguments, an oracle, and closed-form costs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import secfad as fad

Tree = Any
MODES = ("forward", "reverse", "mixed")


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
