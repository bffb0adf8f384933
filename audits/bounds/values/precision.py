"""What a dtype can represent: rounding, the smallest numbers, and the dtypes that are followed.

A bound is computed in float64 and holds for the program's own dtype only if rounding, underflow and
overflow in that dtype are in it. Floats of fewer than 16 bits, integers of fewer than 8 bits and
other extended dtypes are not followed: nothing is known about their values.
"""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np


@functools.cache
def is_float(dtype: Any) -> bool:
    """Whether values are real floats of at least 16 bits."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 16


@functools.cache
def is_complex(dtype: Any) -> bool:
    """Whether values are complex; their intervals are those of magnitudes, [-m, m]."""
    return jnp.issubdtype(dtype, jnp.complexfloating)


@functools.cache
def is_wide(dtype: Any) -> bool:
    """Whether values are real floats of at least 32 bits."""
    return is_float(dtype) and jnp.finfo(dtype).bits >= 32


@functools.cache
def is_unsigned(dtype: Any) -> bool:
    """Whether values are unsigned integers: a negative number becomes a large one."""
    return jnp.issubdtype(dtype, jnp.unsignedinteger)


@functools.cache
def is_whole(dtype: Any) -> bool:
    """Whether values are integers of at least 8 bits."""
    try:
        return np.dtype(dtype).kind in "iu"
    except TypeError:
        return False


@functools.cache
def low_precision(dtype: Any) -> str:
    """The name of a float dtype with fewer than 23 bits of mantissa; empty for every other."""
    small = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).nmant < 23
    return str(dtype) if small else ""


@functools.cache
def roundoff(dtype: Any) -> float:
    """The largest relative error of one rounding."""
    return 2.0 ** -(int(jnp.finfo(dtype).nmant) + 1)


@functools.cache
def tiny(dtype: Any) -> float:
    """Smaller results may be flushed to zero; zero for every dtype that is not a float."""
    return float(jnp.finfo(dtype).tiny) if jnp.issubdtype(dtype, jnp.floating) else 0.0


@functools.cache
def largest_number(dtype: Any) -> float:
    """The largest finite number of a float dtype; zero for every other."""
    return float(jnp.finfo(dtype).max) if jnp.issubdtype(dtype, jnp.floating) else 0.0


@functools.cache
def step_near_zero(dtype: Any) -> float:
    """The distance of subnormal numbers in a dtype of few exponents; zero for every other."""
    if not is_float(dtype) or tiny(dtype) < 1e-30:
        return 0.0
    return float(jnp.finfo(dtype).smallest_subnormal)


@functools.lru_cache(maxsize=4096)
def rounded(value: float, dtype: Any) -> float:
    """A number rounded to a float dtype; rounding is monotone, so bounds stay bounds."""
    if not math.isfinite(value) or abs(value) > largest_number(dtype):
        return value
    return float(np.asarray(value, np.float64).astype(dtype))
