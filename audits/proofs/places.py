"""Placements: confirms in one pass that a program follows the placement rules.

Each equation is visited once. The placements of operands and results are read from the evidence and
compared with the few rules below. Nothing is searched for: the evidence states what loops carry.

    K public, S server, B a client's copy of a broadcast, C a client's own

Source: proof-carrying code, where the consumer checks a proof that the producer had to find.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from audits.proofs.limits import limit_of
from audits.proofs.programs import Atom, Body, Constant, Equation
from audits.rules.families import ACCEPTING, DECISIONS

ABOVE = {"K": "KSBC", "S": "S", "B": "BC", "C": "C"}


class VerificationError(Exception):
    """The evidence does not prove the statement; the message names the equation."""


@dataclasses.dataclass(frozen=True)
class Sent:
    """One leaf of a message.

    Attributes:
      equation: The message.
      operand: The variable that is sent.
      count: How often it is executed.
    """

    equation: Equation
    operand: int
    count: int

    @property
    def statement(self) -> tuple:
        """As a certificate states it: kind, name, shape, dtype, bytes and count."""
        aval = self.equation.body.aval(self.operand)
        equation = self.equation
        nbytes = aval.nbytes
        return equation.kind, equation.label, aval.shape, aval.dtype, nbytes, self.count


@dataclasses.dataclass(frozen=True)
class _Place:
    path: tuple
    count: int = 1
    by_client: bool = False

    def inside(self, *steps: Any, **changes: Any) -> "_Place":
        return dataclasses.replace(self, path=(*self.path, *steps), **changes)

    def __str__(self) -> str:
        return "/".join(map(str, self.path))


class Places:
    """The confirmed placements of a program.

    Attributes:
      letters: Of every body, those of its variables.
      messages: The leaves of all messages; of branches that send different ones, the largest.
      sums: Every sum of client values, with how often it is executed; 0 in a branch that sends less.
    """

    def __init__(self, evidence: Mapping[str, str], obligations: frozenset[str]):
        self.evidence = evidence
        self.obligations = obligations
        self.letters: dict[Body, str] = {}
        self.messages: list[Sent] = []
        self.sums: list[Sent] = []
        self.limits: dict[Equation, int] = {}

    def confirm(self, body: Body, inputs: Sequence[str]) -> list[str]:
        """The placements of the results.

        Raises:
          VerificationError: At the first equation that breaks a rule.
        """
        return self._body(body, inputs, _Place(()))

    def of(self, body: Body, atom: Atom) -> str:
        """The placement of a value."""
        return "K" if isinstance(atom, Constant) else self.letters[body][atom]

    def _body(self, body: Body, inputs: Sequence[str], place: _Place) -> list[str]:
        letters = self.evidence.get(str(place), "")
        if len(letters) != len(body.avals) or set(letters) - set(ABOVE):
            raise self._wrong(place, "no evidence for this part")
        self.letters[body] = letters
        for variable, letter in zip(body.inputs, inputs, strict=True):
            self._at_most(letter, letters[variable], place)
        for equation in body.equations:
            self._equation(equation, place.inside(equation.position))
        return [self.of(body, atom) for atom in body.results]

    def _equation(self, equation: Equation, place: _Place) -> None:
        ins = [self.of(equation.body, atom) for atom in equation.inputs]
        outs = [self.letters[equation.body][v] for v in equation.outputs]
        if equation.kind in ("broadcast", "sum"):
            self._message(equation, ins, outs, place)
            return
        family = DECISIONS.get(equation.name, "")
        if family not in ACCEPTING:
            raise self._wrong(place, f"primitive {equation.primitive!r} is not accepted")
        if family in ("psum", "extremum_collective"):
            axes = equation.params["axes"]
            if any(type(axis) is not int for axis in axes[2]):
                raise self._wrong(place, "a collective over a named axis")
        for letter, stated in zip(self._results(equation, family, ins, place), outs, strict=True):
            self._at_most(letter, stated, place)

    def _results(self, equation: Equation, family: str, ins: list[str], place: _Place) -> list[str]:
        match equation.kind:
            case "scan":
                return self._scan(equation, ins, place)
            case "while":
                return self._while(equation, ins, place)
            case "cond":
                return self._cond(equation, ins, place)
            case "solve":
                return self._solve(equation, ins, place)
            case "call":
                return self._call(equation, ins, place)
        if any(body.communicates for body in equation.programs.values()):
            raise self._wrong(place, f"messages inside {equation.primitive!r}")
        if family == "identity":
            return list(ins)
        return [self._join(ins, place)] * len(equation.outputs)

    def _message(self, equation: Equation, ins: list[str], outs: list[str], place: _Place) -> None:
        down = equation.kind == "broadcast"
        if place.by_client:
            raise self._wrong(place, "a message under client control")
        for atom, letter, stated in zip(equation.inputs, ins, outs, strict=True):
            if isinstance(atom, Constant) or letter == "K":
                self._at_most("K" if down else "S", stated, place)
                continue
            if letter not in ("S" if down else "BC"):
                raise self._wrong(place, f"a message of a value at {letter}")
            self._at_most("B" if down else "S", stated, place)
            sent = Sent(equation, atom, place.count)
            self.messages.append(sent)
            if not down:
                self.sums.append(sent)

    def _call(self, equation: Equation, ins: list[str], place: _Place) -> list[str]:
        if len(equation.programs) != 1:
            raise self._wrong(place, "a call with several bodies")
        (body,) = equation.programs.values()
        return self._body(body, ins, place)

    def _solve(self, equation: Equation, ins: list[str], place: _Place) -> list[str]:
        """Only the `solve` program of a linear solve runs; the others serve its derivative."""
        lengths = equation.params["const_lengths"][2]
        first = lengths[0] + lengths[1]
        right = sum(lengths)
        solve = equation.programs.get("jaxprs.2")
        if solve is None:
            raise self._wrong(place, "a solve without a program")
        operands = [*ins[first : first + lengths[2]], *ins[right:]]
        return self._body(solve, operands, place.inside("solve"))

    def _cond(self, equation: Equation, ins: list[str], place: _Place) -> list[str]:
        index, operands = ins[0], ins[1:]
        by_client = place.by_client or index in "BC"
        outside, sums = self.messages, self.sums
        schedules, counted, columns = [], [], []
        for position, branch in enumerate(equation.programs.values()):
            self.messages, self.sums = [], []
            inner = place.inside(f"branch{position}", by_client=by_client)
            columns.append(self._body(branch, operands, inner))
            schedules.append(self.messages)
            counted.append(self.sums)
        # The certificate states the messages of the branch that sends most.
        kinds = [
            sorted((k, shape, dtype, n) for k, _, shape, dtype, _, n in _stated(s))
            for s in schedules
        ]
        largest = schedules[0]
        if any(kind != kinds[0] for kind in kinds):
            self._admitted("FAD205", "branches communicate differently", place)
            largest = max(schedules, key=lambda s: sum(size * n for *_, size, n in _stated(s)))
        self.messages = outside + largest
        self.sums = sums + [
            sent if schedule is largest else dataclasses.replace(sent, count=0)
            for schedule, found in zip(schedules, counted)
            for sent in found
        ]
        return [self._join([index, *column], place) for column in zip(*columns, strict=True)]

    def _scan(self, equation: Equation, ins: list[str], place: _Place) -> list[str]:
        inner = place.inside("body", count=place.count * equation.number("length"))
        constants, carries = equation.number("num_consts"), equation.number("num_carry")
        return self._loop(equation.programs["jaxpr"], ins, constants, carries, inner)

    def _while(self, equation: Equation, ins: list[str], place: _Place) -> list[str]:
        conds, bodies = equation.number("cond_nconsts"), equation.number("body_nconsts")
        body, test = equation.programs["body_jaxpr"], equation.programs["cond_jaxpr"]
        carries = len(ins) - conds - bodies
        inner = place.inside("body")
        held = self._carried(body, bodies, carries, inner)
        (decided,) = self._body(test, [*ins[:conds], *held], place.inside("test"))
        if test.communicates:
            raise self._wrong(place, "messages in the predicate of a loop")
        limit = limit_of(equation)
        count = 1 if limit is None else max(limit.iterations, 1)
        self.limits[equation] = count
        by_client = place.by_client or decided in "BC"
        looped = dataclasses.replace(inner, by_client=by_client, count=place.count * count)
        before = len(self.messages)
        out = self._loop(body, ins[conds:], bodies, carries, looped)
        if len(self.messages) > before:
            if limit is None:
                raise self._wrong(place, "messages in a loop without a limit")
            if not limit.exact:
                self._admitted("FAD204", "a loop may end before its limit", place)
        return [self._join([decided, letter], place) for letter in out]

    def _carried(self, body: Body, constants: int, carries: int, place: _Place) -> str:
        first = body.constants + constants
        return self.evidence.get(str(place), "")[first : first + carries]

    def _loop(
        self, body: Body, ins: list[str], constants: int, carries: int, place: _Place
    ) -> list[str]:
        """The stated carries must hold before the loop and be preserved by one iteration."""
        held = self._carried(body, constants, carries, place)
        out = self._body(body, ins, place)
        for letter, stated in zip(out[:carries], held, strict=True):
            self._at_most(letter, stated, place)
        return [*held, *out[carries:]]

    def _join(self, letters: Sequence[str], place: _Place) -> str:
        found = set(letters) - {"K"}
        if "S" in found and found - {"S"}:
            raise self._wrong(place, "FAD102: a server value meets a client value")
        return "C" if "C" in found else next(iter(found), "K")

    def _at_most(self, letter: str, stated: str, place: _Place) -> None:
        if stated not in ABOVE[letter]:
            raise self._wrong(place, f"a value at {letter} is stated to be at {stated}")

    def _admitted(self, rule: str, what: str, place: _Place) -> None:
        """The certificate must state the obligation, because its messages are only a limit."""
        if rule not in self.obligations:
            raise self._wrong(place, f"{what}, but the certificate does not state {rule}")

    def _wrong(self, place: _Place, what: str) -> VerificationError:
        return VerificationError(f"At equation {str(place) or 'start'}: {what}.")


def _stated(messages: Sequence[Sent]) -> list[tuple]:
    return [sent.statement for sent in messages]
