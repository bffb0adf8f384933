"""Budgets: limits on the influence of one client's data on all releases.

>>> Budget(8.0, 1e-5)
Budget(epsilon=8.0, delta=1e-05)

Sources: Dwork & Roth (2014), definition 2.4.
"""

import math
import numbers
from dataclasses import dataclass
from typing import Any

from privacy.checking import expect
from privacy.errors import InvalidEvent


def finite_number(value: Any, what: str) -> float:
    """Returns value as a finite float; refuses bools, strings, NaN and infinities."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidEvent(
            f"Expected {what} to be a number, got {type(value).__name__} {value!r}. Pass a float."
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidEvent(f"Expected a finite {what}, got {value!r}. Pass a finite float.")
    return number


def positive_number(value: Any, what: str) -> float:
    """Returns value as a finite float above zero."""
    number = finite_number(value, what)
    if number <= 0:
        raise InvalidEvent(f"Expected {what} above 0, got {value!r}. Pass a positive float.")
    return number


def positive_count(value: Any, what: str) -> int:
    """Returns value as an int of at least 1; refuses bools and floats."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InvalidEvent(
            f"Expected {what} to be an integer, got {type(value).__name__} {value!r}. Pass an int."
        )
    if value < 1:
        raise InvalidEvent(f"Expected {what} of at least 1, got {value}. Nothing can be refunded.")
    return int(value)


@dataclass(frozen=True)
class Budget:
    """An (epsilon, delta) budget for one purpose or for a whole ledger.

    Attributes:
      epsilon: Finite and positive.
      delta: Strictly between 0 and 1; a meaningful delta is well below 1 / population.
    """

    epsilon: float
    delta: float

    def __post_init__(self):
        object.__setattr__(self, "epsilon", positive_number(self.epsilon, "epsilon"))
        object.__setattr__(self, "delta", open_unit(self.delta, "delta"))


def expect_budget(value: Any, what: str) -> Budget:
    """Returns value as a budget."""
    advice = "Pass privacy.Budget(epsilon, delta)."
    return expect(value, Budget, what, "a budget", advice, InvalidEvent)


def open_unit(value: Any, what: str) -> float:
    """Returns value as a float strictly between 0 and 1."""
    number = positive_number(value, what)
    if number >= 1:
        raise InvalidEvent(f"Expected {what} below 1, got {value!r}. Pass e.g. 1e-5.")
    return number


def sampling_probability(value: Any) -> float:
    """Returns value as a sampling rate, 0 < q <= 1."""
    number = positive_number(value, "a sampling rate q")
    if number > 1:
        raise InvalidEvent(f"Expected a sampling rate q of at most 1, got {value!r}.")
    return number
