"""Checks the types of user arguments before anything is sent, charged or written.

Each error names the argument, the expected value, the actual value and the remedy. It describes the
actual value by its type, and by the value itself only for a number, a name or a path: never data.

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
    """A description of the actual value."""
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
    """The error for an argument of another type."""
    return error(f"Expected {what} as {expected}, got {shown(value)}. {advice}".rstrip())


def expect(
    value: Any,
    kind: type[Kind] | tuple[type[Kind], ...],
    what: str,
    expected: str,
    advice: str,
    error: type[PrivacyError] = RunRefused,
) -> Kind:
    """Returns the value if it has the expected type; raises `error` otherwise."""
    if not isinstance(value, kind):
        raise refusal(value, what, expected, advice, error)
    return value


def expect_function(
    value: Any, what: str, advice: str, error: type[PrivacyError] = RunRefused
) -> Callable[..., Any]:
    """Returns the value if it is callable and not a class."""
    if not callable(value):
        raise refusal(value, what, "a function", advice, error)
    return value


def expect_count(
    value: Any, what: str, advice: str, *, least: int = 0, error: type[PrivacyError] = RunRefused
) -> int:
    """Returns the value if it is an int of at least `least`; refuses bools and floats."""
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
    """Returns the value as a float if it is a finite number, not a bool, and satisfies a condition."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not holds(float(value)):
        raise refusal(value, what, expected, advice, error)
    return float(value)


def expect_path(
    value: Any, what: str, advice: str, error: type[PrivacyError] = RunRefused
) -> str | os.PathLike[str]:
    """Returns the value if it is a path of a file or a folder."""
    return expect(value, (str, os.PathLike), what, "a path", advice, error)


def expect_names(
    value: Any, what: str, advice: str, error: type[PrivacyError] = RunRefused
) -> Collection[str]:
    """Returns the value if it is a collection of strings; refuses a single string."""
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
    """Returns the value if it is allowed."""
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
    """Returns the value if it is a mapping from names to values of a type."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise refusal(value, what, expected, advice, error)
    for name, one in value.items():
        expect(one, kind, f"{what}[{name!r}]", f"a {kind.__name__}", advice, error)
    return value
