"""Structural primitives and reductions: the effect on the axis of clients."""

import math
from collections.abc import Sequence

from audits.transfer.interpreter import Step, nbytes
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
)


def broadcast_in_dim(step: Step) -> Label:
    """A new axis, or a broadcast axis of size 1, is replicated."""
    label, shape, out = step.inputs[0], step.shape(0), step.out_shape()
    axes = [Axis(REPLICATED)] * len(out)
    stretched = set(range(len(out)))
    for source, target in enumerate(step.params["broadcast_dimensions"]):
        if shape[source] == out[target]:
            axes[target] = label.axes[source]
            stretched.discard(target)
    if label.place == Place.SERVER and step.style.stacked:
        for target in stretched:
            if out[target] > 1:
                dtype = step.equation.outvars[0].aval.dtype  # type: ignore[attr-defined]
                size = nbytes(out, dtype) // out[target]
                axes[target] = Axis(
                    REPLICATED, frozenset({step.checker.source(step, -1 - target, size)})
                )
    return label.replace(axes=tuple(axes))


def reshape(step: Step) -> Label | list[Label]:
    """The axis of clients survives if its size and the entries before it stay the same."""
    label, shape = step.inputs[0], step.shape(0)
    order = step.params.get("dimensions") or range(len(shape))
    before = tuple(label.axes[k] for k in order)
    axes = reshaped_axes(before, tuple(shape[k] for k in order), step.out_shape())
    held = {CLIENT_AXIS, MERGED}
    if held & {a.tag for a in before} and not held & {a.tag for a in axes}:
        return step.refuse("FAD108")
    return label.replace(axes=axes)


def reshaped_axes(
    axes: Sequence[Axis], shape: Sequence[int], out: Sequence[int]
) -> tuple[Axis, ...]:
    """Tags after a reshape; merged axes are replicated only if all of them were.

    Row-major order keeps an axis if its size and the number of entries before it stay the same. If
    an axis of rows is merged with all axes up to a boundary, the result is tagged as merged and can
    be split again.
    """
    merged_at, split_at = {}, {}
    for k, axis in enumerate(axes):
        start = math.prod(shape[:k])
        if axis.tag in (CLIENT_AXIS, REPLICATED):
            merged_at[start] = (axis, shape[k])
        elif axis.tag in (MERGED, MERGED_COPIES) and axis.rows > 0:
            split_at[start, axis.rows] = axis
    before = {(size, math.prod(shape[:k])): axes[k] for k, size in enumerate(shape) if size != 1}
    kept = {(size, math.prod(out[:k])) for k, size in enumerate(out) if size != 1}
    lost = [a for key, a in before.items() if key not in kept]
    tags = {a.tag for a in lost}
    kinds = {DATA, CLIENT_AXIS, MERGED, MERGED_COPIES}
    if tags <= {REPLICATED}:
        merged = Axis(REPLICATED, frozenset().union(*(a.sources for a in lost)))
    else:
        merged = Axis(DATA if tags & kinds else POSITION)
    made = []
    for k, size in enumerate(out):
        start = math.prod(out[:k])
        if size == 1:
            made.append(Axis(DATA))
        elif (size, start) in before:
            made.append(before[size, start])
        elif (start, size) in split_at:
            axis = split_at[start, size]
            made.append(Axis(CLIENT_AXIS if axis.tag == MERGED else REPLICATED, axis.sources))
        elif start in merged_at and merged.tag != REPLICATED and _whole(size, start, shape):
            axis, rows = merged_at[start]
            tag = MERGED if axis.tag == CLIENT_AXIS else MERGED_COPIES
            made.append(Axis(tag, axis.sources, rows) if size % rows == 0 else merged)
        else:
            made.append(merged)
    return tuple(made)


def _whole(size: int, start: int, shape: Sequence[int]) -> bool:
    """Whether an output axis ends where an input axis ends."""
    ends = {math.prod(shape[: k + 1]) for k in range(len(shape))}
    return start * size in ends


def transpose(step: Step) -> Label:
    """Axes move with their tags."""
    label = step.inputs[0]
    return label.replace(axes=tuple(label.axes[k] for k in step.params["permutation"]))


def squeeze(step: Step) -> Label:
    """Axes of size 1 disappear."""
    label, gone = step.inputs[0], set(step.params["dimensions"])
    return label.replace(axes=tuple(a for k, a in enumerate(label.axes) if k not in gone))


def iota(step: Step) -> Label:
    """Public, and different at every position of one axis."""
    dimension = step.params["dimension"]
    axes = [Axis(POSITION if k == dimension else REPLICATED) for k in range(step.first_rank)]
    return Label(Place.PUBLIC, tuple(axes))


def filler(step: Step) -> Label:
    """The residuals of a branch that is not taken; JAX fills them with zeros."""
    return Label(Place.PUBLIC, (Axis(REPLICATED),) * step.first_rank)


def bitcast(step: Step) -> Label:
    """A change of width adds or removes a last axis."""
    label, rank = step.inputs[0], step.first_rank
    return label.replace(axes=(*label.axes, Axis(DATA))[:rank])


def reduce_other(step: Step) -> Label | list[Label]:
    """Extrema, products and logical reductions: never over clients."""
    return _reduced(step, "FAD105")


def reduce_data_axes(step: Step) -> Label | list[Label]:
    """A sum over axes of data."""
    return _reduced(step, "FAD103")


def _reduced(step: Step, rule: str) -> Label | list[Label]:
    label, gone = step.inputs[0], set(step.params["axes"])
    copies = label.place == Place.COPY and step.style.stacked
    if copies and any(label.axes[k].tag == REPLICATED for k in gone & {0}):
        return step.refuse(rule)
    axes = tuple(a for k, a in enumerate(label.axes) if k not in gone)
    return label.replace(axes=axes)


def ordered(step: Step) -> Label:
    """Cumulative sums and similar operations along one axis."""
    label = step.inputs[0]
    return label.replace(axes=data_at(label.axes, step.params["axis"]))


def data_at(axes: tuple[Axis, ...], position: int) -> tuple[Axis, ...]:
    """The axes, one of which is data now."""
    return tuple(Axis(DATA) if k == position else a for k, a in enumerate(axes))


def top_k(step: Step) -> list[Label]:
    """The largest entries along one axis."""
    label = step.inputs[0]
    axis = step.params.get("axis", -1) % len(label.axes)
    return [label.replace(axes=data_at(label.axes, axis))] * len(step.equation.outvars)
