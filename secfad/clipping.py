"""`clip`: the one way to bound what a client adds to a sum.

A tree is scaled down so that the joint Euclidean norm of its leaves, each measured in its own unit,
is at most a bound. Non-finite contributions become zero: a clip that lets NaN or infinity through
bounds nothing. It is a primitive, so that a checker recognises it by identity instead of by the
shape of the arithmetic; its derivative is the derivative of the arithmetic, and is *not* bounded.

>>> import jax.numpy as jnp
>>> clip(jnp.array([3.0, 4.0]), 1.0).round(3)
Array([0.6, 0.8], dtype=float32)

Sources: Abadi et al. (2016), section 3.1; the finite guard: Lebensold et al. and the finite guard
of TensorFlow Federated's clipping factories.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad import _jax
from secfad._jax_interpreters import local_primitive
from secfad.errors import ArgumentError

# Below it, squares that underflow in float32 could add up to more than a bound.
SMALLEST_BOUND = 2.0**-40


def _clip(bound: jax.Array, *leaves: jax.Array, norms: tuple[float, ...]) -> list[jax.Array]:
    wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) / c for x, c in zip(leaves, norms)]
    square = jnp.sum(jnp.stack([jnp.sum(jnp.square(x)) for x in wide]))
    # No contribution passes a bound that a computation made NaN, or that means nothing.
    finite = jnp.isfinite(square) & (bound >= SMALLEST_BOUND)
    over = finite & (square > jnp.square(bound))
    # Both branches of `where` are differentiated: the root is never taken at zero.
    factor = jnp.where(over, bound * jax.lax.rsqrt(jnp.where(over, square, 1.0)), 1.0)
    return [_scaled(jnp.where(finite, x, 0), factor, over) for x in leaves]


def _scaled(x: jax.Array, factor: jax.Array, over: jax.Array) -> jax.Array:
    """The product in the dtype of the leaf, of which no entry is rounded up past the bound."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rounding = float(jnp.finfo(x.dtype).eps) / 2
    if rounding > jnp.finfo(jnp.float32).eps:
        factor = jnp.where(over, factor * (1 - rounding), factor)
    return (x * factor.astype(wide)).astype(x.dtype)


def _clip_rows(
    bound: jax.Array, *leaves: jax.Array, norms: tuple[float, ...], rows: int
) -> list[jax.Array]:
    one = lambda *row: _clip(bound, *row, norms=norms)
    for _ in range(rows):
        one = jax.vmap(one)
    return one(*leaves)


def _mapped(operands: Any, mapped: Any, *, norms: tuple[float, ...], rows: int = 0) -> Any:
    """The clip under `vmap`: every row on its own; a bound for each row is left to the arithmetic."""
    if mapped[0] is not None:
        return None
    size = next(x.shape[0] for x in mapped if x is not None)
    leaves = [
        jnp.broadcast_to(x, (size, *jnp.shape(x))) if row is None else row
        for x, row in zip(operands[1:], mapped[1:])
    ]
    return clip_rows_p.bind(operands[0], *leaves, norms=norms, rows=rows + 1)


clip_p = local_primitive("federated_clip", _clip, _mapped)
clip_rows_p = local_primitive("federated_clip_rows", _clip_rows, _mapped)


def clip(tree: Any, bound: Any = 1.0, *, norms: Any = None) -> Any:
    """Bounds the joint L2 norm of a tree; a non-finite tree becomes zero.

    Guarantees:
      For every input, also NaN and infinite ones, sqrt(sum_k ||y_k||^2 / norms_k^2) <= bound, up to
      rounding in float32 (or the wider dtype of a leaf), and of subnormal numbers in float16. A bound
      that is NaN or below 2**-40 when the program runs lets nothing through.

    Args:
      tree: A tree of floating-point arrays.
      bound: The largest joint norm; a number, or a scalar array such as a broadcast clip norm.
      norms: The unit of each leaf: a number for all, or a tree of numbers. 1 by default, so that
        `bound` is the ordinary clip norm.

    Returns:
      The scaled tree, with the same structure, shapes and dtypes.

    Raises:
      ArgumentError: A leaf is not floating point, or the bound is no number.
      ValueError: A unit or a constant bound is not positive and finite, or the bound is not a scalar.

    Source: Abadi et al., "Deep Learning with Differential Privacy" (2016), section 3.1.
    """
    leaves, structure = jax.tree.flatten(tree)
    if not leaves:
        return tree
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ArgumentError(
                f"{_jax.here()}expected floating-point leaves to clip, got dtype {jnp.result_type(leaf)}. "
                "Convert with .astype(jnp.float32) first."
            )
    bound = _checked_bound(bound)
    units = _units(norms, structure, len(leaves))
    return jax.tree.unflatten(structure, clip_p.bind(bound, *leaves, norms=units))


def _checked_bound(bound: Any) -> Any:
    if not hasattr(bound, "dtype") and not isinstance(bound, int | float):
        raise ArgumentError(
            f"{_jax.here()}expected a number or a scalar array as the bound of a clip, got a "
            f"{type(bound).__name__}. Write clip(tree, 1.0)."
        )
    if jnp.shape(bound) != ():
        raise ValueError(
            f"Expected one bound for the joint norm of a clip, got shape {jnp.shape(bound)}. "
            "Pass a scalar, and `norms` for a unit per leaf."
        )
    if isinstance(bound, _jax.Tracer):
        return bound
    if _checked_positive(bound, "bound") < SMALLEST_BOUND:
        raise ValueError(
            f"Expected a bound of at least {SMALLEST_BOUND:.1e}, got {bound}. Measure in other units: "
            "pass `norms`."
        )
    return np.float32(bound) if isinstance(bound, int | float) else bound


def _units(norms: Any, structure: Any, count: int) -> tuple[float, ...]:
    if norms is None:
        return (1.0,) * count
    if isinstance(norms, int | float):
        return (_checked_positive(norms, "norms"),) * count
    if jax.tree.structure(norms) != structure:
        raise ValueError(
            f"Expected norms with the structure {structure}, got {jax.tree.structure(norms)}. "
            "Give one number per leaf, or one for all."
        )
    return tuple(_checked_positive(c, "norms") for c in jax.tree.leaves(norms))


def _checked_positive(value: Any, what: str) -> float:
    if not 0 < float(value) < float("inf"):
        raise ValueError(
            f"Expected {what} to be positive and finite, got {value}. "
            "A clip norm is the largest Euclidean norm of one client's contribution."
        )
    return float(value)
