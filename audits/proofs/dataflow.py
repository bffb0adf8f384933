"""Dataflow over programs as data: what every value depends on, as a set of anything.

Calls mean their bodies, branches are united, carries of loops are united with what comes back until
nothing changes. It is written apart from the one of `secfad`, so that neither checks itself.
"""

from collections.abc import Sequence
from typing import Any

from audits.proofs.programs import Atom, Body, Constant, Equation

Marks = frozenset[Any]
NOTHING: Marks = frozenset()


def union(given: Sequence[Marks]) -> Marks:
    """What any of them has; the same object where all are equal."""
    some = [g for g in given if g]
    if not some:
        return NOTHING
    first = some[0]
    return first if all(g is first for g in some) else first.union(*some[1:])


class Dataflow:
    """One analysis; remembers what it found of every body."""

    def __init__(self) -> None:
        self._found: dict[tuple[Body, tuple[Marks, ...]], list[Marks]] = {}

    def results(self, body: Body, given: Sequence[Marks]) -> list[Marks]:
        """Marks of the results, given those of the inputs."""
        key = body, tuple(given)
        if key not in self._found:
            env = self.variables(body, given)
            self._found[key] = [_read(env, atom) for atom in body.results]
        return self._found[key]

    def variables(self, body: Body, given: Sequence[Marks]) -> dict[int, Marks]:
        """Marks of every variable."""
        env = dict(zip(body.inputs, given))
        for equation in body.equations:
            made = self.outputs(equation, [_read(env, a) for a in equation.inputs])
            env.update(zip(equation.outputs, made))
        return env

    def outputs(self, equation: Equation, given: list[Marks]) -> list[Marks]:
        """Marks of the results of an equation."""
        if not any(given) and not equation_communicates(equation):
            return [NOTHING] * len(equation.outputs)
        match equation.kind:
            case "broadcast" | "sum":
                return given
            case "call":
                (body,) = equation.programs.values()
                return self.results(body, given)
            case "scan":
                entering = self.entering(equation, given)
                first = equation.number("num_consts")
                carry = entering[first : first + equation.number("num_carry")]
                ys = self.results(equation.programs["jaxpr"], entering)[len(carry) :]
                return [*carry, *ys]
            case "while":
                entering = self.entering(equation, given)
                conds, bodies = equation.number("cond_nconsts"), equation.number("body_nconsts")
                carry = entering[conds + bodies :]
                test = equation.programs["cond_jaxpr"]
                decided = self.results(test, [*entering[:conds], *carry])[0]
                return [union([decided, c]) for c in carry]
            case "cond":
                rows = [self.results(b, given[1:]) for b in equation.programs.values()]
                return [union([given[0], *column]) for column in zip(*rows)]
        return [union(given)] * len(equation.outputs)

    def entering(self, loop: Equation, given: Sequence[Marks]) -> list[Marks]:
        """Marks of the operands of a loop in any iteration."""
        if loop.kind == "scan":
            before, count = loop.number("num_consts"), loop.number("num_carry")
            head, tail, body = [], list(given[before + count :]), loop.programs["jaxpr"]
            constants = list(given[:before])
        else:
            before, count = loop.number("cond_nconsts"), len(given)
            head, body, tail = list(given[:before]), loop.programs["body_jaxpr"], []
            constants = list(given[before : before + loop.number("body_nconsts")])
            before += len(constants)
        carry = list(given[before : before + count])
        while True:
            later = self.results(body, [*constants, *carry, *tail])[: len(carry)]
            joined = [union([a, b]) for a, b in zip(carry, later)]
            if joined == carry:
                return [*head, *constants, *carry, *tail]
            carry = joined


def equation_communicates(equation: Equation) -> bool:
    """Whether an equation is a message or holds one."""
    if equation.kind in ("broadcast", "sum"):
        return True
    return any(body.communicates for body in equation.programs.values())


def _read(env: dict[int, Marks], atom: Atom) -> Marks:
    return NOTHING if isinstance(atom, Constant) else env.get(atom, NOTHING)
