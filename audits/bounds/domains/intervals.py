"""Interval arithmetic over jaxpr primitives, with NaN and infinity as flags.

A primitive without a rule gets the whole range of its dtype. Bounds are computed in float64;
rounding in the program's own dtype is treated as slack elsewhere.

Source: interval bound propagation as in jax_verify; NaN as part of the domain as in OpenDP.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from audits.bounds.domains.facts import Interval, everything, hull

Rule = Callable[..., Interval]


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
    params = {"y": power}
    rule = _RULES.get(name)
    if rule is None or not operands:
        return everything(dtype)
    found = rule(operands, params)
    kind = getattr(np.dtype(dtype), "kind", "f") if _plain(dtype) else "V"
    if kind == "b":
        return Interval(0.0, 1.0)
    if kind in "iu":
        return everything(dtype) if name in _LOGICAL else _as_integer(found, dtype)
    return flushed(_overflowed(found, dtype) if _grows(name, operands) else found, dtype)


def flushed(found: Interval, dtype: Any) -> Interval:
    """Flushes values that are too small for a float dtype to zero."""
    tiny = float(jnp.finfo(dtype).tiny) if jnp.issubdtype(dtype, jnp.floating) else 0.0
    low = 0.0 if 0 < found.low < tiny else found.low
    high = 0.0 if -tiny < found.high < 0 else found.high
    return found._replace(low=low, high=high)


def _grows(name: str, operands: Sequence[Interval]) -> bool:
    """Whether a finite operand can give an infinite result."""
    if name == "mul":
        return min(_reach(operands[0]), _reach(operands[1])) > 1
    if name == "div":
        return operands[1].low < 1
    return name in ("add", "add_any", "sub", "square", "integer_pow", "exp", "convert_element_type")


_LOGICAL = frozenset({"not", "and", "or"})


def _overflowed(found: Interval, dtype: Any) -> Interval:
    """Turns values beyond the range of a float dtype into infinity."""
    limit = float(jnp.finfo(dtype).max) / 4 if jnp.issubdtype(dtype, jnp.floating) else math.inf
    if _reach(found) <= limit:
        return found
    low = -math.inf if found.low < -limit else found.low
    high = math.inf if found.high > limit else found.high
    # Some eight-bit floats have no infinity and use NaN instead.
    return Interval(low, high, found.nan or jnp.finfo(dtype).bits < 16, True)


def _plain(dtype: Any) -> bool:
    try:
        np.dtype(dtype)
    except TypeError:
        return False
    return True


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
    return Interval(
        -math.inf if math.isnan(low) else low,
        math.inf if math.isnan(high) else high,
        a.nan or b.nan or (a.inf and b.inf),
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


def _reach(a: Interval) -> float:
    return max(abs(a.low), abs(a.high))


def div(x: Sequence[Interval], params: Any = None) -> Interval:
    """Quotient; a denominator that may be zero gives no bound."""
    a, b = x
    if b.low <= 0 <= b.high:
        nan = a.nan or b.nan or a.low <= 0 <= a.high or (a.inf and b.inf)
        low = 0.0 if a.low >= 0 and b.low >= 0 else -math.inf
        return Interval(low, math.inf, nan, True)
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
    result = x[1]
    for case in x[2:]:
        result = hull(result, case)
    return result


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
    result = x[0]
    for other in x[1:]:
        result = hull(result, other)
    return result


def _flag(x: Sequence[Interval], params: Any = None) -> Interval:
    return Interval(0.0, 1.0)


_RULES: dict[str, Rule] = (
    {
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
        "tanh": _squash(-1.0, 1.0),
        "erf": _squash(-1.0, 1.0),
        "logistic": _squash(0.0, 1.0),
        "sign": _squash(-1.0, 1.0),
        "sin": _wave,
        "cos": _wave,
        "exp": _exp,
        "round": _step,
        "floor": _step,
        "ceil": _step,
        "pad": _join_all,
        "concatenate": _join_all,
        "stack": _join_all,
    }
    | dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "is_finite", "not", "and", "or"), _flag)
    | (
        dict.fromkeys(
            (
                "broadcast_in_dim",
                "reshape",
                "transpose",
                "squeeze",
                "slice",
                "rev",
                "split",
                "copy",
                "stop_gradient",
                "convert_element_type",
                "reduce_max",
                "reduce_min",
                "broadcast",
            ),
            _same,
        )
    )
)
