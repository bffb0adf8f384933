"""The facts of a native program that its schedule decides: rounds, bytes, and the same clients.

The walk knows what a message depends on. The schedule knows in which contact an engine sends it, so
rounds, bytes and client state are those of `Program.costs`. The phase of a sum is the number of the
round that carries it, and that of a broadcast the number of rounds before it; of a message in a loop
they are those of the last iteration. The largest phase of a sum is the number of rounds.
"""

import dataclasses
import math
from collections.abc import Iterator

from audits.rules.findings import Event, Facts
from audits.transfer.loops import loop_bound
from secfad import CLIENTS
from secfad.inner import Costs, Nested, Round, Schedule, equations


def scheduled(facts: Facts, plan: Schedule, cost: Costs) -> Facts:
    """The facts of a walk with those of the schedule.

    A `while` loop costs without limit there; the walk states the limit of a counted one.
    """
    every = sorted((*facts.events, *facts.alternatives), key=lambda e: e.index)
    found = phases(plan)
    phase = {e.index: p for e, p in zip(every, found)} if len(found) == len(every) else {}

    def moved(events: tuple[Event, ...]) -> tuple[Event, ...]:
        return tuple(dataclasses.replace(e, depth=phase.get(e.index, e.depth)) for e in events)

    number = lambda mine, theirs: mine if math.isinf(theirs) else int(theirs)
    events, others = moved(facts.events), moved(facts.alternatives)
    latest = max((e.depth for e in (*events, *others) if e.kind == "sum"), default=0)
    return dataclasses.replace(
        facts,
        rounds=number(latest, cost.rounds),
        sums=number(facts.sums, cost.sums),
        broadcasts=number(facts.broadcasts, cost.broadcasts),
        up_bytes=number(facts.up_bytes, cost.up_bytes),
        down_bytes=number(facts.down_bytes, cost.down_bytes),
        released_scalars=number(facts.released_scalars, cost.released),
        releases=number(facts.releases, cost.sums),
        readdress=cost.readdressed,
        residual_bytes=number(facts.residual_bytes, cost.state_bytes),
        events=events,
        alternatives=others,
    )


def phases(plan: Schedule) -> list[int]:
    """The phase of every message of a schedule, of all branches, in program order."""
    return list(_phases(plan, 0))


def _phases(plan: Schedule, before: int) -> Iterator[int]:
    """The phase of every leaf of a message, in program order, of a schedule after some rounds."""
    when: dict[int, int] = {}
    nested: dict[int, tuple[Nested, int]] = {}
    for item in plan.items:
        if isinstance(item, Round):
            when |= {id(m.equation): before for m in item.downloads}
            when |= {id(m.equation): before + 1 for m in item.uploads}
        elif isinstance(item, Nested):
            nested[id(item.step.equation)] = item, before
        before += _rounds(plan, item)
    for step in plan.placed.steps:
        key = id(step.equation)
        if key in nested:
            yield from _inside(*nested[key])
        elif isinstance(step, equations.Broadcast):
            yield from [when[key]] * len(step.outputs)
        elif isinstance(step, equations.Sum) and key in when:
            yield from [when[key] for v in step.inputs if plan.placed.placement(v) is CLIENTS]


def _inside(item: Nested, before: int) -> Iterator[int]:
    for body in item.bodies:
        again = sum(_rounds(body, i) for i in body.items) * (_iterations(item) - 1)
        yield from _phases(body, before + again)


def _rounds(plan: Schedule, item: object) -> int:
    """The contacts of an item in which clients send."""
    match item:
        case Round(uploads=uploads):
            sent = [v for m in uploads for v in m.inputs]
            return int(any(plan.placed.placement(v) is CLIENTS for v in sent))
        case Nested(step=step, bodies=bodies):
            each = [sum(_rounds(body, i) for i in body.items) for body in bodies]
            most = max(each) if isinstance(step, equations.Cond) else sum(each)
            return most * _iterations(item)
    return 0


def _iterations(item: Nested) -> int:
    """How often the bodies run, at most; once if nothing limits a loop."""
    match item.step:
        case equations.Scan(length=length):
            return length
        case equations.While(equation=equation):
            bound = loop_bound(equation)
            return 1 if bound is None else max(bound.iterations, 1)
    return 1
