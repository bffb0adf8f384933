"""`Site`: one equation of the second walk, with the facts and labels of its operands."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from audits.bounds.values.facts import Fact
from audits.transfer.labels import Label
from secfad.inner import JaxprEqn

# The result has every entry of the operand, at other places or several times, and no other.
RESHAPING = frozenset({"broadcast_in_dim", "reshape", "squeeze", "copy", "stop_gradient"})


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


def moved_axes(site: Site) -> dict[int, int]:
    """Where the axes of the first operand are in the result, without those that it does not have.

    Of reshapes it is known only where they add or remove axes of length one.
    """
    shape, out, params = site.shape(0), site.out_shape, site.params
    match site.name:
        case "transpose":
            return {old: new for new, old in enumerate(params["permutation"])}
        case "broadcast_in_dim":
            targets = enumerate(params["broadcast_dimensions"])
            return {k: target for k, target in targets if shape[k] == out[target]}
        case "reshape":
            before = [k for k, size in enumerate(shape) if size != 1]
            after = [k for k, size in enumerate(out) if size != 1]
            same = [shape[k] for k in before] == [out[k] for k in after]
            return dict(zip(before, after)) if same else {}
    gone = {k % len(shape) for k in params["dimensions" if site.name == "squeeze" else "axes"]}
    return {old: new for new, old in enumerate(k for k in range(len(shape)) if k not in gone)}
