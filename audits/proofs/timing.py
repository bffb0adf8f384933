"""Timing: in which contact with the clients each message of a program travels.

Time is counted in ticks. In each one the server computes and sends, the clients compute and answer, and
then loops that communicate run. Every message goes as early as its data allow; only a sum of tangents waits
for that of the values. Client work that nobody needs yet waits until its first use. This is the schedule
that `secfad` cuts a program into, derived again from the program as data.

Source: Rush, Charles, Garrett (JMLR 2024), Figs. 3-5.
"""

import dataclasses
import itertools
from collections.abc import Iterator

from audits.proofs.dataflow import equation_communicates
from audits.proofs.places import Places
from audits.proofs.programs import Atom, Body, Equation

TANGENT, COTANGENT = ".tangent", ".cotangent"


@dataclasses.dataclass(eq=False)
class Contact:
    """One contact: what clients receive, compute and send."""

    downloads: list[Equation]
    client: list[Equation]
    uploads: list[Equation]

    @property
    def happens(self) -> bool:
        """Whether anything is sent."""
        return bool(self.downloads or self.uploads)


@dataclasses.dataclass(eq=False)
class Driven:
    """Control flow that the server runs, with the clients taking part in its bodies."""

    equation: Equation
    bodies: "list[Timetable]"


@dataclasses.dataclass(eq=False)
class Timetable:
    """Contacts and driven control flow of one body, in order."""

    body: Body
    items: list[Contact | Driven]

    def contacts(self) -> Iterator[Contact]:
        """All contacts, at any depth."""
        for item in self.items:
            if isinstance(item, Contact):
                yield item
            else:
                for body in item.bodies:
                    yield from body.contacts()


class Timing:
    """Makes the timetables of a program with confirmed placements."""

    def __init__(self, places: Places):
        self.places = places

    def at_clients(self, body: Body, atom: Atom) -> bool:
        """Whether a value is at the clients."""
        return self.places.of(body, atom) in "BC"

    def sends(self, equation: Equation) -> list[Atom]:
        """What a sum adds up over the clients."""
        return [a for a in equation.inputs if self.at_clients(equation.body, a)]

    def side(self, equation: Equation) -> str:
        """`clients`, `server`, or nothing for what both can compute."""
        atoms = equation.outputs or equation.inputs
        found = {_SIDES[self.places.of(equation.body, a)] for a in atoms} - {""}
        return found.pop() if len(found) == 1 else ""

    def is_driven(self, equation: Equation) -> bool:
        """Whether the server runs an equation of control flow together with the clients."""
        if equation.kind not in ("scan", "while", "cond"):
            return False
        sides = {_SIDES[self.places.of(equation.body, a)] for a in equation.inputs} - {""}
        return len(sides) > 1 or equation_communicates(equation)

    def timetable(self, body: Body) -> Timetable:
        """The timetable of a body and of those that it drives."""
        earliest = self._earliest(body)
        columns = {e: self._column(e) for e in earliest}
        when = _postponed(body, earliest, columns)
        ticks = [Contact([], [], []) for _ in range(max(when.values(), default=0) + 1)]
        driven: list[list[Driven]] = [[] for _ in ticks]
        for equation in body.equations:
            if equation not in when:
                continue
            column, tick = columns[equation], when[equation]
            if column == "driven":
                inner = [self.timetable(b) for b in equation.programs.values()]
                driven[tick].append(Driven(equation, inner))
            elif column != "server":
                getattr(ticks[tick], column).append(equation)
        items: list[Contact | Driven] = []
        for contact, loops in zip(ticks, driven):
            if contact.downloads or contact.client or contact.uploads:
                items.append(contact)
            items += loops
        return Timetable(body, items)

    def _column(self, equation: Equation) -> str:
        if equation.kind in _COLUMNS:
            return _COLUMNS[equation.kind]
        if self.is_driven(equation):
            return "driven"
        return "client" if self.side(equation) == "clients" else "server"

    def _earliest(self, body: Body) -> dict[Equation, int]:
        """The first tick of each equation that is neither a constant nor a sum of constants."""
        ready: dict[int, int] = dict.fromkeys(body.inputs, 0)
        earliest: dict[Equation, int] = {}
        values = _values_of_tangents(body)
        for equation in body.equations:
            now = max((ready.get(a, 0) for a in equation.inputs if isinstance(a, int)), default=0)
            later = now
            is_sum = equation.kind == "sum"
            if is_sum and equation in values:
                now = max(now, earliest.get(values[equation], 0))
            if is_sum and all(self.places.of(body, a) == "K" for a in equation.inputs):
                pass
            elif is_sum or self.is_driven(equation):
                earliest[equation] = now
                later = now + 1
            elif now or self.side(equation):
                earliest[equation] = now
            ready.update(dict.fromkeys(equation.outputs, later))
        return earliest


_SIDES = {"K": "", "S": "server", "B": "clients", "C": "clients"}
_COLUMNS = {"broadcast": "downloads", "sum": "uploads"}


def _values_of_tangents(body: Body) -> dict[Equation, Equation]:
    """The sum of values that each sum of tangents belongs to, if it comes first."""
    sums = [e for e in body.equations if e.kind == "sum"]
    position = {e: k for k, e in enumerate(sums)}
    named: dict[str, list[Equation]] = {}
    for equation in sums:
        named.setdefault(equation.label, []).append(equation)
    found = {
        tangent: value
        for value, tangent in itertools.pairwise(body.equations)
        if value.kind == tangent.kind == "sum" and tangent.label == value.label + TANGENT
    }
    for name, tangents in named.items():
        values = named.get(name.removesuffix(TANGENT), [])
        if not name.endswith(TANGENT) or not values:
            continue
        for number, tangent in enumerate(tangents):
            before = [v for v in values if position[v] < position[tangent]]
            if before and tangent not in found:
                in_order = len(values) == len(tangents) and values[number] in before
                found[tangent] = values[number] if in_order else before[-1]
    return found


def _postponed(
    body: Body, earliest: dict[Equation, int], columns: dict[Equation, str]
) -> dict[Equation, int]:
    """Moves client work and downloads to the tick of their first use."""
    first_use: dict[int, int] = {}
    when = dict(earliest)
    for equation in reversed(body.equations):
        if equation not in earliest:
            continue
        if columns[equation] in ("downloads", "client"):
            uses = [first_use[v] for v in equation.outputs if v in first_use]
            when[equation] = max(min(uses, default=earliest[equation]), earliest[equation])
        for atom in equation.inputs:
            if isinstance(atom, int):
                first_use[atom] = min(first_use.get(atom, when[equation]), when[equation])
    return when
