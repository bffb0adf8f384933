"""The rule of elementwise primitives, and of every rule that aligns the axes of several operands.

A server value may be combined with a client value only after a broadcast. With an axis of clients,
each operand must be the clients' own rows, a replicated row or a public scalar.
"""

from collections.abc import Sequence

from audits.rules.rules import Severity
from audits.transfer.interpreter import Reported, Step, nbytes
from audits.transfer.labels import (
    CLIENT_AXIS,
    DATA,
    MERGED,
    POSITION,
    REPLICATED,
    Axis,
    Label,
    Place,
    join_axis,
    join_places,
)


def elementwise(step: Step) -> list[Label]:
    """Element-wise primitives; also `select_n`, whose predicate counts as data."""
    result = meet(step, list(range(len(step.inputs))), step.out_shape())
    return [result] * len(step.equation.outvars)


def identity(step: Step) -> list[Label]:
    """Primitives that pass their operands on."""
    return list(step.inputs)


def meet(
    step: Step,
    operands: Sequence[int],
    shape: tuple[int, ...],
    aligned: Sequence[tuple[Axis | None, ...]] | None = None,
) -> Label:
    """The label of an elementwise result.

    Args:
      step: The equation.
      operands: The operands that take part.
      shape: Shape of the result.
      aligned: For each operand, its axes in the order of the result; None for an axis that the
        operand does not have, such as a size-1 axis. By default axes are matched by position.

    Raises:
      Reported: The operands do not fit, and a finding says so.
    """
    labels = [step.inputs[i] for i in operands]
    if aligned is None:
        aligned = [align(step.inputs[i], step.shape(i), shape) for i in operands]
    axes = []
    for position in range(len(shape)):
        column = [tags[position] for tags in aligned]
        if any(axis is not None and axis.tag == CLIENT_AXIS for axis in column):
            if not _client_column(step, operands, column):
                raise Reported
            axes.append(Axis(CLIENT_AXIS))
        else:
            axes.append(_plain_column(column))
    if sum(axis.tag == CLIENT_AXIS for axis in axes) > 1:
        step.refuse("FAD109")
        raise Reported
    if not _regions(step, operands, axes, aligned):
        raise Reported
    return _result(step, operands, labels, _with_sources(step, labels, axes, shape))


def align(label: Label, shape: tuple[int, ...], out: tuple[int, ...]) -> tuple[Axis | None, ...]:
    """Matches axes by position; a scalar or a size-1 axis matches no axis of the operand."""
    if len(shape) != len(out):
        return (None,) * len(out)
    return tuple(
        None if size == 1 and wide != 1 and axis.tag != CLIENT_AXIS else axis
        for axis, size, wide in zip(label.axes, shape, out)
    )


def _client_column(step: Step, operands: Sequence[int], column: Sequence[Axis | None]) -> bool:
    """Checks the operands along an axis of clients; reports a violation and returns False."""
    for index, axis in zip(operands, column):
        label = step.inputs[index]
        if axis is None:
            if label.on_clients:
                step.refuse("FAD109")
                return False
            continue
        if axis.tag in (CLIENT_AXIS, REPLICATED):
            if axis.tag == REPLICATED and label.place == Place.CLIENT:
                step.refuse("FAD109")
                return False
            continue
        if label.place == Place.PUBLIC and axis.tag == POSITION:
            step.refuse("FAD111")
        elif label.on_clients:
            step.refuse("FAD109")
        else:
            step.refuse("FAD104")
        return False
    return True


def _plain_column(column: Sequence[Axis | None]) -> Axis:
    known = [axis for axis in column if axis is not None]
    if not known:
        return Axis(REPLICATED) if column else Axis(DATA)
    result = known[0]
    for axis in known[1:]:
        result = join_axis(result, axis)
    return result


def _regions(
    step: Step,
    operands: Sequence[int],
    axes: Sequence[Axis],
    aligned: Sequence[tuple[Axis | None, ...]],
) -> bool:
    """Checks server operands of a client computation; sends or reports them."""
    clients = [i for i in operands if step.inputs[i].on_clients]
    if not clients:
        return True
    position = next((k for k, axis in enumerate(axes) if axis.tag == CLIENT_AXIS), None)
    if position is not None and any(
        step.inputs[i].place == Place.CLIENT
        and not {CLIENT_AXIS, MERGED} & set(step.inputs[i].tags)
        for i in clients
    ):
        step.refuse("FAD109")
        return False
    for index, tags in zip(operands, aligned):
        label = step.inputs[index]
        if label.place != Place.SERVER:
            continue
        axis = None if position is None else tags[position]
        sources = frozenset() if axis is None else axis.sources
        if sources and step.style.sums_by_reduction:
            step.checker.send(sources, label.depth, step.scope)
        elif not implicit_broadcast(step, index):
            return False
    return True


def implicit_broadcast(step: Step, index: int) -> bool:
    """A server value is used by clients without a broadcast; True if the style lets it pass."""
    severity = step.style.implicit
    step.note("FAD102", severity, value=step.names[index])
    if severity == Severity.REJECT:
        return False
    size = nbytes(step.shape(index), step.equation.invars[index].aval.dtype)  # type: ignore[attr-defined]
    source = step.checker.source(step, index, size)
    step.checker.send(frozenset({source}), step.inputs[index].depth, step.scope)
    return True


def _with_sources(
    step: Step, labels: Sequence[Label], axes: Sequence[Axis], shape: tuple[int, ...]
) -> tuple[Axis, ...]:
    """A server value that becomes replicated here is a possible separate broadcast."""
    if join_places(label.place for label in labels) != Place.SERVER or not step.style.stacked:
        return tuple(axes)
    made = []
    for position, axis in enumerate(axes):
        if axis.tag == REPLICATED and not axis.sources and shape[position] > 1:
            dtype = step.equation.outvars[0].aval.dtype  # type: ignore[attr-defined]
            size = nbytes(shape, dtype) // shape[position]
            axis = Axis(REPLICATED, frozenset({step.checker.source(step, -1 - position, size)}))
        made.append(axis)
    return tuple(made)


def _result(
    step: Step, operands: Sequence[int], labels: Sequence[Label], axes: tuple[Axis, ...]
) -> Label:
    place = join_places(label.place for label in labels)
    depth = max((label.depth for label in labels), default=0)
    phase = max((label.phase for label in labels), default=-1)
    if place >= Place.COPY:
        phase = max([phase] + [label.depth for label in labels if label.place == Place.SERVER])
        for index, label in zip(operands, labels):
            if label.place == Place.CLIENT and 0 <= label.phase < phase:
                step.checker.keep(step, index)
    made = Label(place, axes, depth, phase)
    return next((label for label in labels if label == made), made)
