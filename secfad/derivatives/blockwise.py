"""Blockwise mode: local Jacobians where they are small, cotangents where they are not.

Mixed mode sends the Jacobian of every sum; that of a sum of models by a model is a matrix. Reverse mode
sends cotangents for every sum, each of which may need a further contact with the same clients. Sums
differ, so this mode chooses for each: a loss, or a few metrics, brings its Jacobian along, as in mixed
mode, and a sum with a large Jacobian is differentiated as it is written, as in reverse mode. Where the
last sums are small and earlier ones are not, that is one contact less than reverse mode.

Source: Rush, Charles, Garrett (JMLR 2024), section 3.4: modes can be combined in one program.
"""

from collections.abc import Callable
from typing import Any

from secfad import _jax
from secfad.derivatives.jacobians import as_written, sum_with_jacobians
from secfad.derivatives.slicing import Slice
from secfad.jaxprs.equations import Sum

# Under the standard cost model this much upload weighs as much as one contact.
SMALL_BYTES = 250_000
FEW_ROWS = 4


def sum_by_size(name: str, local: Slice, step: Sum) -> Callable:
    """The sum as a function of what was broadcast, with the derivative that suits its size."""
    return sum_with_jacobians(name, local, step) if is_small(local) else as_written(local, step)


def is_small(local: Slice) -> bool:
    """Whether the wanted Jacobian of a sum is of at most 250 kB, or has at most four rows."""
    rows, entries = 0, 0
    for operand, needs, wanted in zip(local.jaxpr.outvars, local.depends, local.wanted):
        if wanted and any(needs):
            columns = sum(_size(v) for v, need in zip(local.jaxpr.invars, needs) if need)
            rows += _size(operand)
            entries += _size(operand) * columns * _jax.spec(operand.aval).dtype.itemsize
    return rows <= FEW_ROWS or entries <= SMALL_BYTES


def _size(variable: Any) -> int:
    return _jax.spec(variable.aval).size
