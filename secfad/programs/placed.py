"""`Placed`: a program and the place of each of its variables.

Placement inference makes it of a jaxpr; staging, costs, pictures and derivatives read it. Its *steps*
are the views of its equations (`secfad.jaxprs.equations`). Where a step happens follows from the places
of what it defines:

    Broadcast, Sum      one message between the server and the clients
    driven              a `scan`, `while` or `cond` that communicates or reads values of both places:
                        the server runs it, and its bodies are placed programs
    everything else     at the server, at every client, or (constants) at both

Every body has variables of its own, so that one mapping has the places of all depths.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from secfad._jax import ClosedJaxpr, Jaxpr, Literal, Var
from secfad.jaxprs.equations import Atom, Cond, Scan, View, While, views
from secfad.jaxprs.inside import communicates
from secfad.placements import Placement

Control = Scan | While | Cond


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """A placed program.

    Attributes:
      jaxpr: The program; no operand of a broadcast is a constant.
      places: Of every variable, at every depth; None for values that depend on no placed argument.
      constants: Values of the variables that the program captures, at every depth.
    """

    jaxpr: Jaxpr
    places: Mapping[Var, Placement | None]
    constants: Mapping[Var, Any]

    @property
    def inputs(self) -> list[Var]:
        """Variables of the arguments."""
        return self.jaxpr.invars

    @property
    def results(self) -> list[Atom]:
        """What the program returns."""
        return self.jaxpr.outvars

    @functools.cached_property
    def steps(self) -> tuple[View, ...]:
        """The views of the equations, in order."""
        return views(self.jaxpr)

    @property
    def captured(self) -> dict[Var, Any]:
        """Values of the constants of this depth."""
        return {v: self.constants[v] for v in self.jaxpr.constvars}

    @property
    def closed(self) -> ClosedJaxpr:
        """The program with its constants."""
        return ClosedJaxpr(self.jaxpr, list(self.captured.values()))

    def placement(self, atom: Atom) -> Placement | None:
        """Where a value lives."""
        return None if isinstance(atom, Literal) else self.places[atom]

    def place_of(self, step: View) -> Placement | None:
        """Where a step that is neither a message nor driven happens; None for both places."""
        found = {self.placement(v) for v in step.outputs or step.inputs} - {None}
        return found.pop() if len(found) == 1 else None

    def is_driven(self, step: View) -> bool:
        """Whether a step is control flow that the server runs, with the clients taking part."""
        if not isinstance(step, Control):
            return False
        places = {self.placement(v) for v in step.inputs} - {None}
        return len(places) > 1 or communicates(step.equation)

    def bodies(self, step: View) -> "tuple[Placed, ...]":
        """The programs inside a driven step; none of another."""
        if isinstance(step, Control) and self.is_driven(step):
            return tuple(self.inside(body) for body, _ in step.entries(step.inputs))
        return ()

    def inside(self, body: ClosedJaxpr | Jaxpr) -> "Placed":
        """A program inside this one."""
        jaxpr = body.jaxpr if isinstance(body, ClosedJaxpr) else body
        return Placed(jaxpr, self.places, self.constants)

    def every_step(self) -> "Iterator[tuple[Placed, View]]":
        """Every step at any depth, with the program that it is in."""
        for step in self.steps:
            yield self, step
            for body in self.bodies(step):
                yield from body.every_step()

    def has_branches(self) -> bool:
        """Whether the server chooses between branches that clients take part in, at any depth."""
        return any(isinstance(s, Cond) and placed.is_driven(s) for placed, s in self.every_step())
