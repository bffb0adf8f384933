"""Checks of arguments that come from a user: of which kind they are, before anything happens.

Each refusal names the argument, what was expected, what came, and what to do. What came is named by
its kind, and by its value only where that is a number, a name or a path: never data.

>>> print(refusal("ledger.db", "ledger", "an open ledger", "Call privacy.Ledger.open(path)."))
Expected ledger as an open ledger, got the str 'ledger.db'. Call privacy.Ledger.open(path).

Source: style of `jax_privacy._validate`.
"""

import math
import numbers
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from privacy.errors import MechanismError, PrivacyError, RunRefused

Kind = TypeVar("Kind")
_SHOWN = (str, bytes, bool, int, float, complex, os.PathLike, type(None))
_LONGEST = 60


def shown(value: Any) -> str:
    """What came, in words."""
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if value is None:
        return "None"
    if isinstance(value, _SHOWN):
        text = repr(value)
        short = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
        return f"the {type(value).__name__} {short}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    kind = f"a {type(value).__name__}"
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return f"{kind} with the names ({', '.join(value)})"
    return kind


def refusal(
    value: Any, what: str, expected: str, advice: str, error: type[PrivacyError] = RunRefused
) -> PrivacyError:
    """The error for an argument of another kind."""
    return error(f"Expected {what} as {expected}, got {shown(value)}. {advice}".rstrip())


def expect(
    value: Any,
    kind: type[Kind] | tuple[type[Kind], ...],
    what: str,
    expected: str,
    advice: str,
    error: type[PrivacyError] = RunRefused,
) -> Kind:
    """The value, if it is of the kind.

    Args:
      value: What came.
      kind: The class it should be of, or several.
      what: The argument's name.
      expected: What it should be, in words.
      advice: What to do.
      error: The type of the refusal.

    Raises:
      PrivacyError: It is not; of the type `error`.
    """
    if not isinstance(value, kind):
        raise refusal(value, what, expected, advice, error)
    return value


def expect_function(
    value: Any, what: str, advice: str, error: type[PrivacyError] = RunRefused
) -> Callable[..., Any]:
    """The value, if it can be called and is not a class."""
    if not callable(value):
        raise refusal(value, what, "a function", advice, error)
    return value


def expect_count(
    value: Any, what: str, advice: str, *, least: int = 0, error: type[PrivacyError] = RunRefused
) -> int:
    """The value, if it is an int of at least `least`; bools and floats are none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise refusal(value, what, f"an int of at least {least}", advice, error)
    return value


def expect_number(
    value: Any,
    what: str,
    expected: str,
    advice: str,
    holds: Callable[[float], bool],
    error: type[PrivacyError] = MechanismError,
) -> float:
    """The value as a float, if it is a finite number, no bool, for which a condition holds."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not holds(float(value)):
        raise refusal(value, what, expected, advice, error)
    return float(value)


def expect_path(
    value: Any, what: str, advice: str, error: type[PrivacyError] = RunRefused
) -> str | os.PathLike[str]:
    """The value, if it names a file or a folder."""
    return expect(value, (str, os.PathLike), what, "a path", advice, error)


def expect_names(
    value: Any, what: str, advice: str, error: type[PrivacyError] = RunRefused
) -> Collection[str]:
    """The value, if it is a collection of strings and not a string, which is one of letters."""
    single = isinstance(value, str | bytes) or not isinstance(value, Collection)
    if single or not all(isinstance(name, str) for name in value):
        raise refusal(value, what, "a collection of strings", advice, error)
    return value


def expect_choice(
    value: Any,
    allowed: Collection[Any],
    what: str,
    advice: str = "",
    error: type[PrivacyError] = RunRefused,
) -> Any:
    """The value, if it is one of those allowed."""
    if not isinstance(value, str) or value not in allowed:
        names = " or ".join(repr(one) for one in allowed)
        raise refusal(value, what, names, advice, error)
    return value


def expect_mapping(
    value: Any,
    kind: type,
    what: str,
    expected: str,
    advice: str,
    error: type[PrivacyError] = RunRefused,
) -> Mapping[str, Any]:
    """The value, if it is a mapping from names to values of a kind."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise refusal(value, what, expected, advice, error)
    for name, one in value.items():
        expect(one, kind, f"{what}[{name!r}]", f"a {kind.__name__}", advice, error)
    return value
