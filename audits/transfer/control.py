"""Calls and branches, including implicit flows.

If client data decides a branch, its results are client data and nothing inside may communicate. If
the server decides it, the branch may communicate, after the sums that it waited for. `iteration`
has the same rules for loops.
"""

from collections.abc import Sequence

from audits.rules.rules import Severity
from audits.transfer.elementwise import implicit_broadcast
from audits.transfer.interpreter import Scope, Step
from audits.transfer.labels import (
    REPLICATED,
    Label,
    Place,
    join,
)
from secfad.inner import ClosedJaxpr, Jaxpr, equations, sub_jaxprs


def call(step: Step) -> list[Label]:
    """A call has the labels of its body."""
    body = _only_body(step)
    return step.refuse("FAD001") if body is None else _enter(step, body, step.inputs)


def custom_rule(step: Step) -> list[Label]:
    """The primal body of a custom derivative; other modes must be certified on their own."""
    body = _only_body(step)
    if body is None:
        return step.refuse("FAD001")
    step.note("FAD302", Severity.NOTE)
    return _enter(step, body, step.inputs)


def reverse_only(step: Step) -> list[Label]:
    """The tangents of a function with a reverse rule of its own: JAX cannot compute them."""
    return step.refuse(
        "FAD304",
        mode=step.checker.mode,
        error="a function with `jax.custom_vjp` has no forward derivative",
        remedy="Give it a `jax.custom_jvp` rule, or certify reverse mode",
    )


def linear_solve(step: Step) -> list[Label]:
    """A solve runs its `solve` program, which contains the matrix-vector products."""
    solve = equations.viewed(step.equation, equations.Solve)
    if solve.body is None:
        return step.refuse("FAD001")
    inputs, names = solve.split(step.inputs), solve.split(step.names)
    return step.checker.closed(solve.body, inputs, names, step.inside("solve"))


def _only_body(step: Step) -> ClosedJaxpr | Jaxpr | None:
    found = [b for value in step.params.values() for b in sub_jaxprs(value)]
    if len(found) != 1:
        return None
    body = found[0]
    inner = body.jaxpr if isinstance(body, ClosedJaxpr) else body
    return body if len(inner.invars) == len(step.inputs) else None


def _enter(
    step: Step, body: ClosedJaxpr | Jaxpr, labels: Sequence[Label], scope: Scope | None = None
) -> list[Label]:
    scope = scope or step.inside()
    if isinstance(body, ClosedJaxpr):
        return step.checker.closed(body, list(labels), step.names, scope)
    return step.checker.jaxpr(body, [], list(labels), step.names, scope)


def cond(step: Step) -> list[Label]:
    """A branch; its results depend on the predicate."""
    choice = equations.viewed(step.equation, equations.Cond)
    index, operands = choice.split(step.inputs)
    by_client = index.on_clients
    depth = max(step.scope.depth, 0 if index.place == Place.PUBLIC else index.depth)
    results, schedules = [], []
    before = len(step.checker.events)
    for position, branch in enumerate(choice.branches):
        scope = step.inside(
            f"branch{position}",
            client_control=step.scope.client_control or by_client,
            depth=depth,
        )
        start = len(step.checker.events)
        results.append(step.checker.closed(branch, list(operands), step.names[1:], scope))
        schedules.append(step.checker.events[start:])
    if any(label.poisoned for branch in results for label in branch):
        return step.poisoned()
    if not by_client and not all(agree(step, column) for column in zip(*results)):
        return step.poisoned()
    joined = [_join_all(column) for column in zip(*results)]
    if by_client:
        return _chosen_by_client(step, index, joined)
    if not announced(step, index, joined, step.names[0]):
        return step.poisoned()
    _keep_largest(step, before, schedules)
    if index.place == Place.PUBLIC:
        return joined
    return [
        label
        if label.on_clients
        else label.replace(place=Place.SERVER, depth=max(label.depth, index.depth))
        for label in joined
    ]


def agree(step: Step, labels: Sequence[Label]) -> bool:
    """Checks that branch or loop values have compatible placements: not server and client.

    Otherwise a client could receive the server's value without a broadcast.
    """
    server = next((label for label in labels if label.place == Place.SERVER), None)
    clients = [label for label in labels if label.on_clients]
    if server is None or not clients:
        return True
    client = next((label for label in clients if label.client_axis is not None), clients[0])
    axis = client.client_axis
    if axis is not None and step.style.sums_by_reduction:
        if server.axes[axis].tag == REPLICATED:
            step.checker.send(server.axes[axis].sources, server.depth, step.scope)
            return True
        step.refuse("FAD104")
        return False
    step.note("FAD102", step.style.implicit, value="a value of the loop or branch")
    return step.style.implicit != Severity.REJECT


def announced(step: Step, decided: Label, results: Sequence[Label], name: str) -> bool:
    """A server predicate that clients must follow is a server value used by clients."""
    if decided.place != Place.SERVER or not any(label.on_clients for label in results):
        return True
    step.note("FAD102", step.style.implicit, value=name)
    return step.style.implicit != Severity.REJECT


def _join_all(column: Sequence[Label]) -> Label:
    result = column[0]
    for label in column[1:]:
        result = join(result, label)
    return result


def _chosen_by_client(step: Step, index: Label, joined: Sequence[Label]) -> list[Label]:
    for label in joined:
        if label.place == Place.SERVER and step.style.implicit == Severity.REJECT:
            return step.refuse("FAD201")
    for position, label in enumerate(step.inputs[1:], start=1):
        if label.place == Place.SERVER and not implicit_broadcast(step, position):
            return step.poisoned()
    several = len(equations.viewed(step.equation, equations.Cond).branches) > 2
    return [
        label.replace(
            place=Place.CLIENT,
            depth=max(label.depth, index.depth),
            phase=max(label.phase, index.phase),
            slots=frozenset(range(len(label.axes))) if several else label.slots,
            indicator=label.indicator and not several,
        )
        for label in joined
    ]


def _keep_largest(step: Step, before: int, schedules: Sequence[Sequence]) -> None:
    """If server branches communicate differently, keeps the larger one."""
    shapes = [
        sorted((e.kind, e.shape, e.dtype, e.count) for e in schedule) for schedule in schedules
    ]
    if all(shape == shapes[0] for shape in shapes):
        kept = schedules[0]
    else:
        kept = max(schedules, key=lambda s: sum(e.bytes * e.count for e in s))
        step.note("FAD205")
    if step.scope.recording:
        step.checker.events[before:] = list(kept)
