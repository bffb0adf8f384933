"""Differentiation: what JAX is asked for, once a mode has made a function that it can differentiate.

`broadcast` and `sum` carry JAX's own rules, so nothing here knows of clients. A function with `aux`
returns `(value, aux)`, of which only the value is differentiated; what was prepared for a derivative
of `aux` is dead code, which no program keeps, neither its computation nor its messages.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from secfad.derivatives.requirements import Argnums, is_complex


def value_and_gradient(
    fun: Callable, args: Sequence[Any], argnums: Argnums, mode: str, has_aux: bool
) -> tuple[Any, Any]:
    """What a function gives, `aux` included, and the gradient of its value."""
    chosen = _chosen(args, argnums)
    if not jax.tree.leaves(chosen):
        return fun(*args), chosen
    if mode != "forward":
        return jax.value_and_grad(fun, argnums=argnums, has_aux=has_aux)(*args)

    def twice(*args: Any) -> tuple:
        result = fun(*args)
        return result[0] if has_aux else result, result

    gradient, result = jax.jacfwd(twice, argnums=argnums, has_aux=True)(*args)
    # In the number types of the arguments, as backwards, not in that of the value.
    return result, jax.tree.map(lambda g, x: g.astype(jnp.result_type(x)), gradient, chosen)


def gradient(fun: Callable, args: Sequence[Any], argnums: Argnums, mode: str, has_aux: bool) -> Any:
    """The gradient of the value of a function, with `aux` if there is any."""
    result, derivative = value_and_gradient(fun, args, argnums, mode, has_aux)
    return (derivative, result[1]) if has_aux else derivative


def jacobian(fun: Callable, args: Sequence[Any], argnums: Argnums, mode: str, has_aux: bool) -> Any:
    """The Jacobian of what a function gives, with `aux` if there is any."""
    chosen = _chosen(args, argnums)
    forward = mode == "forward"
    if mode == "mixed" or not jax.tree.leaves(chosen):
        shapes = jax.eval_shape(fun, *args)
        out = shapes[0] if has_aux else shapes
        if not jax.tree.leaves(chosen):
            empty = jax.tree.map(lambda _: chosen, out)
            return (empty, fun(*args)[1]) if has_aux else empty
        # Only the server differentiates here, so the smaller side decides.
        forward = _has_complex(out) or (_size(chosen) < _size(out) and not _has_complex(chosen))
    transform = jax.jacfwd if forward else jax.jacrev
    return transform(fun, argnums=argnums, has_aux=has_aux)(*args)


def _chosen(args: Sequence[Any], argnums: Argnums) -> Any:
    return args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)


def _size(tree: Any) -> int:
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def _has_complex(tree: Any) -> bool:
    return any(is_complex(leaf.dtype) for leaf in jax.tree.leaves(tree))
