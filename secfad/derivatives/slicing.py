"""Slices: the client code between the broadcasts that matter and one sum.

Mixed mode treats each sum as a function of what the server broadcast. Its slice is that function:
the local steps that lead from active broadcasts to the operands of the sum, with everything else
that they read as constants. Slices reach out of loops and branches: client code before a `cond` may
be used by a sum inside it.
"""

import dataclasses
from collections.abc import Collection, Sequence

from secfad import _jax
from secfad._jax import Jaxpr, JaxprEqn, Var
from secfad.errors import ModeError
from secfad.jaxprs.dependence import ACTIVITY
from secfad.jaxprs.equations import OWN_DERIVATIVE, Atom, Broadcast, Scan, Sum
from secfad.jaxprs.inside import Inside, bodies
from secfad.placements import CLIENTS
from secfad.programs.placed import Placed


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """The client code between some broadcasts and one sum.

    Attributes:
      jaxpr: From the broadcast values and the constants to the operands of the sum.
      sources: What the server broadcasts, as server variables.
      names: Of the broadcasts, one per source.
      constants: Other values that the code reads: client data, inactive values.
      depends: For every operand, which sources it depends on.
      wanted: For every operand, whether anything that is differentiated depends on its sum. The
        Jacobian of another is dead code, which no message carries.
    """

    jaxpr: Jaxpr
    sources: list[Atom]
    names: list[str]
    constants: list[Var]
    depends: list[list[bool]]
    wanted: list[bool]

    def contains(self, primitives: frozenset) -> bool:
        """True if the client code has an equation of these primitives, at any depth.

        What is behind a derivative rule is not differentiated, and not looked into.
        """
        nested = lambda e: () if e.primitive in OWN_DERIVATIVE else bodies(e)
        return Inside(lambda e: e.primitive in primitives, nested).in_jaxpr(self.jaxpr)


class Slicer:
    """Finds slices in a placed program, at every depth."""

    def __init__(self, placed: Placed, active: Collection[Var], name: str):
        """Reads a program with these active variables, at every depth; errors call it by its name."""
        self.name = name
        self.active = active
        self.sender: dict[Var, tuple[str, Atom]] = {}
        self.maker: dict[Var, JaxprEqn] = {}
        self.order: dict[JaxprEqn, int] = {}
        # Client values that enter a loop, and what they are outside.
        self.alias: dict[Var, Atom] = {}
        for program, step in placed.every_step():
            self.order[step.equation] = len(self.order)
            if isinstance(step, Broadcast):
                pairs = zip(step.outputs, step.inputs)
                self.sender.update((v, (step.name, source)) for v, source in pairs if v in active)
            elif not program.is_driven(step):
                if program.place_of(step) is CLIENTS and any(v in active for v in step.outputs):
                    self.maker.update(dict.fromkeys(step.outputs, step.equation))
            elif isinstance(step, Scan):
                pairs = zip(step.body.jaxpr.invars, step.consts)
                own = ((v, a) for v, a in pairs if v in active and placed.places[v] is CLIENTS)
                self.alias.update(own)

    def _now(self, atom: Atom) -> Atom:
        while isinstance(atom, Var) and atom in self.alias:
            atom = self.alias[atom]
        return atom

    def slice(self, step: Sum, wanted: Sequence[bool]) -> Slice:
        """The slice of a sum with an active operand, given which of its results are wanted."""
        operands = [self._now(v) for v in step.inputs]
        makers: dict[JaxprEqn, None] = {}
        roots: dict[Var, None] = {}
        stack = [v for v in operands if isinstance(v, Var)]
        while stack:
            variable = stack.pop()
            if variable in self.sender:
                roots[variable] = None
            elif variable in self.maker and self.maker[variable] not in makers:
                maker = self.maker[variable]
                makers[maker] = None
                stack += [v for v in map(self._now, maker.invars) if isinstance(v, Var)]
        ordered = sorted(makers, key=self.order.__getitem__)
        equations = [e.replace(invars=[self._now(v) for v in e.invars]) for e in ordered]
        defined = {v for e in equations for v in e.outvars} | set(roots)
        reads = [*(v for e in equations for v in e.invars), *operands]
        constants = dict.fromkeys(v for v in reads if isinstance(v, Var) and v not in defined)
        if any(v in self.active for v in constants):
            raise ModeError(
                f"`{self.name}` adds up client values ({step.name!r}, {step.line}) that depend on the "
                "differentiated argument through control flow which mixed mode cannot see through. "
                "Use mode='reverse' or mode='forward'."
            )
        jaxpr = _jax.new_jaxpr([*roots, *constants], operands, equations)
        names, sources = zip(*(self.sender[v] for v in roots))
        depends = _dependence(jaxpr, list(roots))
        return Slice(jaxpr, list(sources), list(names), list(constants), depends, list(wanted))


def _dependence(jaxpr: Jaxpr, roots: list[Var]) -> list[list[bool]]:
    bits = [1 << i for i in range(len(roots))]
    marks = dict(zip(roots, bits))
    found = ACTIVITY.results(jaxpr, [marks.get(v, 0) for v in jaxpr.invars])
    return [[bool(m & bit) for bit in bits] for m in found]
