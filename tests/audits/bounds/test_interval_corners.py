"""Interval arithmetic at its corners: every rule on all pairs of ranges between special numbers.

The ends of a range, and NaN and the infinities where its flags allow them, go through the primitive
itself. Each result must lie in the range that the rule states.
"""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from rule_cases import bound

from audits.bounds.domains.intervals import interval_of
from audits.bounds.values.facts import Interval

LARGE = float(np.finfo(np.float32).max)
ENDS = (-math.inf, -LARGE, -1.0, -1e-20, 0.0, 0.5, 2.0, LARGE, math.inf)
RANGES = [
    Interval(low, high, nan, inf)
    for low, high in itertools.combinations_with_replacement(ENDS, 2)
    for nan, inf in ((False, False), (False, True), (True, False))
    if math.isfinite(low) or low < high
]
UNARY = {
    **{n: getattr(lax, n) for n in ("neg", "abs", "square", "sqrt", "rsqrt", "tanh", "erf", "sign")},
    **{n: getattr(lax, n) for n in ("logistic", "sin", "cos", "exp", "round", "floor", "ceil")},
    "copy": lambda x: x,
}  # fmt: skip
BINARY = {n: getattr(lax, n) for n in ("add", "sub", "mul", "div", "max", "min")}
BINARY["add_any"] = bound("add_any")


def values(interval):
    """The numbers at the ends of a range, and what its flags allow."""
    ends = [np.clip(e, -LARGE, LARGE) for e in (interval.low, interval.high)]
    infinities = [e for e in (-np.inf, np.inf) if interval.low <= e <= interval.high]
    some = infinities if interval.inf else []
    inside = [0.0, -0.0] if interval.low <= 0 <= interval.high else []
    return [*ends, *inside, *some, *[np.nan] * interval.nan]


def outside(stated, result):
    """Which results are not in a range; a rounding of the last places is none."""
    margin = 1e-6 * np.abs(result) + 1e-37
    far = (result < stated.low - margin) | (result > stated.high + margin)
    return np.where(np.isnan(result), not stated.nan, far | (np.isinf(result) & (not stated.inf)))


def broken(name, function, count):
    """Ranges of operands, their numbers and the results that the stated range excludes."""
    numbers = [np.asarray(values(i), np.float32) for i in RANGES]
    whole = np.concatenate(numbers)
    grid = np.meshgrid(*[whole] * count, indexing="ij")
    results = np.asarray(function(*map(jnp.asarray, grid)), np.float64)
    places = np.split(np.arange(len(whole)), np.cumsum([len(n) for n in numbers])[:-1])
    found = []
    for choice in itertools.product(range(len(RANGES)), repeat=count):
        ranges = [RANGES[k] for k in choice]
        stated = interval_of(name, ranges, {}, np.dtype("float32"))
        block = results[np.ix_(*(places[k] for k in choice))]
        if outside(stated, block).any():
            found.append((name, ranges, stated, block))
    return found


@pytest.mark.parametrize("name", UNARY)
def test_results_of_one_operand_lie_in_the_stated_range(name):
    assert broken(name, UNARY[name], 1)[:3] == []


@pytest.mark.parametrize("name", BINARY)
def test_results_of_two_operands_lie_in_the_stated_range(name):
    assert broken(name, BINARY[name], 2)[:3] == []


@pytest.mark.parametrize("power", [-1, 2, 3, 4])
def test_powers_lie_in_the_stated_range(power):
    for interval in RANGES:
        stated = interval_of("integer_pow", [interval], {"y": power}, np.dtype("float32"))
        operand = jnp.asarray(values(interval), jnp.float32)
        result = np.asarray(lax.integer_pow(operand, power), np.float64)
        assert not outside(stated, result).any(), (interval, stated, result)


def test_limits_lie_in_the_stated_range():
    for low, value, high in itertools.product(RANGES[::5], RANGES, RANGES[::5]):
        stated = interval_of("clamp", [low, value, high], {}, np.dtype("float32"))
        grid = np.meshgrid(*map(values, (low, value, high)), indexing="ij")
        result = np.minimum(np.maximum(grid[0], grid[1]), grid[2])
        assert not outside(stated, result).any(), (low, value, high, stated, result)
