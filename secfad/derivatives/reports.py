"""Reports: the modes of a derivative side by side, and which one to take.

`plan` traces every mode of a computation's derivative, prices each under a stated cost model and
keeps what a mode refuses, with the reason. It is what `mode="auto"` decides by, made visible.

>>> import jax.numpy as jnp, secfad as fad
>>> @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
... def loss(w, x):
...     return fad.mean(jnp.sum((fad.broadcast(w) * x) ** 2), name="loss")
>>> plan(loss, jnp.zeros(3), jnp.zeros(3)).mode
'mixed'
"""

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import jax

from secfad.computations import Computation
from secfad.derivatives.modes import jacobian, value_and_grad
from secfad.derivatives.planning import STANDARD, CostModel, Option, cheapest, priced
from secfad.derivatives.requirements import checked_argnums, value_specs
from secfad.errors import ArgumentError
from secfad.programs.programs import Program
from secfad.programs.tracing import trace


@dataclasses.dataclass(frozen=True)
class Plan:
    """The modes of one derivative, priced.

    Attributes:
      name: Of the computation.
      arguments: Names of the differentiated arguments.
      value: The program of the value alone, for comparison.
      options: One per mode.
      model: What was charged for what.
    """

    name: str
    arguments: tuple[str, ...]
    value: Program
    options: tuple[Option, ...]
    model: CostModel

    @property
    def mode(self) -> str:
        """The cheapest mode.

        Raises:
          ModeError: No mode exists, or none that the cost model allows.
        """
        return cheapest(self.options, self.name).mode

    def __getitem__(self, mode: str) -> Option:
        found = {option.mode: option for option in self.options}
        if mode not in found:
            raise ArgumentError(f"Expected one of the modes {', '.join(found)}, got {mode!r}.")
        return found[mode]

    def __repr__(self) -> str:
        modes = ", ".join(option.mode for option in self.options if option.usable)
        return f"<Plan of the derivative of {self.name} in {modes or 'no'} mode>"

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        """The table, for notebooks."""
        return f"<pre>{html.escape(self.table())}</pre>"

    def table(self) -> str:
        """The modes side by side, and why the cheapest is that; 80 columns wide."""
        from secfad.views.comparison import comparison

        return comparison(self)


def plan(
    computation: Computation,
    *specs: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    cost: CostModel = STANDARD,
) -> Plan:
    """Prices every mode of the derivative of a computation, its value included.

    Args:
      computation: With one scalar result (then its value and gradient are priced) or any other
        results at the server (then its Jacobian is).
      *specs: What the server or one client holds of each argument, as for `trace`.
      argnums: The arguments to differentiate.
      has_aux: Whether it returns a pair `(value, aux)`, of which only the value is differentiated.
      cost: What contacts, bytes and client state are worth.

    Returns:
      A plan; `plan.mode` is what to pass as `mode`, `plan.table()` says why. A mode that cannot be
      derived, be it by an error of JAX's, is an option that is not usable, with the reason as its note.

    Raises:
      ArgumentError: The positions are wrong, or there is nothing to differentiate.
      PlacementError: A value is used where it does not live; names the user's line.
      TracingError: The function cannot be traced with these shapes.

    Source: Rush, Charles, Garrett (JMLR 2024), section 3.4.
    """
    if not isinstance(cost, CostModel):
        raise ArgumentError(
            f"Expected cost to be a secfad.CostModel, got {cost!r}. Write "
            "cost=secfad.CostModel(up_byte=10.0)."
        )
    argnums = checked_argnums(computation, argnums)
    value = trace(computation, *specs)
    results = value_specs(computation.name, value.out_tree, value.placed.results, has_aux)
    scalar = [leaf.shape for leaf in jax.tree.leaves(results)] == [()]
    derive = value_and_grad if scalar else jacobian

    chosen = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    names = tuple(list(computation.placements)[i] for i in chosen)

    def program_in(mode: Any) -> Program:
        return trace(derive(computation, argnums, has_aux=has_aux, mode=mode), *specs)

    return Plan(computation.name, names, value, priced(program_in, cost), cost)
