"""State: what clients keep from one contact to a later one, and how many contacts there are.

A client value that depends on anything that the server sent, and that a later contact needs, is state:
only the client that has it can go on. What follows from a client's own data alone can be computed again.

Source: Rush, Charles, Garrett (JMLR 2024), section 3.4.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate

from audits.proofs.dataflow import NOTHING, Dataflow, Marks, equation_communicates
from audits.proofs.programs import Atom, Body, Equation
from audits.proofs.timing import Contact, Driven, Timetable, Timing

_SENT: Marks = frozenset(["sent"])


@dataclasses.dataclass(frozen=True)
class Costs:
    """Contacts in which clients send, and bytes that clients keep between contacts."""

    rounds: float
    state_bytes: float


class State:
    """Counts rounds and follows what clients received."""

    def __init__(self, timing: Timing):
        self.timing = timing
        self.limits = timing.places.limits
        self.received = _Received(timing)

    def costs(self, table: Timetable) -> Costs:
        """Of one evaluation."""
        kept = self._table(table, [NOTHING] * len(table.body.inputs))
        return Costs(self._rounds(table), kept)

    def phases(self, table: Timetable, before: int = 0) -> Iterator[int]:
        """The phase of every leaf of a message, in program order.

        Of a sum it is the number of the round that carries it, of a broadcast the number of rounds
        before it; in a loop that of the last iteration.
        """
        when: dict[Equation, int] = {}
        inside: dict[Equation, tuple[Driven, int]] = {}
        for item in table.items:
            if isinstance(item, Contact):
                when |= dict.fromkeys(item.downloads, before)
                when |= dict.fromkeys(item.uploads, before + 1)
            else:
                inside[item.equation] = item, before
            before += self._counted(item)
        for equation in table.body.equations:
            if equation in inside:
                item, start = inside[equation]
                for body in item.bodies:
                    again = self._counted_rounds(body) * (self._iterations(item) - 1)
                    yield from self.phases(body, start + again)
            elif equation.kind == "broadcast":
                yield from [when[equation]] * len(equation.outputs)
            elif equation.kind == "sum" and equation in when:
                yield from [when[equation]] * len(self.timing.sends(equation))

    def _counted(self, item: Contact | Driven) -> int:
        """Rounds of an item, where a loop runs as often as the certificate states."""
        if isinstance(item, Contact):
            return int(self._is_round(item))
        each = [self._counted_rounds(body) for body in item.bodies]
        most = max(each) if item.equation.kind == "cond" else sum(each)
        return most * self._iterations(item)

    def _counted_rounds(self, table: Timetable) -> int:
        return sum(map(self._counted, table.items))

    def _iterations(self, item: Driven) -> int:
        if item.equation.kind == "scan":
            return item.equation.number("length")
        return self.limits.get(item.equation, 1)

    def _is_round(self, contact: Contact) -> bool:
        return any(self.timing.sends(e) for e in contact.uploads)

    def _rounds(self, table: Timetable) -> float:
        """Rounds; infinite where a `while` loop decides."""
        total = 0.0
        for item in table.items:
            if isinstance(item, Contact):
                total += self._is_round(item)
                continue
            each = [self._rounds(body) for body in item.bodies]
            match item.equation.kind:
                case "cond":
                    total += max(each)
                case "scan":
                    total += _times(each[0], item.equation.number("length"))
                case _:
                    total += _times(sum(each), math.inf)
        return total

    # What clients keep.

    def _table(
        self,
        table: Timetable,
        received: Sequence[Marks],
        carried: Collection[int] = (),
        again: Iterable[Atom] = (),
    ) -> float:
        """The most bytes that clients keep between two contacts of a body.

        Args:
          table: Its timetable.
          received: Marks of its inputs.
          carried: Inputs that replace one another from iteration to iteration.
          again: Results that the next iteration needs.
        """
        body = table.body
        marks = self.received.variables(body, received)
        known = {v for v, mark in marks.items() if mark}
        contacts = list(accumulate(int(_is_contact(item)) for item in table.items))
        last = {v: k for k, item in enumerate(table.items) for v in self._read(item)}
        end = contacts[-1] + 1 if contacts and contacts[-1] else 0
        due = {v: contacts[k] for v, k in last.items() if v in known}
        due.update((v, end) for v in again if isinstance(v, int) and v in known)
        kept = [v for v in carried if due.get(v, 0) > 0]
        most = 0.0
        for item, now in zip(table.items, contacts):
            before = kept
            kept = [v for v in (*kept, *_defined(item)) if due.get(v, 0) > now]
            held = _nbytes(body, kept)
            if isinstance(item, Driven):
                held = max(held, self._driven(item, body, known, before, kept))
            most = max(most, held)
        return most

    def _driven(
        self, item: Driven, body: Body, known: set[int], before: list[int], after: list[int]
    ) -> float:
        equation = item.equation
        flags = [_SENT if a in known else NOTHING for a in equation.inputs]
        given = self.received.inside(equation, flags)
        rows = zip(item.bodies, given, _iterated(equation))
        inside = [self._table(table, marks, *rest) for table, marks, rest in rows]
        constants, carry = _regions(equation)
        entering = {*_variables(carry)} - {*_variables(constants)}
        leaving = equation.outputs[: len(carry)]
        held = {v for v in before if v not in entering} | {v for v in after if v not in leaving}
        # A loop that never runs keeps nothing of its body.
        runs = equation.kind != "scan" or equation.number("length") > 0
        return _nbytes(body, held) + (max(inside, default=0.0) if runs else 0.0)

    def _read(self, item: Contact | Driven) -> set[int]:
        """What clients, or control flow that they take part in, read."""
        if isinstance(item, Driven):
            return {*_variables(item.equation.inputs)}
        atoms = [a for e in (*item.client, *item.uploads) for a in e.inputs]
        own = {v for e in item.client for v in e.outputs}
        sent = {v for e in item.uploads for v in _variables(e.inputs)}
        return ({*_variables(atoms)} - own) | sent


def _is_contact(item: Contact | Driven) -> bool:
    return item.happens if isinstance(item, Contact) else equation_communicates(item.equation)


def _defined(item: Contact | Driven) -> tuple[int, ...]:
    if isinstance(item, Driven):
        return item.equation.outputs
    return tuple(v for e in (*item.downloads, *item.client) for v in e.outputs)


def _regions(equation: Equation) -> tuple[list[Atom], list[Atom]]:
    """The operands apart from carries, and the carries."""
    match equation.kind:
        case "scan":
            constants, carry, rows = equation.split("num_consts", "num_carry")
            return [*constants, *rows], list(carry)
        case "while":
            tested, constants, carry = equation.split("cond_nconsts", "body_nconsts")
            return [*tested, *constants], list(carry)
    return list(equation.inputs), []


def _iterated(equation: Equation) -> list[tuple[tuple[int, ...], tuple[Atom, ...]]]:
    """For each body, the inputs that are carried, and what it hands to the next iteration."""
    programs = equation.programs
    match equation.kind:
        case "scan":
            body, length = programs["jaxpr"], equation.number("length")
            first, count = equation.number("num_consts"), equation.number("num_carry")
            results = body.results[:count] if length > 1 else ()
            return [(body.inputs[first : first + count], results)]
        case "while":
            test, body = programs["cond_jaxpr"], programs["body_jaxpr"]
            carried = body.inputs[equation.number("body_nconsts") :]
            found = {
                "cond_jaxpr": (test.inputs[equation.number("cond_nconsts") :], ()),
                "body_jaxpr": (carried, body.results),
            }
            return [found[name] for name in programs]
    return [((), ())] * len(programs)


class _Received(Dataflow):
    """Which client values depend on anything that the server sent."""

    def __init__(self, timing: Timing):
        super().__init__()
        self.timing = timing
        self.plain = Dataflow()

    def outputs(self, equation: Equation, given: list[Marks]) -> list[Marks]:
        made = self._outputs(equation, given)
        body = equation.body
        return [
            m if self.timing.at_clients(body, v) else NOTHING
            for m, v in zip(made, equation.outputs)
        ]

    def _outputs(self, equation: Equation, given: list[Marks]) -> list[Marks]:
        if equation.kind == "broadcast":
            return [_SENT] * len(given)
        if equation.kind == "sum":
            return [NOTHING] * len(given)
        if not self.timing.is_driven(equation):
            return self.plain.outputs(equation, given)
        if equation.kind == "cond":
            return [_SENT] * len(equation.outputs)
        if equation.kind == "while":
            # Where the server decides how often, it decides about what changes.
            entering = self.entering(equation, given)
            first = equation.number("cond_nconsts") + equation.number("body_nconsts")
            body = equation.programs["body_jaxpr"]
            inputs = body.inputs[equation.number("body_nconsts") :]
            changed = [v != r for v, r in zip(inputs, body.results)]
            return [_SENT if c else m for c, m in zip(changed, entering[first:])]
        return super().outputs(equation, given)

    def inside(self, equation: Equation, flags: Sequence[Marks]) -> list[list[Marks]]:
        """Which inputs of each body are received."""
        if equation.kind == "cond":
            return [list(flags[1:])] * len(equation.programs)
        entering = self.entering(equation, flags)
        if equation.kind == "scan":
            return [entering]
        conds, bodies = equation.number("cond_nconsts"), equation.number("body_nconsts")
        carry = entering[conds + bodies :]
        found = {
            "cond_jaxpr": [*entering[:conds], *carry],
            "body_jaxpr": [*entering[conds : conds + bodies], *carry],
        }
        return [found[name] for name in equation.programs]


def _variables(atoms: Iterable[Atom]) -> Iterator[int]:
    return (a for a in atoms if isinstance(a, int))


def _nbytes(body: Body, variables: Iterable[int]) -> float:
    return sum(body.avals[v].nbytes for v in variables)


def _times(value: float, count: float) -> float:
    return 0.0 if value == 0 or count == 0 else value * count
