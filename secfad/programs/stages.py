"""Stages: the separate programs of server and clients, and the messages between them.

What the server does between two answers is one program, what a client does between a download and
an upload is another; an engine runs them with only the listed messages in between, so that a mistake
of a checker shows as a missing input, never as a leak. `secfad.programs.cutting` makes them of a placed
program, `secfad.programs.retention` says what clients keep meanwhile.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from secfad import _jax
from secfad._jax import Jaxpr, JaxprEqn, Var
from secfad._jax_interpreters import client_axis
from secfad.jaxprs.equations import Broadcast, Sum
from secfad.jaxprs.inside import variables
from secfad.placements import Placement
from secfad.programs.placed import Control, Placed


def _function(jaxpr: Jaxpr, constants: tuple[Any, ...]) -> Callable:
    # Refers to no stage: a compiled function inside a cycle of references may outlive its key in
    # JAX's caches, which know functions by identity.
    def evaluate(*values: Any) -> list[Any]:
        return _jax.eval_jaxpr(jaxpr, constants, *values)

    return evaluate


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A program at one place.

    Attributes:
      placement: Who runs it.
      jaxpr: Over the variables of the placed program; its inputs are `inputs`.
      inputs: Values that must be known before.
      outputs: Values that are needed after.
      constants: Values of the captured constants, in the order of `jaxpr.constvars`.
    """

    placement: Placement | None
    jaxpr: Jaxpr
    inputs: tuple[Var, ...]
    outputs: tuple[Var, ...]
    constants: tuple[Any, ...]

    def __call__(self, *values: Any) -> list[Any]:
        """Evaluates the stage on one set of inputs."""
        return _jax.eval_jaxpr(self.jaxpr, self.constants, *values)

    @functools.cached_property
    def compiled(self) -> Callable:
        """The stage, compiled."""
        return jax.jit(_function(self.jaxpr, self.constants))

    @functools.cached_property
    def compiled_over_clients(self) -> Callable[[tuple[bool, ...]], Callable]:
        """The stage for all clients at once, given which inputs differ between clients."""
        own = _function(self.jaxpr, self.constants)

        @functools.cache
        def compiled(mapped: tuple[bool, ...]) -> Callable:
            axes = tuple(0 if m else None for m in mapped)
            return jax.jit(jax.vmap(own, in_axes=axes, axis_name=client_axis))

        return compiled


def stage_of(
    placement: Placement | None,
    equations: Sequence[JaxprEqn],
    outputs: Sequence[Var],
    constants: Mapping[Var, Any],
) -> Stage:
    """The stage of some equations; its inputs are what they and the outputs read and do not define."""
    defined = {v for e in equations for v in e.outvars}
    atoms = [*(v for e in equations for v in e.invars), *outputs]
    read = [v for v in dict.fromkeys(variables(atoms)) if v not in defined]
    inputs = tuple(v for v in read if v not in constants)
    captured = [v for v in read if v in constants]
    jaxpr = _jax.new_jaxpr(inputs, outputs, equations, captured)
    return Stage(placement, jaxpr, inputs, tuple(outputs), tuple(constants[v] for v in captured))


@dataclasses.dataclass(frozen=True, eq=False)
class Round:
    """One contact with the cohort: download, client stage, upload.

    Attributes:
      downloads: Messages from the server.
      client: What every client computes.
      uploads: Messages from every client, added up.
      kept: Client values from here or before that a later contact needs.
    """

    downloads: tuple[Broadcast, ...]
    client: Stage
    uploads: tuple[Sum, ...]
    kept: tuple[Var, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Nested:
    """Control flow that the server drives.

    Attributes:
      step: The `scan`, `while` or `cond`.
      bodies: The schedules of its bodies.
      kept: Client values from here or before that a later contact needs.
      held: Client values from outside that clients keep meanwhile, and what they collect for later.
    """

    step: Control
    bodies: "tuple[Schedule, ...]"
    kept: tuple[Var, ...] = ()
    held: tuple[Var, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Everything that happens in one evaluation, in order.

    Attributes:
      placed: The placed program.
      sizes: Sums of constants only; the number of clients times the constant.
      items: Server stages, rounds and nested control flow.
      constants: What is computed first, from no argument; both sides can.
    """

    placed: Placed
    sizes: tuple[Sum, ...]
    items: tuple[Stage | Round | Nested, ...]
    constants: Stage | None = None


def walk(plan: Schedule) -> Iterable[tuple[Schedule, Stage | Round | Nested]]:
    """Every item of a schedule, at any depth."""
    for item in plan.items:
        yield plan, item
        if isinstance(item, Nested):
            for body in item.bodies:
                yield from walk(body)
