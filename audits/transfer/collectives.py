"""Communication: broadcasts, sums and other collectives in each style.

The result of a sum is at the server, one phase later. The sum of a constant is the number of
clients times the constant. This is public, so it is neither a message nor a round.
"""

from typing import Any

import numpy as np

from audits.rules.rules import Severity
from audits.transfer.elementwise import meet
from audits.transfer.interpreter import Step
from audits.transfer.labels import (
    CLIENT_AXIS,
    REPLICATED,
    Axis,
    Label,
    Place,
    data_axes,
)
from audits.transfer.structure import reduce_data_axes
from audits.transfer.styles import CLIENT_AXIS_NAME

PLACE_WORDS = {
    Place.PUBLIC: "public",
    Place.SERVER: "server",
    Place.COPY: "client",
    Place.CLIENT: "client",
}


def federated_broadcast(step: Step) -> list[Label]:
    """The native broadcast; n-ary."""
    if step.style.name != "native":
        return step.refuse("FAD001")
    if any(label.on_clients for label in step.inputs):
        return step.refuse("FAD104")
    if step.scope.client_control:
        return step.refuse("FAD202")
    made = []
    for atom, label in zip(step.equation.invars, step.inputs):
        if label.place == Place.PUBLIC:
            made.append(label)  # both sides know a constant, so nothing is sent
            continue
        depth = max(label.depth, step.scope.depth)
        step.checker.message("broadcast", step, step.params["name"], atom.aval, depth)
        made.append(label.replace(place=Place.COPY, depth=depth, phase=depth))
    return made


def federated_sum(step: Step) -> list[Label]:
    """The native sum; n-ary, all operands in one message."""
    if step.style.name != "native":
        return step.refuse("FAD001")
    if any(label.place == Place.SERVER for label in step.inputs):
        return step.refuse("FAD117", expected="client", found="server")
    if step.scope.client_control:
        return step.refuse("FAD202")
    return [
        _summed(step, label, position, atom.aval, step.params["name"])
        for position, (atom, label) in enumerate(zip(step.equation.invars, step.inputs))
    ]


def federated_clip(step: Step) -> list[Label]:
    """The joint clip: every result depends on every operand, and each leading row is clipped
    separately.
    """
    rows = step.params.get("rows", 0)
    if any(label.client_axis is not None and label.client_axis >= rows for label in step.inputs):
        return step.refuse("FAD109", remedy="Clip each client's value: `jax.vmap(fad.clip)(x)`")
    aligned = [(None,) * rows, *(label.axes[:rows] for label in step.inputs[1:])]
    joined = meet(step, range(len(step.inputs)), step.shape(1)[:rows], aligned)
    return [
        joined.replace(axes=(*joined.axes, *data_axes(len(v.aval.shape) - rows)))  # type: ignore[attr-defined]
        for v in step.equation.outvars
    ]


def _summed(step: Step, label: Label, position: int, aval: Any, name: str) -> Label:
    rank = len(aval.shape)
    if label.place == Place.PUBLIC:
        return Label(Place.SERVER, data_axes(rank), step.scope.depth)
    depth = max(label.depth, step.scope.depth) + 1
    number = step.checker.message("sum", step, name, aval, depth, position=position)
    step.checker.summed(step, number, bool(label.slots))
    return Label(Place.SERVER, data_axes(rank), depth)


def reduce_sum(step: Step) -> Label | list[Label]:
    """A sum over axes; over the axis of clients it is the aggregator of stacked programs."""
    label, gone = step.inputs[0], set(step.params["axes"])
    if label.client_axis not in gone or not step.style.sums_by_reduction:
        return reduce_data_axes(step)
    if step.scope.client_control:
        return step.refuse("FAD202")
    return _summed(step, label, 0, step.equation.outvars[0].aval, "sum")


def drjax_broadcast(step: Step) -> Label | list[Label]:
    """DrJAX: the server value gets a leading axis of clients with equal rows."""
    label = step.inputs[0]
    if label.on_clients:
        return step.refuse("FAD104")
    depth = max(label.depth, step.scope.depth)
    operand: Any = step.equation.invars[0]
    step.checker.message("broadcast", step, "broadcast", operand.aval, depth)
    axes = (Axis(REPLICATED), *label.axes)
    return Label(Place.COPY, axes, depth, depth)


def drjax_sum(step: Step) -> Label | list[Label]:
    """DrJAX: the first axis must be the axis of clients."""
    return _drjax_aggregate(step, mean=False)


def drjax_mean(step: Step) -> Label | list[Label]:
    """DrJAX: a sum over clients divided by their number."""
    return _drjax_aggregate(step, mean=True)


def _drjax_aggregate(step: Step, *, mean: bool) -> Label | list[Label]:
    label = step.inputs[0]
    operand, out = step.equation.invars[0], step.equation.outvars[0]
    if label.place == Place.SERVER:
        return step.refuse("FAD117", expected="client", found="server")
    expected = CLIENT_AXIS if label.place == Place.CLIENT else REPLICATED
    if label.place != Place.PUBLIC and label.axes[0].tag != expected:
        return step.refuse("FAD117", expected="client", found="rearranged")
    dtype: Any = operand.aval.dtype  # type: ignore[attr-defined]
    if mean and np.issubdtype(dtype, np.integer):
        step.note("FAD413", Severity.CAVEAT, sum="of integers", clients="all", dtype=dtype)
    if step.scope.client_control:
        return step.refuse("FAD202")
    if label.place == Place.PUBLIC and label.axes[0].tag != REPLICATED:
        return step.refuse("FAD104")
    return _summed(step, label, 0, out.aval, "mean" if mean else "sum")


def psum(step: Step) -> list[Label]:
    """SPMD: a sum over the whole named axis; elsewhere, a sum over positions."""
    if step.params.get("axis_index_groups") is not None:
        return step.refuse("FAD110")
    axes = tuple(step.params["axes"])
    positions = {a for a in axes if isinstance(a, int)}
    named = [a for a in axes if not isinstance(a, int)]
    if named and (step.style.name != "spmd" or named != [CLIENT_AXIS_NAME] or positions):
        return step.refuse("FAD113")
    if step.scope.client_control:
        return step.refuse("FAD202")
    made = []
    for position, (out, label) in enumerate(zip(step.equation.outvars, step.inputs)):
        over_clients = bool(named) or label.client_axis in positions
        if not over_clients:
            kept = tuple(a for k, a in enumerate(label.axes) if k not in positions)
            made.append(label.replace(axes=kept))
        elif not named and not step.style.sums_by_reduction:
            return step.refuse("FAD103")
        elif named and label.place == Place.SERVER:
            if step.checker.mode != "primal":
                return step.refuse("FAD308")  # the transpose of an untracked sum
            return step.refuse("FAD117", expected="client", found="server")
        else:
            made.append(_summed(step, label, position, out.aval, "psum"))  # type: ignore[attr-defined]
    return made


def axis_index(step: Step) -> list[Label]:
    """The position of a client in the cohort."""
    if step.params.get("axis_name") in (CLIENT_AXIS_NAME, (CLIENT_AXIS_NAME,)):
        return step.refuse("FAD111")
    return step.refuse("FAD113")


def extremum_collective(step: Step) -> list[Label]:
    """An extreme value over clients is one client's value; over an inner `vmap` it is local."""
    positions = set(step.params["axes"])
    named = any(not isinstance(a, int) for a in positions)
    if named or any(label.client_axis in positions for label in step.inputs):
        return step.refuse("FAD105")
    return [
        label.replace(axes=tuple(a for k, a in enumerate(label.axes) if k not in positions))
        for label in step.inputs
    ]


def collective(step: Step) -> list[Label]:
    """Every other collective."""
    return step.refuse("FAD113")


def callback(step: Step) -> list[Label]:
    """Host Python sees the operands; only values that the server may see can be acknowledged."""
    place = max((label.place for label in step.inputs), default=Place.PUBLIC)
    if place >= Place.COPY or step.scope.client_control:
        return step.refuse("FAD003", placement=PLACE_WORDS[place])
    if step.equation.outvars:
        return step.refuse("FAD003", placement=PLACE_WORDS[place])
    step.note("FAD003", Severity.CAVEAT, placement=PLACE_WORDS[place])
    return []


def kernel(step: Step) -> list[Label]:
    """Opaque code."""
    return step.refuse("FAD002")


def reference(step: Step) -> list[Label]:
    """Mutable cells."""
    return step.refuse("FAD004")


def random_bits(step: Step) -> Label:
    """Random draws, new keys or the words of keys: entries differ along the new axes."""
    label = step.inputs[0]
    return label.replace(axes=label.axes + data_axes(step.first_rank - len(label.axes)))


def random_wrap(step: Step) -> Label:
    """A typed key from its raw words, the last axis."""
    return step.inputs[0].replace(axes=step.inputs[0].axes[:-1])
