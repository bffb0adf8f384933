"""Requirements: what a derivative expects of a computation, its arguments and its results.

Checked before JAX differentiates, so that an error speaks of the computation and its arguments, and
so that no mode gives a number where another would give a different one: a client's own value has a
derivative at each client in forward mode, but in reverse mode those of all clients would be added
up without a `sum` that anyone wrote.
"""

import itertools
import operator
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from secfad import _jax
from secfad.computations import Computation, require_computation
from secfad.errors import ArgumentError, ModeError
from secfad.placements import CLIENTS
from secfad.programs.programs import Program

Argnums = int | tuple[int, ...]
_LEAF = jax.tree.structure(0)
_AUX_ADVICE = "has_aux=True if the second result is not to be differentiated, or "


def require_mode(mode: str, known: Sequence[str], kind: str) -> None:
    """Raises ArgumentError for a mode that a kind of derivative does not know."""
    if mode not in known:
        raise ArgumentError(
            f"Expected mode to be one of {', '.join(map(repr, known))} for {kind}, got {mode!r}."
        )


def checked_argnums(computation: Computation, argnums: Any) -> Argnums:
    """The positions of the differentiated arguments, counted from the first."""
    require_computation(computation)
    names = list(computation.placements)
    count = len(names)
    many = isinstance(argnums, Sequence) and not isinstance(argnums, str | bytes)
    positions: Any = argnums if many else (argnums,)
    try:
        # To Python, True is the position 1.
        given = [operator.index(i) for i in positions if not isinstance(i, bool)]
    except TypeError:
        given = []
    chosen = tuple(i % count for i in given if -count <= i < count)
    if not given or len(set(chosen)) < len(positions):
        listed = ", ".join(f"{i}: `{name}`" for i, name in enumerate(names))
        raise ArgumentError(
            f"Expected argnums within the {count} arguments of `{computation.name}`, each once, got "
            f"{argnums!r}. Pass one position or a tuple of them, of {listed}."
        )
    return chosen if many else chosen[0]


def require_server_arguments(computation: Computation, chosen: Sequence[int], mode: str) -> None:
    """Raises ModeError if a mode differentiates what clients hold."""
    names = list(computation.placements)
    for i in chosen:
        if computation.placements[names[i]] is CLIENTS:
            raise ModeError(
                f"{mode.capitalize()} mode expected a server argument, got `{names[i]}`, which is "
                "placed at the clients. Use mode='reverse': the derivative stays at the clients."
            )


def require_numbers(computation: Computation, specs: Sequence[Any], chosen: Sequence[int]) -> None:
    """Raises ArgumentError unless the differentiated arguments are numbers that have derivatives."""
    names = list(computation.placements)
    for i in chosen:
        for path, leaf in jax.tree_util.tree_leaves_with_path(specs[i]):
            where = f"`{names[i]}{jax.tree_util.keystr(path)}`"
            if not _is_inexact(leaf.dtype):
                raise ArgumentError(
                    f"`{computation.name}` expected floating-point numbers to differentiate in {where}, "
                    f"got {leaf.dtype}. Convert it with .astype(float), or pass it as an argument "
                    "that is not in argnums."
                )


def require_server_results(program: Program, mode: str) -> None:
    """Raises ModeError if a backward mode would start from what clients hold."""
    if CLIENTS in program.out_placements:
        raise ModeError(
            f"`{program.name}` returns a client value, whose derivatives {mode} mode would add up "
            "over the clients unsaid. Return secfad.sum or secfad.mean of it, or use mode='forward', "
            "in which the derivative stays at the clients."
        )


def separated(name: str, results: Any) -> tuple[Any, Any]:
    """The value and the `aux` of a computation that is said to return both."""
    if not isinstance(results, list | tuple) or len(results) != 2:
        raise ArgumentError(
            f"Expected a pair `(value, aux)` as the result of `{name}` with has_aux=True, got "
            f"{_described(results)}. Return both, or leave has_aux out."
        )
    return results[0], results[1]


def value_specs(name: str, tree: Any, outvars: Sequence[Any], has_aux: bool) -> Any:
    """Shapes and dtypes of the results of a program that are differentiated."""
    results = jax.tree.unflatten(tree, [_jax.spec(v.aval) for v in outvars])
    return separated(name, results)[0] if has_aux else results


def require_results(results: Any, name: str, kind: str, mode: str, by_complex: bool) -> None:
    """Raises unless results, or their shapes and dtypes, have a derivative of a kind."""
    leaves, tree = jax.tree.flatten(results)
    avals = [jax.typeof(x) for x in leaves]
    if kind != "jacobian" and (tree != _LEAF or not _is_real_scalar(avals[0])):
        pair = isinstance(results, list | tuple) and len(results) == 2
        raise ArgumentError(
            f"Expected one real floating-point scalar as the result of `{name}` for a gradient, "
            f"got {_described(results)}. Use "
            f"{_AUX_ADVICE if pair else ''}secfad.jacobian for other results."
        )
    if not avals or not all(_is_inexact(x.dtype) for x in avals):
        raise ArgumentError(
            f"Expected floating-point results of `{name}` for a Jacobian, got "
            f"{_described(results)}. Return whole numbers, flags and keys from another "
            "computation or as aux with has_aux=True, or convert them with .astype(float)."
        )
    if not any(is_complex(x.dtype) for x in avals):
        return
    if by_complex:
        raise ModeError(
            f"`{name}` has no {mode} mode: its results {_described(results)} and arguments are complex, and "
            "only a holomorphic function has a complex Jacobian. Use secfad.jvp or secfad.vjp, or "
            "return the real and imaginary parts."
        )
    if mode not in ("forward", "mixed"):
        raise ModeError(
            f"`{name}` has no {mode} mode: its results are complex, {_described(results)}. Use "
            "mode='forward' or mode='mixed', or return the real and imaginary parts."
        )


def require_alike(given: Any, model: Any, what: str, of: str) -> None:
    """Raises ArgumentError unless a tangent or cotangent fits the value that it belongs to."""

    def form(x: Any, tangent: bool) -> tuple:
        aval = jax.typeof(x)
        aval = aval.to_tangent_aval() if tangent else aval
        return aval.shape, aval.dtype

    same = jax.tree.structure(given) == jax.tree.structure(model)
    if same:
        pairs = zip(jax.tree.leaves(given), jax.tree.leaves(model))
        same = all(form(g, False) == form(m, True) for g, m in pairs)
    if not same:
        raise ArgumentError(
            f"Expected `{what}` to have the structure, shapes and dtypes of {of}, "
            f"{_described(model)}, got {_described(given)}. Integers and flags take float0."
        )


def unused_name(name: str, taken: Collection[str]) -> str:
    """The name, numbered if an argument is called so already."""
    numbered = (f"{name}_{i}" for i in itertools.count(2))
    return next(n for n in itertools.chain([name], numbered) if n not in taken)


def _described(tree: Any) -> str:
    return str(jax.tree.map(_Form, tree))


class _Form:
    """Prints as `float32[3]`."""

    def __init__(self, leaf: Any):
        aval = jax.typeof(leaf)
        self.text = f"{aval.dtype}[{','.join(map(str, aval.shape))}]"

    def __repr__(self) -> str:
        return self.text


def _is_real_scalar(aval: Any) -> bool:
    return aval.shape == () and jnp.issubdtype(aval.dtype, jnp.floating)


def _is_inexact(dtype: Any) -> bool:
    return jax.dtypes.issubdtype(dtype, jnp.inexact)


def is_complex(dtype: Any) -> bool:
    """True for complex number types."""
    return jax.dtypes.issubdtype(dtype, jnp.complexfloating)
