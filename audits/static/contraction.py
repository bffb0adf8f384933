"""Contractions, transforms and linear algebra: where a missing aggregator hides."""

from audits.static.elementwise import implicit_broadcast, meet
from audits.static.interpreter import Step
from audits.static.labels import (
    DATA,
    POSITION,
    Axis,
    Label,
    Place,
)


def dot_general(step: Step) -> Label | list[Label]:
    """Clients may be a batch axis of both operands, or a free axis of one."""
    (contract_l, contract_r), (batch_l, batch_r) = step.params["dimension_numbers"]
    left, right = step.inputs
    for side, label, contracted in ((0, left, contract_l), (1, right, contract_r)):
        if label.client_axis in contracted:
            other = (contract_r, contract_l)[side][list(contracted).index(label.client_axis)]
            return _contracted(step, side, other)
    free_l = [k for k in range(len(left.axes)) if k not in (*contract_l, *batch_l)]
    free_r = [k for k in range(len(right.axes)) if k not in (*contract_r, *batch_r)]
    from_left = [left.axes[k] for k in (*batch_l, *free_l)] + [None] * len(free_r)
    from_right = (
        [right.axes[k] for k in batch_r] + [None] * len(free_l) + [right.axes[k] for k in free_r]
    )
    # A free axis of the other operand is not stretched: an operand without clients is just data there.
    joined = meet(step, [0, 1], step.out_shape(), [tuple(from_left), tuple(from_right)])
    return step.poisoned() if joined is None else joined.replace(slots=False)


def _contracted(step: Step, side: int, position: int) -> Label | list[Label]:
    """The axis of clients is summed away by the contraction itself."""
    other = step.inputs[1 - side]
    axis = other.axes[position]
    elsewhere = other.client_axis is not None and other.client_axis != position
    if elsewhere:
        return step.refuse("FAD109")
    if axis.tag == DATA and step.shape(1 - side)[position] != 1:
        return step.refuse("FAD109" if other.on_clients else "FAD104")
    if axis.tag == POSITION:
        return step.refuse("FAD111")
    if not step.style.sums_by_reduction:
        return step.refuse("FAD103")
    if step.checker.mode != "primal":
        return step.refuse("FAD301", mode=step.checker.mode, value=step.names[1 - side])
    if step.scope.client_control:
        return step.refuse("FAD202")
    if other.place == Place.SERVER:
        if not axis.sources and not implicit_broadcast(step, 1 - side):
            return step.poisoned()
        step.checker.send(axis.sources, other.depth, step.scope)
    depth = max(step.scope.depth, *(label.depth for label in step.inputs)) + 1
    out = step.equation.outvars[0]
    number = step.checker.message("sum", step, "contraction", out.aval, depth)
    step.note("FAD112", sum=number)
    return Label(Place.SERVER, (Axis(DATA),) * step.first_rank, depth)


def fft(step: Step) -> Label | list[Label]:
    """A transform mixes its last axes."""
    label = step.inputs[0]
    mixed = len(step.params["fft_lengths"])
    return _leading(step, label, len(label.axes) - mixed)


def linalg(step: Step) -> list[Label]:
    """Decompositions and solves: clients may only be a leading batch axis."""
    core = 2
    vectors = {"householder_product": [2, 1], "tridiagonal_solve": [1, 1, 1, 2]}
    ranks = vectors.get(step.primitive, [core] * len(step.inputs))
    if step.primitive == "lu_pivots_to_permutation":
        ranks = [1]
    kept = [label.axes[: len(label.axes) - r] for label, r in zip(step.inputs, ranks)]
    for label, lead in zip(step.inputs, kept):
        if label.client_axis is not None and label.client_axis >= len(lead):
            return step.refuse("FAD109")
    width = max(len(lead) for lead in kept)
    aligned = [tuple(lead) if len(lead) == width else (None,) * width for lead in kept]
    shape = step.shape(0)[:width]
    joined = meet(step, range(len(step.inputs)), shape, aligned)
    if joined is None:
        return step.poisoned()
    made = []
    for variable in step.equation.outvars:
        rank = len(variable.aval.shape)  # type: ignore[attr-defined]
        made.append(joined.replace(axes=joined.axes + (Axis(DATA),) * (rank - width), slots=False))
    return made


def _leading(step: Step, label: Label, lead: int) -> Label | list[Label]:
    if label.client_axis is not None and label.client_axis >= lead:
        return step.refuse("FAD109")
    axes = label.axes[:lead] + (Axis(DATA),) * (step.first_rank - lead)
    return label.replace(axes=axes, slots=False)


def conv(step: Step) -> Label | list[Label]:
    """Clients may be the batch axis of the images; kernels shared by all clients are constants."""
    numbers = step.params["dimension_numbers"]
    image, kernel = step.inputs
    batch = numbers.lhs_spec[0]
    if kernel.client_axis is not None:
        return step.refuse("FAD109")
    if image.client_axis is not None:
        plain = step.params["batch_group_count"] == 1
        if image.client_axis != batch or not plain:
            return step.refuse("FAD109")
    rank = step.first_rank
    from_image: list[Axis | None] = [Axis(DATA)] * rank
    out = numbers.out_spec[0]
    if step.params["batch_group_count"] == 1:
        from_image[out] = image.axes[batch]
    from_kernel: list[Axis | None] = [Axis(DATA)] * rank
    from_kernel[out] = None
    joined = meet(step, [0, 1], step.out_shape(), [tuple(from_image), tuple(from_kernel)])
    return step.poisoned() if joined is None else joined.replace(slots=False)


def window(step: Step) -> Label | list[Label]:
    """Pooling: the window must not reach across clients."""
    label = step.inputs[0]
    if label.client_axis is not None and not _untouched(step, label.client_axis):
        return step.refuse("FAD109")
    return label.replace(axes=_blurred(step, label), slots=False)


def pool_gradient(step: Step) -> Label | list[Label]:
    """The transpose of pooling: both operands row by row."""
    for label in step.inputs:
        if label.client_axis is not None and not _untouched(step, label.client_axis):
            return step.refuse("FAD109")
    aligned = [_blurred(step, label) for label in step.inputs]
    joined = meet(step, range(len(step.inputs)), step.out_shape(), aligned)
    return step.poisoned() if joined is None else joined.replace(slots=False)


def _blurred(step: Step, label: Label) -> tuple[Axis, ...]:
    return tuple(a if _untouched(step, k) else Axis(DATA) for k, a in enumerate(label.axes))


_TRIVIAL = {
    "window_dimensions": 1,
    "window_strides": 1,
    "base_dilation": 1,
    "window_dilation": 1,
    "padding": (0, 0),
}


def _untouched(step: Step, axis: int) -> bool:
    """Whether the window leaves an axis as it is."""
    for name, value in _TRIVIAL.items():
        found = step.params.get(name)
        if found is not None and _plain(found[axis]) != value:
            return False
    return True


def _plain(value):
    """A padding pair as a tuple, a number as it is."""
    return tuple(value) if isinstance(value, list | tuple) else value
