"""`Site`: one equation of the second walk, with the facts and labels of its operands."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from audits.bounds.values.facts import Fact
from audits.transfer.labels import Label
from secfad.inner import JaxprEqn


@dataclasses.dataclass(slots=True)
class Site:
    """The input of a transfer function of facts.

    Attributes:
      equation: The equation.
      facts: One per operand.
      labels: One per operand, from the communication check.
      outputs: Labels of the results.
      number: Number of the first result.
      stacked: Client values carry an axis of clients.
      name: Name of the primitive; its identity was checked before.
    """

    equation: JaxprEqn
    facts: list[Fact]
    labels: list[Label]
    outputs: list[Label]
    number: int
    stacked: bool
    name: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.name = self.equation.primitive.name

    @property
    def params(self) -> Mapping[str, Any]:
        """Parameters of the equation."""
        return self.equation.params

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of an operand."""
        return self.equation.invars[index].aval.shape  # type: ignore[attr-defined]

    def operand_dtype(self, index: int) -> Any:
        """Dtype of an operand."""
        return self.equation.invars[index].aval.dtype  # type: ignore[attr-defined]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.equation.outvars[0].aval.shape  # type: ignore[attr-defined]

    @property
    def dtype(self) -> Any:
        """Dtype of the first result."""
        return self.equation.outvars[0].aval.dtype  # type: ignore[attr-defined]

    @property
    def client_axis(self) -> int | None:
        """Axis of clients of the first result."""
        return self.outputs[0].client_axis

    def own_axes(self, index: int | None = None) -> frozenset[int]:
        """Axes of one client's value: all but the axis of clients."""
        shape = self.out_shape if index is None else self.shape(index)
        label = self.outputs[0] if index is None else self.labels[index]
        return frozenset(range(len(shape))) - {label.client_axis}


def entries(shape: tuple[int, ...], axes: frozenset[int] | set[int]) -> int:
    """Number of entries along some axes."""
    return math.prod(shape[k] for k in axes)
