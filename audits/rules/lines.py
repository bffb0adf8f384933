"""The user's line for findings without an equation: failed traces and captured arrays.

A failed trace gets the line where the user's code raised. Every other finding without a line gets
the line that defines the checked function.
"""

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path

import jax

import privacy
import secfad

_OURS = (
    *(str(Path(package.__file__ or "").parent) for package in (jax, secfad, privacy)),
    str(Path(__file__).parents[1]),
)


def definition_line(fn: Callable) -> str:
    """The line that defines a function; empty without a source."""
    code = getattr(inspect.unwrap(getattr(fn, "fun", fn)), "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno} ({code.co_name})"


def raising_line(error: BaseException, fn: Callable) -> str:
    """The last line of user code in a traceback."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_OURS) and "site-packages" not in frame.filename:
            return f"{frame.filename}:{frame.lineno} ({frame.name})"
    return definition_line(fn)
