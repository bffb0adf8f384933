"""Differentiation: what JAX is asked for, once a mode has made a function that it can differentiate.

`broadcast` and `sum` carry JAX's own rules, so nothing here knows of clients. A function with `aux`
returns `(value, aux)`, of which only the value is differentiated; what was prepared for a derivative
of `aux` is dead code, which no program keeps, neither its computation nor its messages.

By a complex number z = x + iy a real value has the derivative d/dx - i d/dy in every mode, as in
`jax.grad`.
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

    gradient, result = _forward(twice, args, argnums, has_aux=True)
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
    if forward:
        return _forward(fun, args, argnums, has_aux)
    return jax.jacrev(fun, argnums=argnums, has_aux=has_aux)(*args)


def _forward(fun: Callable, args: Sequence[Any], argnums: Argnums, has_aux: bool) -> Any:
    """`jax.jacfwd`, also by complex arguments."""
    leaves, tree = jax.tree.flatten(_chosen(args, argnums))
    at = [i for i, leaf in enumerate(leaves) if is_complex(leaf.dtype)]
    if not at:
        return jax.jacfwd(fun, argnums=argnums, has_aux=has_aux)(*args)
    structures = []

    def of_parts(real: list[Any], imaginary: list[Any]) -> Any:
        whole = list(real)
        for i, part in zip(at, imaginary):
            whole[i] = jax.lax.complex(real[i], part)
        results = fun(*_replaced(args, argnums, jax.tree.unflatten(tree, whole)))
        structures.append(jax.tree.structure(results[0] if has_aux else results))
        return results

    def joined(parts: tuple[list[Any], list[Any]]) -> Any:
        real, imaginary = parts
        for i, part in zip(at, imaginary):
            real[i] = jax.lax.complex(real[i], -part)
        return jax.tree.unflatten(tree, real)

    real = [leaf.real if i in at else leaf for i, leaf in enumerate(leaves)]
    imaginary = [leaves[i].imag for i in at]
    taken = jax.jacfwd(of_parts, argnums=(0, 1), has_aux=has_aux)(real, imaginary)
    derivative = jax.tree.unflatten(
        structures[0], map(joined, structures[0].flatten_up_to(taken[0] if has_aux else taken))
    )
    return (derivative, taken[1]) if has_aux else derivative


def _chosen(args: Sequence[Any], argnums: Argnums) -> Any:
    return args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)


def _replaced(args: Sequence[Any], argnums: Argnums, chosen: Any) -> list[Any]:
    full = list(args)
    for i, value in [(argnums, chosen)] if isinstance(argnums, int) else zip(argnums, chosen):
        full[i] = value
    return full


def _size(tree: Any) -> int:
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def _has_complex(tree: Any) -> bool:
    return any(is_complex(leaf.dtype) for leaf in jax.tree.leaves(tree))
