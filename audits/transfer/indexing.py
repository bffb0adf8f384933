"""Slices, joins and sorts along single axes: allowed along data, never along clients."""

from audits.transfer import registry
from audits.transfer.elementwise import meet
from audits.transfer.interpreter import Step
from audits.transfer.labels import CLIENT_AXIS, DATA, REPLICATED, Axis, Label, Place
from audits.transfer.structure import data_at
from secfad.inner import Jaxpr, as_call


def sort(step: Step) -> list[Label]:
    """All operands are permuted together, so each result depends on all of them."""
    joined = meet(step, range(len(step.inputs)), step.out_shape())
    axes = data_at(joined.axes, step.params["dimension"])
    return [joined.replace(axes=axes)] * len(step.equation.outvars)


def taken(step: Step) -> list[Label]:
    """Entries in another order, some of them, or copies: tags stay."""
    return step.inputs[:1] * len(step.equation.outvars)


def dynamic_slice(step: Step) -> Label:
    """A slice at computed positions, which count as data."""
    return _indexed(step, [0], list(range(1, len(step.inputs))), step.inputs[0].axes)


def dynamic_update_slice(step: Step) -> Label:
    """Writes a block."""
    aligned = [label.axes for label in step.inputs[:2]]
    joined = meet(step, [0, 1], step.out_shape(), aligned)
    axes = tuple(
        Axis(DATA) if step.shape(0)[k] != step.shape(1)[k] and a.tag != CLIENT_AXIS else a
        for k, a in enumerate(joined.axes)
    )
    return _indexed(step, [0, 1], list(range(2, len(step.inputs))), axes)


def _indexed(step: Step, data: list[int], indices: list[int], axes: tuple[Axis, ...]) -> Label:
    """Joins scalar indices, which have no axis, into the result."""
    rank = len(axes)
    aligned = [axes] * len(data) + [(None,) * rank] * len(indices)
    joined = meet(step, data + indices, step.out_shape(), aligned)
    moved = any(step.inputs[i].place != Place.PUBLIC for i in indices)
    kept = tuple(
        Axis(DATA) if moved and a.tag not in (CLIENT_AXIS, REPLICATED) else a for a in axes
    )
    return joined.replace(axes=kept)


def pad(step: Step) -> Label:
    """Padded axes are data."""
    label, config = step.inputs[0], step.params["padding_config"]
    aligned = [label.axes, (None,) * len(label.axes)]
    joined = meet(step, [0, 1], step.out_shape(), aligned)
    axes = tuple(
        Axis(DATA) if tuple(config[k]) != (0, 0, 0) else a for k, a in enumerate(joined.axes)
    )
    return joined.replace(axes=axes)


def concatenate(step: Step) -> Label:
    """Pieces along one axis of data."""
    # A size-1 axis of a piece is not broadcast here, so align by position.
    aligned = [label.axes for label in step.inputs]
    joined = meet(step, range(len(step.inputs)), step.out_shape(), aligned)
    if len(step.inputs) == 1:
        return joined
    return joined.replace(axes=data_at(joined.axes, step.params["dimension"]))


def stack(step: Step) -> Label:
    """Like a concatenation along a new axis."""
    axis = step.params["axis"]
    aligned = [(*label.axes[:axis], Axis(DATA), *label.axes[axis:]) for label in step.inputs]
    return meet(step, range(len(step.inputs)), step.out_shape(), aligned)


def unstack(step: Step) -> list[Label]:
    """Every entry along one axis of data, without the axis."""
    label, axis = step.inputs[0], step.params["axis"]
    if label.place == Place.COPY and step.style.stacked and axis == 0:
        return step.refuse("FAD107")
    axes = (*label.axes[:axis], *label.axes[axis + 1 :])
    return [label.replace(axes=axes)] * len(step.equation.outvars)


def gather(step: Step) -> Label | list[Label]:
    """Reads at computed positions."""
    numbers, sizes = step.params["dimension_numbers"], step.params["slice_sizes"]
    operand, indices = step.inputs[0], step.inputs[1]
    own = indices.client_axis
    looked_up = own is not None and own not in numbers.start_indices_batching_dims
    if operand.place == Place.SERVER and looked_up:
        return step.refuse("FAD104")
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    windowed = [k for k in range(len(operand.axes)) if k not in gone]
    rank = step.first_rank
    batch = [k for k in range(rank) if k not in numbers.offset_dims]
    from_operand: list[Axis | None] = [None] * rank
    from_indices: list[Axis | None] = [None] * rank
    for position, source in zip(sorted(numbers.offset_dims), windowed):
        whole = sizes[source] == step.shape(0)[source]
        from_operand[position] = operand.axes[source] if whole else Axis(DATA)
    for position, source in zip(batch, range(len(indices.axes) - 1)):
        from_indices[position] = indices.axes[source]
    for mine, theirs in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims):
        from_operand[batch[theirs]] = operand.axes[mine]
    return meet(step, [0, 1], step.out_shape(), [tuple(from_operand), tuple(from_indices)])


def scatter(step: Step) -> Label | list[Label]:
    """Writes at computed positions."""
    if not _readable_update(step):
        return step.refuse("FAD002", primitive=f"{step.primitive} of an update of its own")
    numbers = step.params["dimension_numbers"]
    target, indices, updates = step.inputs
    rank = len(target.axes)
    gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    windowed = [k for k in range(rank) if k not in gone]
    batch = [k for k in range(len(updates.axes)) if k not in numbers.update_window_dims]
    from_indices: list[Axis | None] = [None] * rank
    from_updates: list[Axis | None] = [None] * rank
    rows: set[int] = set()
    for mine, theirs in zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims):
        from_indices[mine] = indices.axes[theirs]
        from_updates[mine] = updates.axes[batch[theirs]]
        rows |= {mine}
    for mine, theirs in zip(windowed, sorted(numbers.update_window_dims)):
        whole = step.shape(0)[mine] == step.shape(2)[theirs]
        moving = mine in numbers.scatter_dims_to_operand_dims
        if whole and not moving:
            from_updates[mine] = updates.axes[theirs]
            rows |= {mine}
    aligned = [target.axes, tuple(from_indices), tuple(from_updates)]
    joined = meet(step, [0, 1, 2], step.out_shape(), aligned)
    axes = tuple(a if k in rows else Axis(DATA) for k, a in enumerate(joined.axes))
    return joined.replace(axes=axes)


def _readable_update(step: Step) -> bool:
    """A scatter combines old and new entries by the operation in its name or by an elementwise
    jaxpr.
    """
    update = step.params.get("update_jaxpr")
    if update is None:
        return True
    if step.primitive == "scatter":
        return _is_elementwise(update, step.style.name)
    named = step.primitive.replace("_", "-").removeprefix("scatter-")
    if update.constvars or len(update.eqns) != 1:
        return False
    (only,) = update.eqns
    known = registry.family(only.primitive, style=step.style.name) == "elementwise"
    wired = list(only.invars) == list(update.invars) and list(only.outvars) == list(update.outvars)
    return known and wired and only.primitive.name == named


def _is_elementwise(jaxpr: Jaxpr, style: str) -> bool:
    """True for an elementwise jaxpr without constants, at any depth of calls."""
    if jaxpr.constvars:
        return False
    for equation in jaxpr.eqns:
        family = registry.family(equation.primitive, style=style)
        call = as_call(equation) if family in ("call", "custom_rule") else None
        if call is not None and not call.body.consts:
            if not _is_elementwise(call.body.jaxpr, style):
                return False
        elif family != "elementwise":
            return False
    return True
