"""Explanations: what JAX says of a function that it cannot trace, at the user's line, with what to write."""

import contextlib
import linecache
import re
from collections.abc import Iterator
from typing import Any

import jax

from secfad import _jax
from secfad.errors import SecfadError, TracingError

# What asked for a value while there are shapes only, and what to write in its place. The first that fits.
_CAUSES: tuple[tuple[type[Exception], str, str], ...] = (
    (
        jax.errors.TracerBoolConversionError,
        "Python's `if`, `while`, `and`, `or` or `not` decides on it",
        "Choose between values with jnp.where, between computations with jax.lax.cond, and repeat with "
        "jax.lax.while_loop",
    ),
    (
        jax.errors.TracerArrayConversionError,
        "NumPy computes with it",
        "Use jax.numpy (jnp.mean, jnp.asarray) in place of NumPy",
    ),
    (
        jax.errors.TracerIntegerConversionError,
        "Python counts or indexes with it",
        "Loop with jax.lax.fori_loop or jax.lax.scan, index a jnp array, or give the number as a constant",
    ),
    (
        jax.errors.NonConcreteBooleanIndexError,
        "it selects entries, whose number depends on data",
        "Keep the shape, and choose with jnp.where",
    ),
    (
        jax.errors.ConcretizationTypeError,
        "`float`, `int`, `bool`, `.item()` or a shape wants it as a Python number",
        "Leave the value an array, or give it as a constant",
    ),
)
_DEPENDS = re.compile(r"depends on the values? of the arguments? ([^\n]+?)\.?(?:\n|$)")
_AXIS = re.compile(r"tuple index out of range|axis \S+ is out of bounds|axis .* out of range")


@contextlib.contextmanager
def untraceable(name: str, arguments: dict[str, Any]) -> Iterator[None]:
    """Turns what JAX says of a function that cannot be traced into a `TracingError`.

    Errors of the function's own pass, with a note of what it was traced with.
    """
    try:
        yield
    except SecfadError:
        raise
    except Exception as error:
        known = isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError)
        if known or "concrete value was not available" in str(error):
            raise TracingError(_needs_a_value(name, error)) from error
        shapes = ", ".join(f"{n}: {_shapes(a)}" for n, a in arguments.items())
        hint = f"`{name}` sees what the server or one client holds, without an axis of clients ({shapes})"
        if isinstance(error, IndexError | ValueError) and _AXIS.search(str(error)):
            raise TracingError(
                f"{_at(error)}`{name}` cannot be traced: {_first(error)}. {hint}. Average or add up over "
                "clients with secfad.mean or secfad.sum."
            ) from error
        error.add_note(f"While tracing: {hint}.")
        raise


def _needs_a_value(name: str, error: Exception) -> str:
    cause, advice = next(
        ((cause, advice) for kind, cause, advice in _CAUSES if isinstance(error, kind)),
        (_first(error), "Give what a shape depends on as a constant, not as an argument"),
    )
    found = _DEPENDS.search(str(error))
    of = f", which depends on {re.sub(r',? and ', ', ', found[1])}" if found else ""
    return (
        f"{_at(error)}`{name}` cannot be traced: a value is asked for that is known only when the "
        f"program runs{of}; {cause}{_source(error)}. {advice}."
    )


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _at(error: Exception) -> str:
    line = _jax.error_line(error)
    return f"{line}: " if line else ""


def _source(error: Exception) -> str:
    """The text of the user's line."""
    found = re.match(r"(.+):(\d+):\d+ \(", _jax.error_line(error))
    text = linecache.getline(found[1], int(found[2])).strip() if found else ""
    return f" in `{text}`" if text else ""


def _shapes(tree: Any) -> str:
    leaves = jax.tree.leaves(tree)
    shown = [f"{x.dtype}[{','.join(map(str, x.shape))}]" for x in leaves[:3]]
    return " ".join(shown) + (" ..." if len(leaves) > len(shown) else "")
