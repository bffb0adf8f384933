"""Hoisting: a choice between client values becomes a choice between what the server broadcasts.

Mixed mode must see from each sum back to the broadcasts that it depends on. A choice by the server
whose branches make client values hides them. Here the server chooses among its own values only and
broadcasts what it chose; the clients then do their part of the branch, by the number of the branch,
which is broadcast too. Where the branches end in the broadcasts themselves, no number is needed.
Values of one shape that different branches broadcast share one message; zeros stand for those that
the branch taken has not. What a branch also adds up itself is broadcast inside it and again after it.
"""

import collections
import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn, Literal, Var
from secfad._jax_interpreters import dce
from secfad.jaxprs.rewriting import renamed
from secfad.placements import CLIENTS, SERVER, Placement
from secfad.programs.blocks import Atom, Block, Branch, Broadcast, Local, Step

_jax.hide_file_from_tracebacks(__file__)

# What the message is called that tells clients which branch was taken.
NUMBER = "branch"


@dataclasses.dataclass(frozen=True, eq=False)
class Hoisted:
    """What stands for a choice.

    Attributes:
      steps: In order; together with `aliases` they define every output of the choice.
      placements: Of every variable that the steps define.
      constants: Values that the steps capture.
      aliases: Outputs of the choice that are other values of the steps or of the block around.
    """

    steps: list[Step]
    placements: dict[Var, Placement | None]
    constants: dict[Var, Any]
    aliases: dict[Var, Atom]


def hoisted(step: Branch, placements: Mapping[Var, Placement | None]) -> Hoisted:
    """The steps of a choice, with the client code of its branches after it.

    Args:
      step: A choice with results at the clients. Of these, what a loop inside a branch made stays a
        result of the branch, so that it must not be differentiated.
      placements: Of the block in which it stands.
    """
    return _Hoisting(step, placements).done()


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """What clients compute in one branch.

    Attributes:
      results: The client results of the branch.
      equations: What leads to them.
      received: The clients' copies that they start from, with the name and the server's value.
      kept: Client values that loops inside the branch make.
      entering: Values from outside, as variables of the branch and of the block around it.
      captured: Constants of the branch.
    """

    results: list[Atom]
    equations: list[JaxprEqn]
    received: dict[Var, tuple[str, Atom]]
    kept: list[Var]
    entering: dict[Var, Var]
    captured: dict[Var, Any]

    def fun(self, rows: Sequence[int], now: Mapping[Var, Var], operands: list) -> Callable:
        """Some of the results, as a function of the values that stand for those of the branch."""
        jaxpr = _jax.new_jaxpr(
            list(now), [self.results[i] for i in rows], self.equations, list(self.captured)
        )
        places = [operands.index(atom) for atom in now.values()]
        values = list(self.captured.values())
        return lambda *xs: _jax.eval_jaxpr(jaxpr, values, *(xs[i] for i in places))


def _part(branch: Block, outer: Sequence[Atom], chosen: Sequence[int]) -> _Part:
    results = [branch.results[i] for i in chosen]
    needed = {v for v in results if isinstance(v, Var)}
    equations: list[JaxprEqn] = []
    received: dict[Var, tuple[str, Atom]] = {}
    kept: list[Var] = []
    for step in reversed(branch.steps):
        mine = needed.intersection(step.outputs)
        if not mine:
            continue
        match step:
            case Local():
                equations.append(step.equation)
                needed.update(v for v in step.inputs if isinstance(v, Var))
            case Broadcast():
                pairs = list(zip(step.inputs, step.outputs))[::-1]
                received.update((v, (step.name, source)) for source, v in pairs if v in mine)
            case _:
                kept += [v for v in step.outputs if v in mine]
    given = {v: atom for v, atom in zip(branch.inputs, outer) if v in needed}
    captured = {v: value for v, value in branch.constants.items() if v in needed}
    captured.update((v, _value(atom)) for v, atom in given.items() if isinstance(atom, Literal))
    entering = {v: atom for v, atom in given.items() if isinstance(atom, Var)}
    received = dict(reversed(received.items()))
    return _Part(results, equations[::-1], received, kept, entering, captured)


def _value(literal: Literal) -> Any:
    return np.asarray(literal.val, _jax.spec(literal.aval).dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class _Slot:
    """A result of the new choice, with the value of each branch that has one, by its number."""

    chosen: Var
    values: dict[int, Atom]


class _Hoisting:
    """One choice while it is rewritten."""

    def __init__(self, step: Branch, placements: Mapping[Var, Placement | None]):
        self.step = step
        index = step.inputs[0]
        self.told = isinstance(index, Var) and placements[index] is SERVER
        self.client = [i for i, v in enumerate(step.outputs) if placements[v] is CLIENTS]
        self.parts = [_part(b, step.inputs[1:], self.client) for b in step.branches]
        # For every branch, what stands after the choice for its client values.
        self.now: list[dict[Var, Var]] = [dict(part.entering) for part in self.parts]
        self.slots: list[_Slot] = []
        self.placements: dict[Var, Placement | None] = {v: placements[v] for v in step.outputs}
        self.constants: dict[Var, Any] = {}

    def done(self) -> Hoisted:
        messages = self._messages()
        for number, part in enumerate(self.parts):
            for variable in part.kept:
                slot = self._slot(variable, CLIENTS)
                slot.values[number] = variable
                self.now[number][variable] = slot.chosen
        aliases, code = self._client_code()
        steps = [self._choice(), *messages, *code]
        return Hoisted(steps, self.placements, self.constants, aliases)

    def _new(self, like: Atom, placement: Placement | None) -> Var:
        variable = Var(like.aval)
        self.placements[variable] = placement
        return variable

    def _slot(self, like: Atom, placement: Placement) -> _Slot:
        self.slots.append(_Slot(self._new(like, placement), {}))
        return self.slots[-1]

    def _messages(self) -> list[Step]:
        """Broadcasts of what was chosen; values of one shape in different branches share one."""
        pools: dict[Hashable, list[tuple[_Slot, Var]]] = {}
        sent: dict[str, list[tuple[Var, Var]]] = {}
        for number, part in enumerate(self.parts):
            used: dict[Hashable, int] = collections.Counter()
            for copy, (name, source) in part.received.items():
                kind = _jax.spec(copy.aval)
                pool = pools.setdefault((kind.shape, kind.dtype), [])
                place = used[kind.shape, kind.dtype]
                used[kind.shape, kind.dtype] += 1
                if place == len(pool):
                    pool.append((self._slot(copy, SERVER), self._new(copy, CLIENTS)))
                    sent.setdefault(name, []).append((pool[-1][0].chosen, pool[-1][1]))
                slot, self.now[number][copy] = pool[place]
                slot.values[number] = source
        where = self.step.equation
        return [
            Broadcast(name, tuple(a for a, _ in pairs), tuple(b for _, b in pairs), where)
            for name, pairs in sent.items()
        ]

    def _choice(self) -> Branch:
        """The choice among what does not need the clients, and what was kept of them."""
        kept = [i for i in range(len(self.step.outputs)) if i not in self.client]
        branches = [self._branch(n, b, kept) for n, b in enumerate(self.step.branches)]
        outputs = (*(self.step.outputs[i] for i in kept), *(s.chosen for s in self.slots))
        return dataclasses.replace(self.step, branches=tuple(branches), outputs=outputs)

    def _branch(self, number: int, branch: Block, kept: Sequence[int]) -> Block:
        steps, placements = list(branch.steps), dict(branch.placements)
        constants = dict(branch.constants)
        results = [branch.results[i] for i in kept]
        for slot in self.slots:
            if number in slot.values:
                results.append(slot.values[number])
                continue
            kind = _jax.spec(slot.chosen.aval)
            zeros = _inlined(lambda k=kind: [jax.lax.full(k.shape, 0, k.dtype)], [])
            constants.update(zip(zeros.jaxpr.constvars, zeros.consts))
            steps += [Local(e, None) for e in zeros.jaxpr.eqns]
            made = [*zeros.jaxpr.constvars, *(v for e in zeros.jaxpr.eqns for v in e.outvars)]
            placements.update(dict.fromkeys(made))
            results += zeros.jaxpr.outvars
        return dataclasses.replace(
            branch,
            results=tuple(results),
            steps=tuple(steps),
            placements=placements,
            constants=constants,
        )

    def _client_code(self) -> tuple[dict[Var, Atom], list[Step]]:
        """Results that are received as they are, and the steps of those that clients compute."""
        aliases: dict[Var, Atom] = {}
        computed: list[int] = []
        for row, output in enumerate(self.client):
            results = [part.results[row] for part in self.parts]
            atoms = {
                now.get(v) if isinstance(v, Var) else None for now, v in zip(self.now, results)
            }
            whole = atoms.pop() if len(atoms) == 1 else None
            if whole is not None:
                aliases[self.step.outputs[output]] = whole
            else:
                computed.append(row)
        return aliases, self._switch(computed, aliases) if computed else []

    def _switch(self, rows: Sequence[int], aliases: dict[Var, Atom]) -> list[Step]:
        """The clients' choice between their parts of the branches."""
        index = self.step.inputs[0]
        steps: list[Step] = []
        if self.told:
            told = self._new(index, CLIENTS)
            steps.append(Broadcast(NUMBER, (index,), (told,), self.step.equation))
            index = told
        operands = list(dict.fromkeys(atom for now in self.now for atom in now.values()))
        branches = [p.fun(rows, now, operands) for p, now in zip(self.parts, self.now)]
        with _jax.at_line(self.step.equation):
            code = _inlined(lambda i, *xs: jax.lax.switch(i, branches, *xs), [index, *operands])
        self.constants.update(zip(code.jaxpr.constvars, code.consts))
        self.placements.update(dict.fromkeys(code.jaxpr.constvars))
        for equation in code.jaxpr.eqns:
            self.placements.update(dict.fromkeys(equation.outvars, CLIENTS))
            steps.append(Local(equation, CLIENTS))
        outputs = (self.step.outputs[self.client[row]] for row in rows)
        aliases.update(zip(outputs, code.jaxpr.outvars))
        return steps


def _inlined(fun: Callable, operands: Sequence[Atom]) -> ClosedJaxpr:
    """The program of a function of these atoms, without what its results do not need."""
    closed = _jax.make_jaxpr(fun, [_jax.spec(v.aval) for v in operands])[0]
    live = dce(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return renamed(ClosedJaxpr(live, closed.consts), operands)
