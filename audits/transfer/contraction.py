"""Contractions, transforms and linear algebra, which can hide a sum over clients."""

from audits.transfer.elementwise import implicit_broadcast, meet
from audits.transfer.interpreter import Step
from audits.transfer.labels import (
    CLIENT_AXIS,
    DATA,
    MERGED,
    MERGED_COPIES,
    POSITION,
    REPLICATED,
    Axis,
    Label,
    Place,
    data_axes,
)
from secfad.interop.axis_rules import has_windows


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
    # A free axis of the other operand is not broadcast, so an operand without clients is data
    # there.
    return meet(step, [0, 1], step.out_shape(), [tuple(from_left), tuple(from_right)])


def _contracted(step: Step, side: int, position: int) -> Label | list[Label]:
    """The contraction sums over the axis of clients."""
    other = step.inputs[1 - side]
    axis = other.axes[position]
    if axis.tag == DATA and step.shape(1 - side)[position] != 1:
        return step.refuse("FAD109" if other.on_clients else "FAD104")
    if axis.tag == POSITION:
        return step.refuse("FAD111")
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
    step.checker.summed(step, number, any(label.slots for label in step.inputs))
    return Label(Place.SERVER, (Axis(DATA),) * step.first_rank, depth)


def fft(step: Step) -> Label:
    """A transform mixes its last axes."""
    label, mixed = step.inputs[0], len(step.params["fft_lengths"])
    return label.replace(axes=(*label.axes[:-mixed], *data_axes(mixed)))


def linalg(step: Step) -> list[Label]:
    """Decompositions and solves of the trailing axes."""
    core = 2
    vectors = {"householder_product": [2, 1], "tridiagonal_solve": [1, 1, 1, 2]}
    ranks = vectors.get(step.primitive, [core] * len(step.inputs))
    if step.primitive == "lu_pivots_to_permutation":
        ranks = [1]
    kept = [label.axes[: len(label.axes) - r] for label, r in zip(step.inputs, ranks)]
    width = max(len(lead) for lead in kept)
    aligned = [tuple(lead) if len(lead) == width else (None,) * width for lead in kept]
    shape = step.shape(0)[:width]
    joined = meet(step, range(len(step.inputs)), shape, aligned)
    made = []
    for variable in step.equation.outvars:
        rank = len(variable.aval.shape)  # type: ignore[attr-defined]
        made.append(joined.replace(axes=joined.axes + (Axis(DATA),) * (rank - width)))
    return made


def conv(step: Step) -> Label | list[Label]:
    """Clients may be the batch axis of the images, or a group of features for each client."""
    numbers = step.params["dimension_numbers"]
    rank = step.first_rank
    image, kernel = step.inputs
    from_image: list[Axis | None] = [Axis(DATA)] * rank
    from_kernel: list[Axis | None] = [Axis(DATA)] * rank
    batch, feature = numbers.out_spec[0], numbers.out_spec[1]
    single = step.params["batch_group_count"] == 1
    placed = {numbers.lhs_spec[0]: batch} if single else {}
    inputs, outputs = numbers.lhs_spec[1], numbers.rhs_spec[0]
    folded = _folded(image.axes[inputs], step.shape(0)[inputs])
    folds = _folded(kernel.axes[outputs], step.shape(1)[outputs])
    if single and _grouped(step, folded, folds):
        placed[inputs] = feature
    for axis, tagged in enumerate(image.axes):
        if axis in placed:
            from_image[placed[axis]] = _as_rows(folded if axis == inputs else tagged)
        elif tagged.tag in (CLIENT_AXIS, MERGED):
            return step.refuse("FAD109")
    from_kernel[batch] = None
    for axis, tagged in enumerate(kernel.axes):
        if axis == outputs and single and folds.tag in (MERGED, MERGED_COPIES):
            from_kernel[feature] = _as_rows(folds)
            if from_image[feature] == Axis(DATA):
                if step.params["feature_group_count"] != 1:
                    return step.refuse("FAD104")  # each client would see other features
                from_image[feature] = None
        elif tagged.tag in (CLIENT_AXIS, MERGED):
            return step.refuse("FAD109")
    joined = meet(step, [0, 1], step.out_shape(), [tuple(from_image), tuple(from_kernel)])
    return _merged_again(step, joined)


def _folded(axis: Axis, size: int) -> Axis:
    """An axis of rows as a merged axis with one feature per row."""
    if axis.tag == CLIENT_AXIS:
        return Axis(MERGED, rows=size)
    return Axis(MERGED_COPIES, axis.sources, size) if axis.tag == REPLICATED else axis


def _grouped(step: Step, image: Axis, kernel: Axis) -> bool:
    """Features of image and kernel are groups by client, and the convolution keeps them apart."""
    merged = (MERGED, MERGED_COPIES)
    if image.tag not in merged or kernel.tag not in merged or image.rows != kernel.rows:
        return False
    return image.rows > 0 and step.params["feature_group_count"] % image.rows == 0


def _as_rows(axis: Axis) -> Axis:
    """A merged axis as its axis of rows, for the elementwise rule."""
    if axis.tag == MERGED:
        return Axis(CLIENT_AXIS, rows=axis.rows)
    return Axis(REPLICATED, axis.sources, axis.rows) if axis.tag == MERGED_COPIES else axis


def _merged_again(step: Step, joined: Label) -> Label:
    """An axis longer than the number of rows is merged with the features of the operand."""
    axes = []
    for axis, size in zip(joined.axes, step.out_shape()):
        known = {a.rows for label in step.inputs for a in label.axes if a.rows}
        known |= {step.shape(k)[label.client_axis] for k, label in enumerate(step.inputs)
                  if label.client_axis is not None}  # fmt: skip
        if axis.tag == REPLICATED and joined.place == Place.SERVER:
            axes.append(Axis(DATA))
        elif axis.tag == CLIENT_AXIS and size not in known:
            axes.append(Axis(MERGED, rows=known.pop() if len(known) == 1 else -1))
        else:
            axes.append(axis)
    return joined.replace(axes=tuple(axes))


def window(step: Step) -> Label:
    """Pooling."""
    return step.inputs[0].replace(axes=_blurred(step, step.inputs[0]))


def pool_gradient(step: Step) -> Label:
    """The transpose of pooling."""
    aligned = [_blurred(step, label) for label in step.inputs]
    return meet(step, range(len(step.inputs)), step.out_shape(), aligned)


def _blurred(step: Step, label: Label) -> tuple[Axis, ...]:
    rows = enumerate(label.axes)
    return tuple(Axis(DATA) if has_windows(step.params, k) else a for k, a in rows)
