"""Retention: what a client must keep from one contact with the server to a later one.

A client that received a model, or computed something from it, and needs that again in a later
contact has *state*: only this client can go on. What follows from a client's own data alone is none,
because any client can compute it from its own data when it is needed.

What the server decides reaches clients too: results of a branch that it chooses, or that a loop changed
which it ends, count as received.

Source: Rush, Charles, Garrett (JMLR 2024), section 3.4; docs/semantics.md, "Stages".
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

from secfad._jax import Literal, Var
from secfad.jaxprs.dependence import carried, dependent_outputs
from secfad.placements import CLIENTS
from secfad.programs.blocks import (
    Atom,
    Block,
    Branch,
    Broadcast,
    Loop,
    Step,
    Structured,
    Sum,
    While,
    communicates,
)
from secfad.programs.stages import Nested, Round, Schedule, Stage

Item = Stage | Round | Nested


def retained(
    plan: Schedule,
    received: Sequence[bool] = (),
    carried: Collection[Var] = (),
    again: Iterable[Atom] = (),
) -> Schedule:
    """The schedule, with what clients keep after each of its items.

    Args:
      plan: A schedule that says nothing about it yet.
      received: Which inputs of its block depend on what the server sent; none by default.
      carried: Inputs of its block that replace one another from iteration to iteration. Other inputs
        are kept outside of it, if at all.
      again: Results of the block that its next iteration needs, if it is the body of a loop.
    """
    known = _received(plan.block, received)
    contacts = list(accumulate(int(_is_contact(item)) for item in plan.items))
    last = {v: i for i, item in enumerate(plan.items) for v in read_by_clients(item)}
    # The next iteration is one more contact, if an iteration is one at all.
    end = contacts[-1] + 1 if contacts and contacts[-1] else 0
    due = {v: contacts[i] for v, i in last.items() if v in known}
    due.update((v, end) for v in _variables(again) if v in known)
    items: list[Item] = []
    kept = tuple(v for v in carried if due.get(v, 0) > 0)
    for item, now in zip(plan.items, contacts):
        before, kept = kept, tuple(v for v in (*kept, *_defined(item)) if due.get(v, 0) > now)
        if isinstance(item, Round):
            item = dataclasses.replace(item, kept=kept)
        elif isinstance(item, Nested):
            item = _nested(item, known, before, kept)
        items.append(item)
    return dataclasses.replace(plan, items=tuple(items))


def _nested(
    item: Nested, known: set[Var], before: tuple[Var, ...], after: tuple[Var, ...]
) -> Nested:
    step, (start, stop) = item.step, _carries(item.step)
    flags = [isinstance(v, Var) and v in known for v in step.inputs]
    bodies = []
    for body, inside in zip(item.bodies, _entering(step, flags)):
        # A body's inputs end like those of the step.
        inputs = body.block.inputs
        carried = inputs[len(inputs) - len(step.inputs) + start :][: stop - start]
        bodies.append(retained(body, inside, carried, _again(step, body.block)))
    # What is carried is counted in the body, where it changes.
    others = _variables((*step.inputs[:start], *step.inputs[stop:]))
    entering = _variables(step.inputs[start:stop]) - others
    leaving = _variables(step.outputs[: stop - start])
    held = [v for v in before if v not in entering] + [v for v in after if v not in leaving]
    kept = {"kept": after, "held": tuple(dict.fromkeys(held))}
    return dataclasses.replace(item, bodies=tuple(bodies), **kept)


def _carries(step: Structured) -> tuple[int, int]:
    """Where the carries stand among the inputs of a step."""
    match step:
        case Loop():
            return step.constants, step.constants + step.carries
        case While():
            return step.predicate_constants + step.body_constants, len(step.inputs)
        case Branch():
            return len(step.inputs), len(step.inputs)


def _again(step: Structured, body: Block) -> list[Atom]:
    """What an iteration hands to the next one."""
    match step:
        case Loop() if step.length > 1:
            return list(body.results[: step.carries])
        case While() if body is step.body:
            return list(body.results)
    return []


def _is_contact(item: Item) -> bool:
    match item:
        case Round():
            return bool(item.downloads or item.uploads)
        case Nested():
            return any(communicates(body.block) for body in item.bodies)
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
    return _variables(atoms)


def _variables(atoms: Iterable[Atom]) -> set[Var]:
    return {v for v in atoms if isinstance(v, Var)}


def _received(block: Block, flags: Sequence[bool]) -> set[Var]:
    """The client values of a block that depend on anything that the server sent."""
    given = zip(block.inputs, flags)
    known = {v for v, flag in given if flag and block.placements[v] is CLIENTS}
    for step in block.steps:
        given = [isinstance(v, Var) and v in known for v in step.inputs]
        leaving = zip(step.outputs, _leaving(step, given))
        known.update(v for v, f in leaving if f and block.placements[v] is CLIENTS)
    return known


def _leaving(step: Step, flags: Sequence[bool]) -> list[bool]:
    """Which outputs of a step are received, or computed from what was."""
    match step:
        case Broadcast() | Branch():
            return [True] * len(step.outputs)
        case While():
            return _changed(step, flags)
        case Sum():
            return [False] * len(step.outputs)
        case Loop():
            results = received_results(step.body, _entering(step, flags)[0])
            return [*_carried_flags(step, flags), *results[step.carries :]]
    return [bool(m) for m in dependent_outputs(step.equation, flags)]


def _entering(step: Step, flags: Sequence[bool]) -> list[list[bool]]:
    """Which inputs of each body of a step are received."""
    match step:
        case Loop():
            split = step.constants + step.carries
            return [[*flags[: step.constants], *_carried_flags(step, flags), *flags[split:]]]
        case While():
            first, start = step.predicate_constants, step.predicate_constants + step.body_constants
            own = _carried_flags(step, flags)
            return [[*flags[:first], *own], [*flags[first:start], *own]]
        case Branch():
            return [list(flags[1:]) for _ in step.branches]
    return []


def _changed(step: While, flags: Sequence[bool]) -> list[bool]:
    """Which results of a while loop are received, or changed as often as the server decides."""
    carries = step.body.inputs[step.body_constants :]
    changed = [v is not r for v, r in zip(carries, step.body.results)]
    return [c or f for c, f in zip(changed, _carried_flags(step, flags))]


def _carried_flags(step: Loop | While, flags: Sequence[bool]) -> list[bool]:
    """Which carries of a loop are received in some iteration."""
    start, stop = _carries(step)
    first = step.predicate_constants if isinstance(step, While) else 0

    def iteration(carries: list[int]) -> list[int]:
        inside = [*flags[first:start], *carries, *flags[stop:]]
        return list(received_results(step.body, [bool(c) for c in inside]))

    return [bool(c) for c in carried(iteration, flags[start:stop])]


def received_results(body: Block, flags: Sequence[bool]) -> list[bool]:
    """Which results depend on anything that the server sent, or on the flagged inputs."""
    known = _received(body, flags)
    return [not isinstance(v, Literal) and v in known for v in body.results]
