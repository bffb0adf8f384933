"""Retention: what a client must keep from one contact with the server to a later one.

A client that received a model, or computed something from it, and needs that again in a later
contact has *state*: only this client can go on. What follows from a client's own data alone is none,
because any client can compute it from its own data when it is needed.

What the server decides reaches clients too: results of a branch that it chooses, or that a loop changed
which it ends, count as received.

Source: Rush, Charles, Garrett (JMLR 2024), section 3.4; docs/semantics.md, "Stages".
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

from secfad._jax import JaxprEqn, Var
from secfad.jaxprs.dataflow import Marks
from secfad.jaxprs.dependence import DEPENDENCE
from secfad.jaxprs.equations import Atom, Broadcast, Cond, Scan, Sum, While, view
from secfad.jaxprs.inside import communicates, is_in, variables
from secfad.placements import CLIENTS
from secfad.programs.placed import Control, Placed
from secfad.programs.stages import Nested, Round, Schedule, Stage

Item = Stage | Round | Nested


def retained(plan: Schedule) -> Schedule:
    """A schedule that says nothing about it yet, with what clients keep after each of its items."""
    return _Retention(plan.placed).retained(plan)


class _Retention:
    """What the schedules of one program and of its bodies keep."""

    def __init__(self, placed: Placed):
        self.received = _Received(placed)

    def retained(
        self,
        plan: Schedule,
        received: Sequence[int] = (),
        carried: Collection[Var] = (),
        again: Iterable[Atom] = (),
    ) -> Schedule:
        """The schedule, with what clients keep after each of its items.

        `received` says which inputs depend on what the server sent. Of the body of a loop, `carried`
        are the inputs that iterations replace, and `again` the results that the next one needs.
        """
        marks = self.received.variables(plan.placed.jaxpr, received)
        known = {v for v, mark in marks.items() if mark}
        contacts = list(accumulate(int(_is_contact(item)) for item in plan.items))
        last = {v: i for i, item in enumerate(plan.items) for v in read_by_clients(item)}
        # The next iteration is one more contact, if an iteration is one at all.
        end = contacts[-1] + 1 if contacts and contacts[-1] else 0
        due = {v: contacts[i] for v, i in last.items() if v in known}
        due.update((v, end) for v in variables(again) if v in known)
        items: list[Item] = []
        kept = tuple(v for v in carried if due.get(v, 0) > 0)
        for item, now in zip(plan.items, contacts):
            before, kept = kept, tuple(v for v in (*kept, *_defined(item)) if due.get(v, 0) > now)
            if isinstance(item, Round):
                item = dataclasses.replace(item, kept=kept)
            elif isinstance(item, Nested):
                item = self._nested(item, known, before, kept)
            items.append(item)
        return dataclasses.replace(plan, items=tuple(items))

    def _nested(
        self, item: Nested, known: set[Var], before: tuple[Var, ...], after: tuple[Var, ...]
    ) -> Nested:
        step = item.step
        flags = [int(is_in(v, known)) for v in step.inputs]
        entries = step.entries(self.received.entering(step, flags))
        rows = zip(item.bodies, entries, _iterated(step, item.bodies))
        bodies = tuple(self.retained(body, given, *rest) for body, (_, given), rest in rows)
        # What is carried is counted in the body, where it changes.
        carry = [] if isinstance(step, Cond) else step.carry
        others = Counter(variables(step.inputs)) - Counter(variables(carry))
        entering = {*variables(carry)} - {*others}
        leaving = step.outputs[: len(carry)]
        held = [v for v in before if v not in entering] + [v for v in after if v not in leaving]
        return dataclasses.replace(item, bodies=bodies, kept=after, held=tuple(dict.fromkeys(held)))


def _iterated(step: Control, bodies: Sequence[Schedule]) -> list[tuple[list[Var], list[Atom]]]:
    """For each body, the inputs that are carried, and what it hands to the next iteration."""
    match step:
        case Scan():
            body = bodies[0].placed
            results = step.split_out(body.results)[0] if step.length > 1 else []
            return [(step.split(body.inputs)[1], results)]
        case While():
            predicate, body = (b.placed for b in bodies)
            tested = predicate.inputs[len(step.predicate_consts) :]
            return [(tested, []), (body.inputs[len(step.body_consts) :], body.results)]
        case Cond():
            return [([], []) for _ in bodies]


def _is_contact(item: Item) -> bool:
    match item:
        case Round():
            return bool(item.downloads or item.uploads)
        case Nested():
            return communicates(item.step.equation)
    return False


def _defined(item: Item) -> Iterable[Var]:
    match item:
        case Round():
            return (*(v for m in item.downloads for v in m.outputs), *item.client.outputs)
        case Nested():
            return item.step.outputs
    return ()


def read_by_clients(item: Item) -> set[Var]:
    """What clients, or control flow that clients take part in, read."""
    match item:
        case Round():
            atoms = (*item.client.inputs, *(v for m in item.uploads for v in m.inputs))
        case Nested():
            atoms = item.step.inputs
        case _:
            atoms = ()
    return {*variables(atoms)}


class _Received(Marks):
    """Which client values depend on anything that the server sent."""

    strict = False

    def __init__(self, placed: Placed):
        super().__init__()
        self.placed = placed

    def outputs(self, equation: JaxprEqn, given: list[int]) -> list[int]:
        made = self._outputs(equation, given)
        return [int(m and self.placed.places[v] is CLIENTS) for m, v in zip(made, equation.outvars)]

    def _outputs(self, equation: JaxprEqn, given: list[int]) -> list[int]:
        match view(equation):
            case Broadcast():
                return [1] * len(given)
            case Sum():
                return [0] * len(given)
            case step if not self.placed.is_driven(step):
                return DEPENDENCE.outputs(equation, given)
            case Cond() as cond:
                return [1] * len(cond.outputs)
            case While() as loop:
                # Where the server decides how often, it decides about what changes.
                carry = loop.split(self.entering(loop, given))[2]
                body = loop.body.jaxpr
                inputs = body.invars[len(loop.body_consts) :]
                changed = [v is not r for v, r in zip(inputs, body.outvars)]
                return [int(c or m) for c, m in zip(changed, carry)]
        return super().outputs(equation, given)
