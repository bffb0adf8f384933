"""`Program`: a traced, normalised, placed computation, ready to be counted, certified and run.

Frozen. Its `digest` binds certificates and ledgers to exactly this program: it is a hash of a
canonical form, constants' bytes included, and does not depend on the process, the machine or the
line on which the program is written.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from secfad._jax import ClosedJaxpr
from secfad.collecting import no_collection
from secfad.errors import TracingError
from secfad.jaxprs.digests import canonical, digest
from secfad.placements import Placement
from secfad.programs.costs import Costs, costs
from secfad.programs.cutting import schedule
from secfad.programs.placed import Placed
from secfad.programs.stages import Schedule


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A federated computation for arguments of fixed shapes.

    Attributes:
      name: Of the computation.
      source: The jaxpr as traced, with custom derivative rules.
      placed: The jaxpr in normal form, with the place of every variable: what engines run.
      argument_names: Of the computation's parameters.
      in_tree: Structure of the tuple of arguments.
      out_tree: Structure of the result.
      in_placements: Of every flat argument.
      out_placements: Of every flat result; None for a result that is a constant.
      defaults: Values of the last arguments, for whoever leaves them out.
    """

    name: str
    source: ClosedJaxpr
    placed: Placed
    argument_names: tuple[str, ...]
    in_tree: Any
    out_tree: Any
    in_placements: tuple[Placement, ...]
    out_placements: tuple[Placement | None, ...]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def jaxpr(self) -> ClosedJaxpr:
        """The jaxpr in normal form: what the digest covers and engines run."""
        return self.placed.closed

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The program cut into stages and rounds."""
        with no_collection():
            return schedule(self.placed)

    @functools.cached_property
    def costs(self) -> Costs:
        """Rounds, contacts, bytes and client state of one evaluation."""
        return costs(self.schedule)

    @property
    def rounds(self) -> float:
        """Contacts in which clients send; infinite if a while loop decides."""
        return self.costs.rounds

    @functools.cached_property
    def canonical(self) -> str:
        """The program as JSON, which its digest covers, with the placements of its arguments."""
        places = [p.value for p in self.in_placements]
        outs = [p.value if p else "constant" for p in self.out_placements]
        return canonical(self.jaxpr, [*places, "->", *outs, str(self.in_tree), str(self.out_tree)])

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical form, as hexadecimal digits."""
        return digest(self.canonical)

    def table(self) -> str:
        """Every message and stage, round by round, as text; the costs in the last line."""
        from secfad.views.tables import table

        return table(self.name, self.schedule)

    def to_svg(self) -> str:
        """The federated computational graph: server lane, client lane, messages with sizes."""
        from secfad.views.drawing import to_svg

        return to_svg(self.name, self.schedule)

    def __str__(self) -> str:
        try:
            return self.table()
        except TracingError:  # code that no schedule can order
            return repr(self)

    def _repr_html_(self) -> str | None:
        """The picture, for notebooks; without one, they show the text."""
        try:
            return self.to_svg()
        except TracingError:
            return None

    def __repr__(self) -> str:
        arguments = ", ".join(self.argument_names)
        try:
            digest = self.digest[:12]
        except TracingError:  # code that no digest can bind, such as a callback
            digest = "without a digest"
        return f"<Program {self.name}({arguments}) {digest}>"
