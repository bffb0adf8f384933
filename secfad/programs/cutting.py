"""Cutting: from a placed program to the separate programs of server and clients.

A program is cut at its communication, tick by tick (`secfad.programs.scheduling`). What depends on no
argument is copied into every stage that reads it, because both sides can compute it.
"""

import dataclasses
from collections.abc import Sequence

from secfad._jax import Var
from secfad.errors import TracingError
from secfad.jaxprs.equations import Sum, View
from secfad.jaxprs.inside import variables
from secfad.jaxprs.slices import leading_to
from secfad.placements import CLIENTS, SERVER, Placement
from secfad.programs.placed import Placed
from secfad.programs.retention import retained
from secfad.programs.scheduling import timetable
from secfad.programs.stages import Nested, Round, Schedule, Stage, stage_of


def schedule(placed: Placed) -> Schedule:
    """Cuts a program into stages and rounds, with the fewest rounds, and says what clients keep."""
    return retained(_cut(placed))


def _cut(placed: Placed) -> Schedule:
    return _Cutter(placed).schedule()


class _Cutter:
    def __init__(self, placed: Placed):
        self.placed = placed
        self.table = timetable(placed)
        self.inputs = set(placed.inputs)
        self.computed = {v for step in self.table.constants for v in step.outputs}
        self.readers = self._readers()

    def schedule(self) -> Schedule:
        for step in self.table.sizes:
            self._require_known(step)
        items: list[Stage | Round | Nested] = []
        shared = self._shared_constants()
        constants = self.stage(None, (), shared) if shared else None
        for tick in self.table.ticks:
            if tick.server:
                items.append(self.stage(SERVER, tick.server, self._needed(tick.server)))
            if tick.downloads or tick.client or tick.uploads:
                client = self.stage(CLIENTS, tick.client, self._needed(tick.client))
                items.append(Round(tick.downloads, client, tick.uploads))
            for step in tick.driven:
                items.append(Nested(step, tuple(map(_cut, self.placed.bodies(step)))))
        return Schedule(self.placed, self.table.sizes, tuple(items), constants)

    def _require_known(self, step: Sum) -> None:
        """A sum of constants needs no round, so nothing in it may come out of one."""
        known = {*self.inputs, *self.computed, *self.placed.constants}
        if not known.issuperset(variables(step.inputs)):
            raise TracingError(
                f"{step.line}: `sum` named {step.name!r} expected a client value or a constant, got what "
                "only a loop before it knows, such as its counter. Multiply it by the number of "
                "clients, secfad.sum(1.0), instead."
            )

    def _readers(self) -> dict[Var, set[int]]:
        """Who reads each variable, as ids of groups of steps."""
        readers: dict[Var, set[int]] = {v: {-1} for v in self.placed.results if isinstance(v, Var)}
        for tick in self.table.ticks:
            for field in dataclasses.fields(tick):
                group = getattr(tick, field.name)
                for variable in variables(v for step in group for v in step.inputs):
                    readers.setdefault(variable, set()).add(id(group))
        return readers

    def _needed(self, group: tuple[View, ...]) -> list[Var]:
        """Results of these steps that anything else reads."""
        own = {id(group)}
        return [v for s in group for v in s.outputs if self.readers.get(v, own) - own]

    def _shared_constants(self) -> list[Var]:
        """Constants that a message, a loop or the result needs by themselves."""
        atoms = [*self.placed.results, *(v for step in self.table.sizes for v in step.inputs)]
        for tick in self.table.ticks:
            atoms += [v for step in (*tick.uploads, *tick.driven) for v in step.inputs]
        wanted = dict.fromkeys(v for v in variables(atoms) if v in self.computed)
        return list(wanted)

    def stage(
        self, placement: Placement | None, steps: Sequence[View], outputs: Sequence[Var]
    ) -> Stage:
        atoms = [*outputs, *(v for step in steps for v in step.inputs)]
        constants = leading_to([step.equation for step in self.table.constants], atoms)
        equations = [*constants, *(step.equation for step in steps)]
        return stage_of(placement, equations, outputs, self.placed.constants)
