"""Interval arithmetic over jaxpr primitives, with NaN and infinity as flags.

A primitive without a rule gets the whole range of its dtype. Limits are computed in float64 and
rounded to the dtype of the result. A complex number is measured by its magnitude m, as [-m, m];
dtypes that are not followed, such as floats of eight bits, are unbounded.

Source: interval bound propagation as in jax_verify; NaN as part of the domain as in OpenDP.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from audits.bounds.values.facts import Interval, everything, hull
from audits.bounds.values.precision import (
    is_complex,
    is_float,
    is_whole,
    largest_number,
    rounded,
    roundoff,
    tiny,
)
from audits.bounds.values.steps import RESHAPING

Rule = Callable[..., Interval]


def magnitude(found: Interval) -> Interval:
    """The range of the magnitudes of complex numbers; that of two finite parts may overflow."""
    large = found.reach > largest_number(np.float32) / 4
    return found._replace(inf=found.inf or large)


def summed(one: Interval, count: int, dtype: Any) -> Interval:
    """The range of a sum of some values of one range."""
    many = (Interval(float(count), float(count)), one)
    wide = interval_of("mul", many, {}, dtype)
    # Infinities of opposite signs in one sum give NaN.
    wide = wide._replace(nan=wide.nan or (one.inf and one.low < 0 < one.high and count > 1))
    if not is_float(dtype) or count == 1:
        return wide
    exact = one.low == one.high == math.trunc(one.low) if math.isfinite(one.low) else False
    if exact and wide.reach * roundoff(dtype) < 0.5:
        return wide
    return _accumulated(wide, one, count * roundoff(dtype))


def _accumulated(wide: Interval, one: Interval, loss: float) -> Interval:
    """The rounding errors of a long sum; a short dtype may stop growing after one summand."""
    if loss < 1e-6:
        return wide
    error = loss * wide.reach
    low, high = wide.low - error, wide.high + error
    if one.low >= 0:
        low = max(low, one.low)
    if one.high <= 0:
        high = min(high, one.high)
    return wide._replace(low=low, high=high)


def interval_of(name: str, operands: Sequence[Interval], params: Any, dtype: Any) -> Interval:
    """The range of an element-wise or structural primitive's result."""
    if name == "integer_pow":
        return _computed(name, tuple(operands), dtype, params["y"])
    return _computed(name, tuple(operands), dtype)


@functools.lru_cache(maxsize=4096)
def _computed(
    name: str, operands: tuple[Interval, ...], dtype: Any, power: int | None = None
) -> Interval:
    """Memoized, because long programs repeat the same queries."""
    rule = _RULES.get(name)
    if rule is None or not operands:
        return everything(dtype)
    found = rule(operands, {"y": power})
    if jnp.issubdtype(dtype, jnp.bool_):
        return Interval(0.0, 1.0)
    if is_whole(dtype):
        return everything(dtype) if name in _LOGICAL else _as_integer(found, dtype)
    if is_complex(dtype):
        return _as_complex(name, found)
    if not is_float(dtype):
        return everything(dtype)
    if _cancels(name, operands, found, dtype):
        found = _blurred(found, operands, dtype)
    found = _overflowed(found, dtype) if _grows(name, operands) else found
    return flushed(_rounded(found, dtype), dtype)


_MOVED = RESHAPING | {"transpose", "slice", "rev", "split", "tile", "convert_element_type"}
_MAGNITUDES = _MOVED | {
    *("neg", "add", "add_any", "sub", "mul", "select_n", "pad", "concatenate", "stack")
}


def _as_complex(name: str, found: Interval) -> Interval:
    """The magnitudes of complex numbers; functions of them have other ranges than on the reals."""
    reach = found.reach
    known = name in _MAGNITUDES and reach < largest_number(np.float32) / 4
    if not known or found.inf:
        return everything(np.complex64)
    return Interval(-reach, reach, found.nan, found.inf)


def _cancels(name: str, operands: Sequence[Interval], found: Interval, dtype: Any) -> bool:
    """Whether a sum may be much smaller than its operands, so that their rounding errors count."""
    if name not in ("add", "add_any", "sub"):
        return False
    largest = max(i.reach for i in operands)
    if all(i.low == i.high for i in operands):
        exact = all(rounded(i.low, dtype) == i.low for i in operands)
        return not exact and found.reach < 1e-3 * largest
    return found.reach < largest


def _blurred(found: Interval, operands: Sequence[Interval], dtype: Any) -> Interval:
    """A range widened by the rounding errors of the operands."""
    error = 8 * roundoff(dtype) * max(i.reach for i in operands)
    return found._replace(low=found.low - error, high=found.high + error)


def _rounded(found: Interval, dtype: Any) -> Interval:
    """A range with and without rounding: compilers may keep intermediate values in a wider dtype.

    Rounding is monotone, so the rounded limits hold for rounded values.
    """
    if found.low == found.high:
        return found
    low, high = rounded(found.low, dtype), rounded(found.high, dtype)
    return found._replace(low=min(found.low, low), high=max(found.high, high))


def flushed(found: Interval, dtype: Any) -> Interval:
    """Flushes values that are too small for a float dtype to zero."""
    least = tiny(dtype)
    low = 0.0 if 0 < found.low < least else found.low
    high = 0.0 if -least < found.high < 0 else found.high
    return found._replace(low=low, high=high)


def _grows(name: str, operands: Sequence[Interval]) -> bool:
    """Whether a finite operand can give an infinite result."""
    if name == "mul":
        return min(operands[0].reach, operands[1].reach) > 1
    if name == "div":
        return operands[1].low < 1
    return name in ("add", "add_any", "sub", "square", "integer_pow", "exp", "convert_element_type")


_LOGICAL = frozenset({"not", "and", "or"})


def _overflowed(found: Interval, dtype: Any) -> Interval:
    """Turns values beyond the range of a float dtype into infinity."""
    limit = largest_number(dtype) / 4
    if found.reach <= limit:
        return found
    low = -math.inf if found.low < -limit else found.low
    high = math.inf if found.high > limit else found.high
    return Interval(low, high, found.nan, True)


def _as_integer(found: Interval, dtype: Any) -> Interval:
    whole = everything(dtype)
    inside = whole.low <= found.low and found.high <= whole.high
    if not inside or not found.finite:
        return whole
    # Division and conversion truncate.
    return Interval(float(math.trunc(found.low)), float(math.trunc(found.high)))


def add(x: Sequence[Interval], params: Any = None) -> Interval:
    """Sum of two."""
    a, b = x
    low, high = a.low + b.low, a.high + b.high
    # Infinities of one sign do not cancel.
    alike = (a.low >= 0 and b.low >= 0) or (a.high <= 0 and b.high <= 0)
    return Interval(
        -math.inf if math.isnan(low) else low,
        math.inf if math.isnan(high) else high,
        a.nan or b.nan or (a.inf and b.inf and not alike),
        a.inf or b.inf,
    )


def neg(x: Sequence[Interval], params: Any = None) -> Interval:
    """Negation."""
    return Interval(-x[0].high, -x[0].low, x[0].nan, x[0].inf)


def sub(x: Sequence[Interval], params: Any = None) -> Interval:
    """Difference."""
    return add((x[0], neg(x[1:])))


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def mul(x: Sequence[Interval], params: Any = None) -> Interval:
    """Product; zero times infinity is NaN."""
    a, b = x
    ends = [_times(p, q) for p in (a.low, a.high) for q in (b.low, b.high)]
    contains_zero = lambda i: i.low <= 0 <= i.high
    nan = a.nan or b.nan or (a.inf and contains_zero(b)) or (b.inf and contains_zero(a))
    return Interval(min(ends), max(ends), nan, a.inf or b.inf)


def div(x: Sequence[Interval], params: Any = None) -> Interval:
    """Quotient; a denominator that may be zero gives no bound."""
    a, b = x
    if b.low <= 0 <= b.high:
        # A zero may be negative.
        nan = a.nan or b.nan or a.low <= 0 <= a.high or (a.inf and b.inf)
        return Interval(-math.inf, math.inf, nan, True)
    ends = [0.0 if math.isinf(q) else p / q for p in (a.low, a.high) for q in (b.low, b.high)]
    return Interval(min(ends), max(ends), a.nan or b.nan or (a.inf and b.inf), a.inf)


def maximum(x: Sequence[Interval], params: Any = None) -> Interval:
    """Larger of two; NaN wins."""
    a, b = x
    return Interval(max(a.low, b.low), max(a.high, b.high), a.nan or b.nan, a.inf or b.inf)


def minimum(x: Sequence[Interval], params: Any = None) -> Interval:
    """Smaller of two; NaN wins."""
    a, b = x
    low, high = min(a.low, b.low), min(a.high, b.high)
    return Interval(low, high, a.nan or b.nan, math.isinf(low) or math.isinf(high))


def clamp(x: Sequence[Interval], params: Any = None) -> Interval:
    """Lower limit, operand, upper limit; passes NaN."""
    low, a, high = x
    inner = minimum((maximum((low, a)), high))
    return inner._replace(inf=math.isinf(inner.low) or math.isinf(inner.high))


def select(x: Sequence[Interval], params: Any = None) -> Interval:
    """One of the cases."""
    return functools.reduce(hull, x[1:])


def _absolute(x: Sequence[Interval], params: Any = None) -> Interval:
    a = x[0]
    low = 0.0 if a.low <= 0 <= a.high else min(abs(a.low), abs(a.high))
    return Interval(low, max(abs(a.low), abs(a.high)), a.nan, a.inf)


def square(x: Sequence[Interval], params: Any = None) -> Interval:
    """The square is never negative."""
    a = _absolute(x)
    high = _times(a.high, a.high)
    return Interval(_times(a.low, a.low), high, a.nan, a.inf)


def _integer_pow(x: Sequence[Interval], params: Any) -> Interval:
    power = params["y"]
    if power == 2:
        return square(x)
    if power > 0 and power % 2 == 0:
        a = square(x)
        large = a.high > 1e300 ** (2 / power)
        return Interval(0.0, math.inf if large else a.high ** (power // 2), a.nan, a.inf)
    if power == -1:
        return div((Interval(1.0, 1.0), x[0]))
    return everything(np.float32)


def _sqrt(x: Sequence[Interval], params: Any = None) -> Interval:
    a = x[0]
    low, high = math.sqrt(max(a.low, 0.0)), math.sqrt(max(a.high, 0.0))
    return Interval(low, high, a.nan or a.low < 0, a.inf)


def _rsqrt(x: Sequence[Interval], params: Any = None) -> Interval:
    return div((Interval(1.0, 1.0), _sqrt(x)))


def _squash(low: float, high: float) -> Rule:
    return lambda x, params: Interval(low, high, x[0].nan)


def _wave(x: Sequence[Interval], params: Any = None) -> Interval:
    return Interval(-1.0, 1.0, x[0].nan or x[0].inf)


def _exp(x: Sequence[Interval], params: Any = None) -> Interval:
    a = x[0]
    up = lambda v: math.inf if v > 80 else math.exp(v)
    high = up(a.high)
    return Interval(up(a.low) if a.low <= 80 else 1e34, high, a.nan, math.isinf(high))


def _step(x: Sequence[Interval], params: Any = None) -> Interval:
    a = x[0]
    down = a.low if math.isinf(a.low) else math.floor(a.low)
    up = a.high if math.isinf(a.high) else math.ceil(a.high)
    return Interval(down, up, a.nan, a.inf)


def _same(x: Sequence[Interval], params: Any = None) -> Interval:
    return x[0]


def _join_all(x: Sequence[Interval], params: Any = None) -> Interval:
    return functools.reduce(hull, x)


def _flag(x: Sequence[Interval], params: Any = None) -> Interval:
    return Interval(0.0, 1.0)


_FLAGS = ("eq", "ne", "lt", "le", "gt", "ge", "is_finite", "not", "and", "or")
_RULES: dict[str, Rule] = {
    "add": add,
    "add_any": add,
    "sub": sub,
    "neg": neg,
    "mul": mul,
    "div": div,
    "max": maximum,
    "min": minimum,
    "clamp": clamp,
    "select_n": select,
    "abs": _absolute,
    "square": square,
    "integer_pow": _integer_pow,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    **dict.fromkeys(("tanh", "erf", "sign"), _squash(-1.0, 1.0)),
    "logistic": _squash(0.0, 1.0),
    **dict.fromkeys(("sin", "cos"), _wave),
    "exp": _exp,
    **dict.fromkeys(("round", "floor", "ceil"), _step),
    **dict.fromkeys(("pad", "concatenate", "stack"), _join_all),
    **dict.fromkeys((*_MOVED, "reduce_max", "reduce_min"), _same),
    **dict.fromkeys(_FLAGS, _flag),
}
