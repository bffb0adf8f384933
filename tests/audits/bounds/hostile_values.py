"""Concrete values inside abstract ones: at the ends of ranges, at NaN, infinities and tiny numbers."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
from concretisation import precision, wide

from audits.bounds.domains.intervals import flushed
from audits.bounds.values.facts import Interval

FLOATS = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz")
INTEGERS = ("int32", "uint8", "int8", "uint32", "int16")


def is_float(dtype):
    """Whether a dtype is a real floating-point type."""
    return jnp.issubdtype(dtype, jnp.floating)


def specials(dtype):
    """Numbers at the ends of a dtype."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        ends = specials(np.zeros((), dtype).real.dtype)
        return np.asarray(
            [complex(a, b) for a, b in itertools.product(ends[::2], ends[1::3])], dtype
        )
    if jnp.dtype(dtype) == jnp.bool_:
        return np.asarray([False, True])
    if not is_float(dtype):
        info = jnp.iinfo(dtype)
        return np.asarray([0, 1, info.min, info.max, info.max // 2 + 1, 2, 7], dtype)
    info = jnp.finfo(dtype)
    ends = [0.0, 1.0, 1.5, float(info.max), float(info.tiny), float(info.smallest_subnormal),
            float(info.eps), 0.5, float(info.max) / 2, math.sqrt(float(info.max)) * 1.1]  # fmt: skip
    with np.errstate(all="ignore"):
        values = np.asarray([*ends, *(-e for e in ends), np.nan, np.inf, -np.inf])
        return values.astype(dtype)


def hostile(rng, shape, dtype):
    """Any value of a dtype: heavy tails, special numbers, or one special number among tame ones."""
    pool, kind = specials(dtype), rng.random()
    chosen = pool[rng.integers(len(pool), size=shape)]
    if kind < 0.3:
        return np.asarray(chosen).reshape(shape)
    with np.errstate(all="ignore"):
        spread = 10.0 ** rng.integers(-12, 12) if kind < 0.6 else 1.0
        tails = rng.standard_cauchy(size=shape) * spread
        if jnp.issubdtype(dtype, jnp.complexfloating):
            tails = tails + 1j * rng.standard_cauchy(size=shape)
        if not is_float(dtype) and not jnp.issubdtype(dtype, jnp.complexfloating):
            tails = rng.integers(-4, 9, size=shape).astype(np.int64)
        values = np.asarray(tails).astype(dtype)
    return np.where(rng.random(size=shape) < 0.2, chosen, values).reshape(shape).astype(dtype)


def within(rng, shape, dtype, interval):
    """A value inside an interval, often at its ends."""
    if math.isinf(interval.low) and math.isinf(interval.high) and interval.nan and interval.inf:
        return hostile(rng, shape, dtype)
    value = hostile(rng, shape, dtype)
    if np.iscomplexobj(value):
        array = wide(value)
        array = np.where(np.isnan(array), 0, array)
        size = np.maximum(np.abs(array), 1e-300)
        with np.errstate(all="ignore"):
            array = np.where(np.isfinite(size), array / size, 1.0) * np.minimum(size, interval.high)
        return np.nan_to_num(array * (1 - 1e-6)).astype(dtype)
    array = wide(value)
    kind = rng.random()
    finite = float(jnp.finfo(dtype).max) if is_float(dtype) else math.inf
    ends = [e for e in (interval.low, interval.high, 0.0, 1.0)
            if interval.low <= e <= interval.high and (interval.inf or not math.isinf(e))]  # fmt: skip
    ends += [
        e for e in (finite, -finite) if interval.low <= e <= interval.high and not math.isinf(e)
    ]
    edge = np.asarray(ends or [interval.low])[rng.integers(max(len(ends), 1), size=shape)]
    array = np.where(rng.random(size=shape) < (0.9 if kind < 0.3 else 0.2), edge, array)
    if not interval.nan:
        array = np.where(np.isnan(array), edge, array)
    array = np.clip(array, interval.low, interval.high)
    if not interval.inf and is_float(dtype):
        array = np.where(np.isinf(array), np.sign(array) * finite, array)
        array = np.clip(array, interval.low, interval.high)
    return array.reshape(shape).astype(dtype)


def random_interval(rng, dtype):
    """A range whose ends are numbers of the dtype, with random flags."""
    if jnp.dtype(dtype) == jnp.bool_:
        return Interval(0.0, 1.0)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        reach = float(rng.choice([1.0, 3.0, 1e10]))
        return Interval(-reach, reach, bool(rng.random() < 0.3))
    ends = wide(hostile(rng, (2,), dtype))
    ends = np.where(np.isnan(ends), rng.normal(), ends).astype(dtype).astype(np.float64)
    low, high = float(min(ends)), float(max(ends))
    if not is_float(dtype):
        return Interval(low, high)
    if rng.random() < 0.3:
        low = -math.inf if rng.random() < 0.3 else 0.0 if high > 0 else low
    if rng.random() < 0.3:
        high = math.inf if rng.random() < 0.7 else max(high, 1.0)
    unbounded = math.isinf(low) or math.isinf(high)
    inf = unbounded and bool(rng.random() < 0.5)
    if low == high and math.isinf(low):
        inf = True
    return flushed(Interval(low, high, bool(rng.random() < 0.4), inf), dtype)


def least(rng, norm, amount, gap, interval, power, dtype):
    """The least value that states a norm, or a larger one; not a number where the norm is not."""
    eps, _ = precision(jnp.dtype(dtype))
    squared = amount**2 * np.maximum(norm**2 - gap**2, 0.0)
    limit = np.maximum(squared if power == 2 else np.sqrt(squared), interval.low)
    value = (limit * rng.choice([1.0, 1.0, 1.5]) * (1 + 4 * eps)).astype(dtype)
    endless = np.isinf(np.asarray(np.inf).astype(dtype))
    value = np.where(wide(value) < limit, np.inf if endless else np.nan, value)
    return np.where(np.isnan(norm), np.nan, value).astype(dtype)


def factor(rng, norm, amount, gap, interval, power, dtype):
    """The largest value that is at most a number over a norm, or a smaller one."""
    eps, _ = precision(jnp.dtype(dtype))
    above = norm > gap
    value = amount / np.sqrt(np.where(above, norm**2 - gap**2, 1.0)) * (1 - 2 * eps)
    value = np.where(above, value, np.inf) * rng.choice([1.0, 1.0, 0.5])
    top = min(interval.high, float(jnp.finfo(dtype).max) / 4) if not interval.inf else interval.high
    value = np.minimum(value, top)
    value = np.where(np.isnan(norm), rng.choice([np.nan, 0.0]), value)
    if not interval.nan:
        value = np.where(np.isnan(value), 0.0, value)
    value = value.astype(dtype)
    size = wide(value)
    too_large = np.isfinite(size) & (size * norm > np.hypot(amount, size * gap))
    too_large |= np.isinf(norm) & (size > 0)
    return np.where(too_large, 0.0, value).astype(dtype)
