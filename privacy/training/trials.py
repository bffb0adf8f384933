"""Trials: evaluates a user's functions on the shapes of their arguments before tracing a program.

If a function does not accept the data of one client, the error appears where the function is
passed, and states its arguments. Only shapes are evaluated.

>>> try:
...     tried("loss", lambda x: x["missing"], {"a": 1.0}, advice="Name it.")
... except MechanismError as error:
...     print(error)
Expected loss to work on what it is given, got KeyError: 'missing'. It is given ({'a': float[]}). Name it.

Source: `jax.eval_shape`.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from privacy.checking import refusal
from privacy.errors import MechanismError, PrivacyError
from secfad.errors import SecfadError

Tree = Any


def tried(what: str, function: Callable[..., Tree], *given: Tree, advice: str) -> Tree:
    """The shapes that a user's function returns for these arguments or their shapes.

    Raises:
      MechanismError: The function fails on these arguments.
    """
    try:
        return jax.eval_shape(function, *given)
    except (PrivacyError, SecfadError):
        raise
    except Exception as error:
        named = ", ".join(f"{_described(tree)}" for tree in given)
        raise MechanismError(
            f"Expected {what} to work on what it is given, got {type(error).__name__}: "
            f"{_first_line(error)}. It is given ({named}). {advice}".rstrip()
        ) from error


def expect_scalar(what: str, result: Tree, advice: str) -> None:
    """Refuses a value that is not a single floating-point number."""
    good = isinstance(result, jax.ShapeDtypeStruct) and result.shape == ()
    if not good or not jax.numpy.issubdtype(result.dtype, jax.numpy.floating):
        raise MechanismError(
            f"Expected {what} to return one floating-point number, got {_described(result)}. {advice}"
        )


def expect_like(what: str, result: Tree, model: Tree, advice: str) -> None:
    """Refuses a value with another structure or other shapes than a model."""
    same = jax.tree.structure(result) == jax.tree.structure(model) and [
        np.shape(leaf) for leaf in jax.tree.leaves(result)
    ] == [np.shape(leaf) for leaf in jax.tree.leaves(model)]
    if not same:
        raise MechanismError(
            f"Expected {what} to return what looks like {_described(model)}, got {_described(result)}. "
            f"{advice}"
        )


def expect_optimizer(value: Any, what: str) -> optax.GradientTransformation:
    """Returns the value if it is an Optax optimizer."""
    if not isinstance(value, optax.GradientTransformation):
        advice = "Pass for example optax.sgd(1.0)."
        raise refusal(value, what, "an Optax optimizer", advice, MechanismError)
    return value


def _described(tree: Tree) -> str:
    def leaf(x: Any) -> str:
        shape, dtype = np.shape(x), getattr(x, "dtype", None)
        name = type(x).__name__ if dtype is None else np.dtype(dtype).name
        return f"{name}{list(shape)}"

    return re.sub(r"'(\w+\[[\d, ]*\])'", r"\1", str(jax.tree.map(leaf, tree)))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else "no message"
