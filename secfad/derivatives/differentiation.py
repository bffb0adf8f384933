"""Differentiation: what JAX is asked for, once a mode has made a function that it can differentiate.

`broadcast` and `sum` carry JAX's own rules, so nothing here knows of clients. A function with `aux`
returns `(value, aux)`, of which only the value is differentiated; what was prepared for a derivative
of `aux` is dead code, which no program keeps, neither its computation nor its messages.

By a complex number z = x + iy a real value has the derivative d/dx - i d/dy in every mode, as in
`jax.grad`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from secfad.derivatives.requirements import is_complex


def value_and_gradient(fun: Callable, at: Any, mode: str, has_aux: bool) -> tuple[Any, Any]:
    """What a function of one tree gives, `aux` included, and the gradient of its value."""
    if not jax.tree.leaves(at):
        return fun(at), at
    if mode != "forward":
        return jax.value_and_grad(fun, has_aux=has_aux)(at)

    def twice(at: Any) -> tuple:
        result = fun(at)
        return result[0] if has_aux else result, result

    gradient, result = _forward(twice, at, has_aux=True)
    # In the number types of the arguments, as backwards, not in that of the value.
    return result, jax.tree.map(lambda g, x: g.astype(jnp.result_type(x)), gradient, at)


def gradient(fun: Callable, at: Any, mode: str, has_aux: bool) -> Any:
    """The gradient of the value of a function, with `aux` if there is any."""
    result, derivative = value_and_gradient(fun, at, mode, has_aux)
    return (derivative, result[1]) if has_aux else derivative


def jacobian(fun: Callable, at: Any, mode: str, has_aux: bool) -> Any:
    """The Jacobian of what a function gives, with `aux` if there is any."""
    forward = mode == "forward"
    if mode == "mixed" or not jax.tree.leaves(at):
        shapes = jax.eval_shape(fun, at)
        out = shapes[0] if has_aux else shapes
        if not jax.tree.leaves(at):
            empty = jax.tree.map(lambda _: at, out)
            return (empty, fun(at)[1]) if has_aux else empty
        # Only the server differentiates here, so the smaller side decides.
        forward = _has_complex(out) or (_size(at) < _size(out) and not _has_complex(at))
    if forward:
        return _forward(fun, at, has_aux)
    return jax.jacrev(fun, has_aux=has_aux)(at)


def _forward(fun: Callable, at: Any, has_aux: bool) -> Any:
    """`jax.jacfwd`, also by complex numbers."""
    leaves, tree = jax.tree.flatten(at)
    is_whole = [is_complex(leaf.dtype) for leaf in leaves]
    if not any(is_whole):
        return jax.jacfwd(fun, has_aux=has_aux)(at)
    structures = []

    def of_parts(parts: tuple[list[Any], list[Any]]) -> Any:
        results = fun(joined(*parts))
        structures.append(jax.tree.structure(results[0] if has_aux else results))
        return results

    def joined(real: list[Any], imaginary: list[Any], sign: int = 1) -> Any:
        rest = iter(imaginary)
        whole = [jax.lax.complex(x, sign * next(rest)) if w else x for x, w in zip(real, is_whole)]
        return jax.tree.unflatten(tree, whole)

    real = [leaf.real if w else leaf for leaf, w in zip(leaves, is_whole)]
    imaginary = [leaf.imag for leaf, w in zip(leaves, is_whole) if w]
    taken = jax.jacfwd(of_parts, has_aux=has_aux)((real, imaginary))
    rows = structures[0].flatten_up_to(taken[0] if has_aux else taken)
    derivative = jax.tree.unflatten(structures[0], [joined(*parts, sign=-1) for parts in rows])
    return (derivative, taken[1]) if has_aux else derivative


def _size(tree: Any) -> int:
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def _has_complex(tree: Any) -> bool:
    return any(is_complex(leaf.dtype) for leaf in jax.tree.leaves(tree))
