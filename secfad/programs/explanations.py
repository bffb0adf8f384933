"""Explanations: what JAX says of a function that it cannot trace, at the user's line, with what to write."""

import contextlib
import linecache
import re
import types
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
# What Python and JAX raise where a function does not fit what it was given.
_MISFITS = (TypeError, ValueError, LookupError, AttributeError)


@contextlib.contextmanager
def untraceable(name: str, arguments: dict[str, Any]) -> Iterator[None]:
    """Turns what Python and JAX say of a function that cannot be traced into a `TracingError`.

    Errors that the function raises itself pass, with a note of what it was traced with.
    """
    try:
        yield
    except SecfadError:
        raise
    except Exception as error:
        line = _jax.error_line(error)
        known = isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError)
        if known or "concrete value was not available" in str(error):
            raise TracingError(_needs_a_value(name, error, line), line=line) from error
        shapes = ", ".join(_shapes(n, a) for n, a in arguments.items())
        hint = f"`{name}` sees what the server or one client holds, without an axis of clients ({shapes})"
        if _is_misfit(error):
            raise TracingError(
                f"`{name}` cannot be traced: {_said(error)}{_source(line)}. {hint}. "
                f"{_advice(error, arguments)}.",
                line=line,
            ) from error
        error.add_note(f"While tracing: {hint}.")
        raise


def _is_misfit(error: Exception) -> bool:
    """Whether Python or JAX say that the function and its arguments do not fit.

    A misspelt member of a module is another matter.
    """
    if not isinstance(error, _MISFITS) or _jax.raised_on_purpose(error):
        return False
    return not isinstance(getattr(error, "obj", None), types.ModuleType)


def _said(error: Exception) -> str:
    """What Python or JAX says, in words where it is a key alone."""
    return f"there is no entry {error}" if isinstance(error, KeyError) else _first(error)


def _advice(error: Exception, arguments: dict[str, Any]) -> str:
    """What to do about a misfit; guesses at arguments that are likely meant as something else."""
    if isinstance(error, IndexError | ValueError) and _AXIS.search(str(error)):
        return "Average or add up over clients with secfad.mean or secfad.sum"
    if "returned a value of type" in str(error):
        return "Return arrays only"
    for name, value in arguments.items():
        if value is None:
            return f"Give `{name}` an array, or a jax.ShapeDtypeStruct, in place of None"
        if isinstance(value, tuple | list) and value and all(map(_is_python_number, value)):
            return (
                f"`{name}` is a {type(value).__name__} of Python numbers: give the shape of an array as "
                "jax.ShapeDtypeStruct(shape, 'float32'), and its entries as jnp.array(entries)"
            )
    return "Give arguments that fit the function, or change this line"


def _is_python_number(spec: Any) -> bool:
    return isinstance(spec, jax.ShapeDtypeStruct) and spec.shape == () and bool(spec.weak_type)


def _needs_a_value(name: str, error: Exception, line: str) -> str:
    cause, advice = next(
        ((cause, advice) for kind, cause, advice in _CAUSES if isinstance(error, kind)),
        (_first(error), "Give what a shape depends on as a constant, not as an argument"),
    )
    found = _DEPENDS.search(str(error))
    of = f", which depends on {re.sub(r',? and ', ', ', found[1])}" if found else ""
    return (
        f"`{name}` cannot be traced: a value is asked for that is known only when the "
        f"program runs{of}; {cause}{_source(line)}. {advice}."
    )


def _first(error: Exception) -> str:
    """The first sentence of an error, with what follows a colon at its end."""
    first, *rest = [line for line in str(error).splitlines() if line] or [type(error).__name__]
    return (f"{first} {rest[0]}" if first.endswith(":") and rest else first).rstrip(".")


def _source(line: str) -> str:
    """The text of the user's line."""
    found = re.match(r"(.+):(\d+):\d+ \(", line)
    text = linecache.getline(found[1], int(found[2])).strip() if found else ""
    return f" in `{text}`" if text else ""


def _shapes(name: str, tree: Any) -> str:
    """An argument and its leaves: `batch['x']: float32[4,3], batch['y']: float32[4]`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    shown = [
        f"{name}{jax.tree_util.keystr(path)}: {x.dtype}[{','.join(map(str, x.shape))}]"
        for path, x in leaves[:3]
    ]
    return ", ".join(shown or [f"{name}: no array"]) + (", ..." if len(leaves) > len(shown) else "")
