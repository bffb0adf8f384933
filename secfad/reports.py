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
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from secfad.computations import Computation
from secfad.costs import Costs
from secfad.errors import ArgumentError, ModeError, SecfadError
from secfad.jacobians import LargeJacobianWarning, NonlinearRuleWarning
from secfad.modes import jacobian, value_and_grad
from secfad.placements import SERVER
from secfad.planning import MODES, STANDARD, CostModel
from secfad.programs import Program
from secfad.tables import count, size
from secfad.tracing import trace

_NOTED = (LargeJacobianWarning, NonlinearRuleWarning)
_HEADINGS = (
    "mode",
    "contacts",
    "rounds",
    "down",
    "up",
    "client state",
    "same clients",
    "map-reduce form",
    "weighted cost",
)


@dataclasses.dataclass(frozen=True)
class Option:
    """One mode of a derivative.

    Attributes:
      mode: "mixed", "forward", "reverse" or "factored".
      program: The derivative in this mode; None if there is none.
      cost: Its total under the cost model; infinite where a while loop decides.
      usable: Whether the mode exists and the cost model allows it.
      note: Why the mode is refused, or a warning about it; empty if there is nothing to say.
    """

    mode: str
    program: Program | None
    cost: float
    usable: bool
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The modes of one derivative, priced.

    Attributes:
      name: Of the computation.
      value: The program of the value alone, for comparison.
      options: One per mode.
      model: What was charged for what.
    """

    name: str
    value: Program
    options: tuple[Option, ...]
    model: CostModel

    @property
    def mode(self) -> str:
        """The cheapest mode.

        Raises:
          ModeError: No mode exists, or none that the cost model allows.
        """
        usable = [option for option in self.options if option.usable]
        if not usable:
            notes = " | ".join(f"{o.mode}: {o.note or 'not allowed'}" for o in self.options)
            raise ModeError(f"No mode of the derivative of `{self.name}` can be used. {notes}")
        return min(usable, key=lambda option: option.cost).mode

    def __getitem__(self, mode: str) -> Option:
        return next(option for option in self.options if option.mode == mode)

    def table(self) -> str:
        """The modes side by side; bytes are per client and evaluation."""
        rows = [_HEADINGS, _row("value only", self.value.costs, "")]
        for option in self.options:
            if option.program is None:
                rows.append((option.mode, *("-" for _ in _HEADINGS[1:])))
            else:
                cost = count(option.cost) if option.usable else "not allowed"
                rows.append(_row(option.mode, option.program.costs, cost))
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(w.ljust(n) for w, n in zip(row, widths)).rstrip() for row in rows]
        notes = [f"{option.mode}: {option.note}" for option in self.options if option.note]
        usable = any(option.usable for option in self.options)
        choice = f"cheapest: {self.mode}" if usable else "no mode can be used"
        return "\n".join([f"derivative of {self.name}", *lines, *notes, choice])


def plan(
    computation: Computation,
    *specs: Any,
    argnums: int | Sequence[int] = 0,
    cost: CostModel = STANDARD,
) -> Plan:
    """Prices every mode of the derivative of a computation, its value included.

    Args:
      computation: With one scalar result (then its value and gradient are priced) or any other
        results at the server (then its Jacobian is).
      *specs: What the server or one client holds of each argument, as for `trace`.
      argnums: The arguments to differentiate.
      cost: What contacts, bytes and client state are worth.

    Returns:
      A plan; `plan.mode` is what to pass as `mode`, `plan.table()` says why.

    Source: Rush, Charles, Garrett (JMLR 2024), section 3.4.
    """
    value = trace(computation, *specs)
    results = [v.aval for v in value.block.results]
    scalar = len(results) == 1 and getattr(results[0], "shape", None) == ()
    derive = value_and_grad if scalar else jacobian

    def option(mode: Any) -> Option:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", LargeJacobianWarning)
            warnings.simplefilter("always", NonlinearRuleWarning)
            try:
                program = trace(derive(computation, argnums, mode=mode), *specs)
            except ArgumentError:
                raise
            except SecfadError as error:
                return Option(mode, None, float("inf"), False, str(error).splitlines()[0])
        notes = "; ".join(str(w.message) for w in caught if issubclass(w.category, _NOTED))
        exact = not any(issubclass(w.category, NonlinearRuleWarning) for w in caught)
        usable = exact and (cost.readdress or not program.costs.readdressed)
        return Option(mode, program, cost.total(program.costs), usable, notes)

    return Plan(computation.name, value, tuple(option(mode) for mode in MODES), cost)


def modes_table(computation: Computation, specs: Sequence[Any]) -> str:
    """The modes of a derivative side by side, as text: `secfad modes FILE.py:NAME`.

    Differentiates by `differentiated_argument`.
    """
    position = differentiated_argument(computation, specs)
    return plan(computation, *specs, argnums=position).table()


def differentiated_argument(computation: Computation, specs: Sequence[Any]) -> int:
    """Position of the first argument that is at the server and holds floating-point numbers.

    Raises:
      ArgumentError: There is none.
    """
    for position, (placement, spec) in enumerate(zip(computation.placements.values(), specs)):
        dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(spec)]
        floating = bool(dtypes) and all(jnp.issubdtype(d, jnp.inexact) for d in dtypes)
        if placement is SERVER and floating:
            return position
    raise ArgumentError(
        f"Expected `{computation.name}` to have a server argument of floating-point numbers to "
        "differentiate, got none. Place one with secfad.SERVER."
    )


def _row(name: str, cost: Costs, total: str) -> tuple[str, ...]:
    return (
        name,
        count(cost.contacts),
        count(cost.rounds),
        size(cost.down_bytes),
        size(cost.up_bytes),
        size(cost.state_bytes),
        "yes" if cost.readdressed else "no",
        "no" if cost.readdressed else "yes",
        total,
    )
