"""Refusals: what JAX says of an impossible mode, as an error that names a possible one."""

import contextlib
from collections.abc import Iterator

from secfad import _jax
from secfad.errors import ModeError

# Types of the errors by which JAX says so; `NotImplementedError` is the one of a missing rule.
_TYPES = (TypeError, ValueError, NotImplementedError)
# What JAX says when a program has no derivative in a direction, why, and what has one.
_REFUSALS = (
    (
        "(jvp) to a custom_vjp function",
        "a custom_vjp has no forward derivative",
        # Not mixed mode, which passes by rules around communication, and whose jvp is forward mode.
        "secfad.grad or secfad.vjp with mode='reverse', or give the function a custom_jvp",
    ),
    (
        "Reverse-mode differentiation does not work for lax.while_loop",
        "the number of iterations of a while loop is not known, so nothing can be saved for reverse "
        "mode",
        "mode='forward' of secfad.grad or secfad.jvp, or mode='mixed' if the loop is client code",
    ),
    *(
        (
            words,
            "something in it has a forward derivative only, as jax.custom_batching.custom_vmap has in "
            "a derivative rule",
            "mode='forward' of secfad.grad or secfad.jvp, or give it a custom_vjp",
        )
        for words in (
            "Linearization failed to produce known values",
            "Transpose rule (for reverse-mode differentiation) for",
        )
    ),
    (
        "open an issue at https://github.com/google/jax",
        "JAX cannot transpose a linear solve in it whose transpose is not given, such as that of "
        "jax.lax.custom_root",
        "mode='forward' of secfad.grad or secfad.jvp, or a solver with a transpose "
        "(jax.lax.custom_linear_solve with symmetric=True or transpose_solve)",
    ),
)


@contextlib.contextmanager
def explained(name: str, mode: str) -> Iterator[None]:
    """Turns what JAX says about an impossible mode into a `ModeError` that says what to do."""
    try:
        yield
    except _TYPES as error:
        for words, reason, advice in _REFUSALS:
            if words in str(error):
                line = _jax.error_line(error)
                raise ModeError(
                    f"{line + ': ' if line else ''}`{name}` has no {mode} mode: {reason}. Use {advice}."
                ) from error
        raise
