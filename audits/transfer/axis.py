"""The axis of clients under a primitive, as the table of the translator reads it.

The rules of this package say who holds a result and which other axes have equal rows. Where the axis
of clients goes, and what may not be done to it, stands in `secfad.interop.axes` alone.
"""

from collections.abc import Mapping, Sequence

from audits.transfer.labels import REPLICATED, Label, Place
from secfad.interop.axes import Effect, effect
from secfad.interop.axis_rules import Kept, Kind, Refused, Summed

# What the table refuses, as a rule of the catalogue.
RULES: Mapping[Kind, str] = {
    "reduces": "FAD105",
    "orders": "FAD106",
    "picks": "FAD107",
    "fills": "FAD107",
    "merges": "FAD108",
    "mixes": "FAD109",
    "repeats": "FAD601",
    "depends_on_position": "FAD111",
    "unknown": "FAD001",
}
# Control flow enters its body, messages and collectives have roles, and the rest passes operands on.
_ELSEWHERE = frozenset(
    {
        *("scan", "while", "cond", "call", "custom_rule", "linear_solve", "reverse_only"),
        *("federated_broadcast", "federated_sum", "federated_clip", "identity"),
        *("drjax_broadcast", "drjax_sum", "drjax_mean", "psum", "extremum_collective"),
        *("axis_index", "collective", "callback", "kernel", "reference"),
    }
)
# They may fold clients into features, which the table refuses, and unfold them.
_FOLDING = frozenset({"reshape", "conv"})


def asked(step, family: str) -> Effect | None:
    """What the table says of an equation; None if no operand has an axis of clients there.

    Raises:
      Refused: The equation does to that axis what no program of one client does.
    """
    if not step.style.stacked:
        return None
    axes = [label.client_axis for label in step.inputs]
    first = next((k for k, axis in enumerate(axes) if axis is not None), None)
    if first is None or family in _ELSEWHERE:
        return None
    try:
        return effect(step.equation, axes, step.shape(first)[axes[first]])
    except Refused:
        if family in _FOLDING:
            return None
        raise


def agrees(step, found: Effect | None, family: str, results: Sequence[Label]) -> bool:
    """Whether the labels have the axis of clients, or equal rows, where the table has it."""
    if not step.style.stacked or any(label.poisoned for label in results):
        return True
    if found is not None and not all(
        has_rows(step.inputs[i], step.shape(i), axis) for i, axis in found.takes.items()
    ):
        return False
    if isinstance(found, Kept):
        return [label.client_axis for label in results] == list(found.axes)
    if isinstance(found, Summed):
        return all(label.place == Place.SERVER for label in results)
    free = family in _ELSEWHERE or family in _FOLDING
    return free or all(label.client_axis is None for label in results)


def has_rows(label: Label, shape: Sequence[int], axis: int | None) -> bool:
    """Whether an axis, if there is one, is that of clients or has one row for all of them."""
    if axis is None or label.client_axis == axis or shape[axis] == 1:
        return True
    return label.axes[axis].tag == REPLICATED
