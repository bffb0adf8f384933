"""Products whose sum over clients is one product with more to contract.

One entry per primitive in which a shared weight meets the data of clients, seen from the derivative
with respect to the weight: matrix products, convolutions, and additions into the rows of a table (the
derivative of a look-up). A rule computes the sum over clients from operands that have a leading axis
of clients where they differ between clients.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from secfad._jax import JaxprEqn, Primitive, jax_primitives
from secfad._jax_interpreters import client_contraction
from secfad.primitives import repeated
from secfad.totals import over_clients


def contraction(equation: JaxprEqn) -> Primitive | None:
    """The primitive that computes an equation summed over clients, or None if it is no product."""
    groups = ("feature_group_count", "batch_group_count")
    if any(equation.params.get(name, 1) != 1 for name in groups):
        return None
    return _CONTRACTIONS.get(equation.primitive)


def _total(clients: int, value: Any, mapped: bool) -> Any:
    if mapped:
        return over_clients(value)
    return repeated(value, clients)


def _matrix_product(operands: Sequence[Any], params: dict[str, Any]) -> Any:
    contracting, batch = params["dimension_numbers"]
    if any(left == right == 0 for left, right in zip(*contracting)):
        # The clients' axis lies next to a contracted one: one axis is quicker to compile and to run.
        operands = [x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]) for x in operands]
        return jax_primitives.dot_general_p.bind(*operands, **params)
    contracted = tuple((0, *(axis + 1 for axis in axes)) for axes in contracting)
    batched = tuple(tuple(axis + 1 for axis in axes) for axes in batch)
    params = params | {"dimension_numbers": (contracted, batched)}
    return jax_primitives.dot_general_p.bind(*operands, **params)


def _convolution(operands: Sequence[Any], params: dict[str, Any]) -> Any:
    numbers = params["dimension_numbers"]
    features = (numbers.lhs_spec[1], numbers.rhs_spec[1])
    merged = [_with_clients_in(x, axis) for x, axis in zip(operands, features)]
    return jax_primitives.conv_general_dilated_p.bind(*merged, **params)


def _with_clients_in(value: jax.Array, axis: int) -> jax.Array:
    """The array with its leading axis merged into another."""
    shape = [*value.shape[1:]]
    shape[axis] *= value.shape[0]
    return jnp.moveaxis(value, 0, axis).reshape(shape)


def _bilinear(primitive: Primitive, both: Callable) -> Callable:
    """The rule of a product of two operands; `both` computes it where both differ."""

    def over_clients(
        clients: int, operands: Sequence[Any], mapped: Sequence[bool], params: dict[str, Any]
    ) -> Any:
        if all(mapped):
            return both(operands, params)
        summed = [_total(clients, x, True) if m else x for x, m in zip(operands, mapped)]
        product = primitive.bind(*summed, **params)
        return product if any(mapped) else _total(clients, product, False)

    return over_clients


def _additions(
    clients: int, operands: Sequence[Any], mapped: Sequence[bool], params: dict[str, Any]
) -> Any:
    """The rule of additions into a table: those of all clients go into one."""
    table = _total(clients, operands[0], mapped[0])
    indices, updates = (
        x if m else jnp.broadcast_to(x, (clients, *x.shape))
        for x, m in zip(operands[1:], mapped[1:])
    )
    numbers = params["dimension_numbers"]
    numbers = numbers._replace(
        update_window_dims=tuple(axis + 1 for axis in numbers.update_window_dims),
        scatter_indices_batching_dims=tuple(
            axis + 1 for axis in numbers.scatter_indices_batching_dims
        ),
    )
    # Different clients may add to the same row.
    params = params | {
        "dimension_numbers": numbers,
        "indices_are_sorted": False,
        "unique_indices": False,
    }
    return jax_primitives.scatter_add_p.bind(table, indices, updates, **params)


_RULES = {
    jax_primitives.dot_general_p: _bilinear(jax_primitives.dot_general_p, _matrix_product),
    jax_primitives.conv_general_dilated_p: _bilinear(
        jax_primitives.conv_general_dilated_p, _convolution
    ),
    jax_primitives.scatter_add_p: _additions,
}
_CONTRACTIONS = {
    p: client_contraction(f"federated_{p.name}", p.bind, rule) for p, rule in _RULES.items()
}
