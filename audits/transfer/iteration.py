"""Loops: labels of the carries, and depths of the messages.

If client data decides a loop, its results are client data and nothing inside may communicate. If
the server decides it, the loop may communicate, after the sums that it waited for. The walk repeats
a loop until the labels of its carries stop changing. The depth of its messages grows by a constant
per iteration.
"""

import dataclasses
from collections.abc import Sequence

from audits.transfer.control import agree, announced
from audits.transfer.elementwise import meet
from audits.transfer.interpreter import Reported, Scope, Step
from audits.transfer.labels import (
    CLIENT_AXIS,
    DATA,
    POSITION,
    REPLICATED,
    Axis,
    Label,
    Place,
    join,
    poison,
)
from audits.transfer.loops import changing_carries, counted, loop_bound
from secfad.inner import ClosedJaxpr, Jaxpr, equations

MAX_PASSES = 12


def scan(step: Step) -> list[Label]:
    """A loop of known length: messages repeat, and their depth grows with each iteration."""
    loop = equations.viewed(step.equation, equations.Scan)
    fixed, start, stacked = loop.split(step.inputs)
    carries, length = len(start), loop.length
    if any(label.client_axis == 0 for label in stacked):
        return _scan_over_clients(step, loop.body, fixed, start, stacked)
    slices = [label.replace(axes=label.axes[1:]) for label in stacked]
    quiet = step.inside("body", recording=False)
    run = lambda carry, scope: step.checker.closed(
        loop.body, [*fixed, *carry, *slices], step.names, scope
    )
    carry = _invariant(start, lambda c: run(c, quiet)[:carries])
    if carry is None or any(label.poisoned for label in carry):
        run(list(start), step.inside("body", count=step.scope.count * length))
        return step.poisoned() if step.checker.findings else step.refuse("FAD001")
    if not all(agree(step, pair) for pair in zip(start, carry, run(carry, quiet))):
        return step.poisoned()
    settled, growth = _growth(carry, start, lambda c: run(c, quiet)[:carries], length)
    before = len(step.checker.events)
    out = run(settled, step.inside("body", count=step.scope.count * length))
    extra = growth * (length - 1)
    _deepen(step, before, extra)
    final = [
        label.replace(depth=label.depth + extra if label.depth else label.depth) for label in out
    ]
    return [
        join(a, b) if k < carries else _with_front(a)
        for k, (a, b) in enumerate(zip(final, [*start, *final[carries:]]))
    ]


def _with_front(label: Label) -> Label:
    tag = POSITION if label.place == Place.PUBLIC else DATA
    return label.replace(axes=(Axis(tag), *label.axes))


def _deepen(step: Step, before: int, extra: int) -> None:
    """Moves the messages of the last iteration `extra` phases behind those of the first."""
    if extra and step.scope.recording:
        events = step.checker.events
        events[before:] = [dataclasses.replace(e, depth=e.depth + extra) for e in events[before:]]


def _invariant(start: Sequence[Label], body) -> list[Label] | None:
    """Carries that the body reproduces, apart from depth; None if none is found."""
    carry = list(start)
    for _ in range(MAX_PASSES):
        result = [label.replace(depth=0, phase=-1) for label in body(carry)]
        merged = [
            join(a.replace(depth=0, phase=-1), b).replace(depth=a.depth, phase=a.phase)
            for a, b in zip(carry, result)
        ]
        if [label.replace(depth=0, phase=-1) for label in merged] == [
            label.replace(depth=0, phase=-1) for label in carry
        ]:
            return carry
        carry = merged
    return None


def _growth(carry: list[Label], start, body, length: int) -> tuple[list[Label], int]:
    """The number of phases that one iteration adds once it is periodic.

    The depth after an iteration is a maximum of depths plus constants, which becomes periodic; the
    growth used is the largest seen over as many iterations as there are carries, an upper bound for
    every later one.
    """
    depths = [max(a.depth, b.depth) for a, b in zip(carry, start)]
    first = [a.replace(depth=d) for a, d in zip(carry, depths)]
    current, growth, phase = first, 0, [a.phase for a in first]
    for _ in range(min(length, MAX_PASSES)):
        result = body(current)
        deeper = [max(a.depth, b.depth) for a, b in zip(result, current)]
        steps = [new - old.depth for new, old in zip(deeper, current)]
        phase = [max(p, r.phase) for p, r in zip(phase, result)]
        latest = max(steps, default=0)
        settled = latest == growth
        growth = max(growth, latest)
        if settled or growth == 0:
            break
        current = [a.replace(depth=d) for a, d in zip(current, deeper)]
    return [a.replace(phase=p) for a, p in zip(first, phase)], growth


def _scan_over_clients(step: Step, body: ClosedJaxpr, fixed, start, stacked) -> list[Label]:
    """`lax.map` over clients: legal if no iteration learns anything from the one before."""
    carries = len(start)
    if any(
        label.place != Place.PUBLIC and label.client_axis is None and label.on_clients
        for label in fixed
    ):
        return step.refuse("FAD109")
    rows = []
    for label in stacked:
        spread = label.axes[0].tag == REPLICATED
        if label.client_axis != 0 and not (label.place == Place.PUBLIC and spread):
            if label.place == Place.SERVER and label.axes[0].sources:
                step.checker.send(label.axes[0].sources, label.depth, step.scope)
                copy = label.replace(place=Place.COPY, axes=label.axes[1:], phase=label.depth)
                rows.append(copy)
                continue
            return step.refuse("FAD104" if label.place != Place.PUBLIC else "FAD111")
        rows.append(label.replace(axes=label.axes[1:]))
    run = lambda carry, scope: step.checker.closed(body, [*fixed, *carry, *rows], step.names, scope)
    quiet = step.inside("row", recording=False, client_control=True)
    carry = _invariant(start, lambda c: run(c, quiet)[:carries])
    out = run(start if carry is None else carry, step.inside("row", client_control=True))
    if carry is None or any(label.poisoned for label in out):
        return step.poisoned() if step.checker.findings else step.refuse("FAD001")
    if any(label.on_clients for label in (*carry, *out[:carries])):
        return step.refuse("FAD106")
    if any(label.client_axis is not None for label in out):
        return step.refuse("FAD109")
    results = out[carries:]
    rule = _positional(body.jaxpr, carry, results, len(fixed))
    if rule:
        return step.refuse(rule)
    return [*carry, *map(_stacked_rows, results)]


def _positional(jaxpr: Jaxpr, carry: Sequence[Label], results, constants: int) -> str:
    """The rule for a client result that depends on a carry that counts the clients."""
    changing = changing_carries(jaxpr, constants=constants, carries=len(carry))
    for rule, place in (("FAD104", Place.SERVER), ("FAD111", Place.PUBLIC)):
        marked = [c and label.place == place for c, label in zip(changing, carry)]
        reached = counted(jaxpr, marked, constants=constants)
        if any(r and label.on_clients for r, label in zip(reached, results)):
            return rule
    return ""


def _stacked_rows(label: Label) -> Label:
    """One row per client, or a value that every iteration computed without client data."""
    if label.on_clients:
        return label.replace(place=Place.CLIENT, axes=(Axis(CLIENT_AXIS), *label.axes))
    return _with_front(label)


def while_(step: Step) -> list[Label]:
    """A `while` loop: a client predicate makes all results client data, a server one may be
    unbounded.

    The predicate of a batched loop has axes. It then selects, entry by entry, between the carries
    before and after an iteration, so its axes count as those of an operand.
    """
    loop = equations.viewed(step.equation, equations.While)
    tested, fixed, start = loop.split(step.inputs)
    names = step.names

    def ask(carry: Sequence[Label], scope: Scope) -> Label:
        return step.checker.closed(loop.predicate, [*tested, *carry], names, scope)[0]

    def run(carry: Sequence[Label], scope: Scope) -> list[Label]:
        out = step.checker.closed(loop.body, [*fixed, *carry], names, scope)
        predicate = ask(carry, step.inside("test", recording=False))
        return _selected(step, predicate, out, recording=scope.recording)

    quiet = step.inside("body", recording=False)
    carry = _invariant(start, lambda c: run(c, quiet))
    if carry is None or any(label.poisoned for label in carry):
        run(list(start), step.inside("body"))
        return step.poisoned() if step.checker.findings else step.refuse("FAD001")
    if not all(agree(step, pair) for pair in zip(start, carry, run(carry, quiet))):
        return step.poisoned()
    predicate = ask(carry, step.inside("test", recording=False))
    if predicate.on_clients:
        return _client_loop(step, predicate, carry, ask, run)
    return _server_loop(step, predicate, carry, start, ask, run)


def _selected(
    step: Step, predicate: Label, carry: Sequence[Label], *, recording: bool
) -> list[Label]:
    """The carries after one iteration of a batched loop, as `select_n` labels them."""
    if not predicate.axes or predicate.poisoned:
        return list(carry)
    loop = equations.viewed(step.equation, equations.While)
    first = len(step.inputs) - len(carry)
    (condition,) = loop.predicate.jaxpr.outvars
    made = []
    for position, (label, out) in enumerate(zip(carry, step.equation.outvars)):
        if label.poisoned:
            made.append(label)
            continue
        one = dataclasses.replace(
            step,
            equation=step.equation.replace(
                invars=[condition, step.equation.invars[first + position]], outvars=[out]
            ),
            inputs=[predicate, label],
            names=["the condition of the loop", step.names[first + position]],
            scope=dataclasses.replace(step.scope, recording=recording and step.scope.recording),
        )
        rank = len(label.axes)
        aligned = [(*predicate.axes, *[None] * (rank - len(predicate.axes))), label.axes]
        try:
            made.append(meet(one, [0, 1], one.out_shape(), aligned))
        except Reported:
            made.append(poison(rank))
    return made


def _client_loop(step: Step, predicate: Label, carry: list[Label], ask, run) -> list[Label]:
    carry = _selected(step, predicate, carry, recording=True)
    if any(label.poisoned for label in carry):
        return step.poisoned()
    if not predicate.axes and any(label.place == Place.SERVER for label in carry):
        return step.refuse("FAD201")
    depth = predicate.depth
    entering = [c.replace(place=Place.CLIENT, depth=max(c.depth, depth)) for c in carry]
    quiet = step.inside("body", recording=False, client_control=True)
    held = _invariant(entering, lambda c: run(c, quiet))
    if held is None or any(label.poisoned for label in held):
        run(entering, step.inside("body", client_control=True))
        return step.poisoned() if step.checker.findings else step.refuse("FAD001")
    before = len(step.checker.events)
    ask(held, step.inside("test", client_control=True))
    out = run(held, step.inside("body", client_control=True))
    if len(step.checker.events) > before and any(
        e.kind == "sum" for e in step.checker.events[before:]
    ):
        return step.refuse("FAD202")
    if any(label.poisoned for label in out):
        return step.poisoned()
    return [join(a, b) for a, b in zip(held, out)]


def _server_loop(step: Step, predicate: Label, carry, start, ask, run) -> list[Label]:
    if not announced(step, predicate, carry, "the condition of the loop"):
        return step.poisoned()
    quiet = step.inside("body", recording=False)
    bound = loop_bound(step.equation)
    length = MAX_PASSES if bound is None else bound.iterations
    settled, growth = _growth(carry, start, lambda c: run(c, quiet), max(length, 1))
    before = len(step.checker.events)
    tested = ask(settled, step.inside("test"))
    asked = len(step.checker.events) > before
    depth = max(step.scope.depth, predicate.depth, tested.depth)
    count = step.scope.count * max(length, 1)
    out = run(settled, step.inside("body", depth=depth, count=count))
    if any(label.poisoned for label in out):
        return step.poisoned()
    communicates = len(step.checker.events) > before
    if communicates and (bound is None or asked):
        return step.refuse("FAD203")
    if bound is not None and bound.iterations > 1:
        _deepen(step, before, growth * (bound.iterations - 1))
    if communicates and bound is not None and not bound.exact:
        step.note("FAD204", low=0, high=count)
    extra = growth * (length - 1)
    ended = [join(a, b) for a, b in zip(out, start)]
    decided = predicate.place
    return [
        label.replace(
            place=max(label.place, decided),
            depth=max(label.depth + (extra if label.depth else 0), predicate.depth),
        )
        for label in ended
    ]
