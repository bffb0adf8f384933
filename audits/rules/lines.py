"""The user's line for findings that no equation can name: what failed to trace, what is captured.

What fails before there is a program is placed where the user's code raised; everything else that has
no line of its own is placed at the definition of the checked function.
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
    """Where a function is defined; empty for what has no source."""
    code = getattr(inspect.unwrap(getattr(fn, "fun", fn)), "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno} ({code.co_name})"


def raising_line(error: BaseException, fn: Callable) -> str:
    """The last line of the user's code on the way to an error."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_OURS) and "site-packages" not in frame.filename:
            return f"{frame.filename}:{frame.lineno} ({frame.name})"
    return definition_line(fn)
