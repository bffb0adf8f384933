"""Randomness: normal draws.

The prover recognises a normal draw by its computation, not by the name of a function: random bits
are shifted into the mantissa of a number in [1, 2), moved to (-1, 1), passed through the inverse
error function and multiplied by the root of two. `keys` follows the keys.

Source: `jax.random.normal`.
"""

import math
from typing import Any

import numpy as np

from audits.bounds.domains.key_relations import all_unrelated
from audits.bounds.values.facts import Noise, factor_of
from audits.bounds.values.keys import Key, positions
from audits.bounds.values.precision import is_wide
from audits.bounds.values.steps import RESHAPING, Site
from audits.transfer.labels import Place

_PASSING = RESHAPING | {"transpose", "slice", "rev", "convert_element_type"}
# The bits to drop so that the rest is a mantissa, and the bits of the number one.
_SHIFT = {"uint32": 9, "uint64": 12}
_ONE = {"uint32": 0x3F800000, "uint64": 0x3FF0000000000000}


def _passes(site: Site) -> bool:
    """Whether a primitive only rearranges entries; broadcasting a draw uses it many times and does
    not pass.
    """
    exact = is_wide(site.dtype) and is_wide(site.operand_dtype(0))
    if site.name == "convert_element_type" and not exact:
        return False
    return site.name in _PASSING and math.prod(site.shape(0)) == math.prod(site.out_shape)


def draw_of(site: Site) -> Any:
    """The step of the result in the computation from bits to a normal number."""
    if site.name == "random_bits":
        if not _all_different(site):
            return None  # the same numbers in several entries
        copied = site.labels[0].place == Place.SERVER and _client_axis(site) is not None
        return ("bits", site.number, copied)
    drawn = [f.draw for f in site.facts]
    if drawn.count(None) == len(drawn):
        return None
    if _passes(site):
        return drawn[0]
    if site.name == "bitcast_convert_type":
        return _advance(drawn[0], "mantissa", "one to two")
    if site.name == "erf_inv":
        return _erf_inv(site)
    return _arithmetic(site)


def _all_different(site: Site) -> bool:
    """Whether no two keys of one client's draw can be the same key."""
    keys, axis, shape = site.facts[0].keys, _client_axis(site), site.shape(0)
    if math.prod(shape) == (1 if axis is None else shape[axis]):
        return True
    if keys.family is not None:
        return True
    return bool(keys.names) and all(all_unrelated(row) for row in rows_of(site))


def rows_of(site: Site) -> tuple[tuple[Key, ...], ...]:
    """The keys of a draw, for each client that has its own keys or copies."""
    keys, axis, shape = site.facts[0].keys, _client_axis(site), site.shape(0)
    if axis is None or len(keys.names) != math.prod(shape):
        return (keys.consumed(),)
    grid = np.moveaxis(positions(shape), axis, 0).reshape(shape[axis], -1)
    return tuple(tuple(keys.names[k] for k in row) for row in grid.tolist())


def _client_axis(site: Site) -> int | None:
    """The axis along which each client has its own keys or its copy of the same keys."""
    label = site.labels[0]
    if label.client_axis is not None or not site.stacked or not site.shape(0):
        return label.client_axis
    return 0 if label.place == Place.COPY or label.axes[0].sources else None


def _advance(draw: Any, before: str, after: str) -> Any:
    return (after, *draw[1:]) if draw and draw[0] == before else None


def _arithmetic(site: Site) -> Any:
    index = 0 if site.facts[0].draw else 1
    if len(site.facts) != 2 or site.facts[1 - index].draw:
        return None
    draw, other = site.facts[index].draw, site.facts[1 - index].interval
    constant = other.low if other.low == other.high else None
    stage, name = draw[0], site.name
    if stage == "bits" and name == "shift_right_logical" and index == 0:
        return ("shifted", *draw[1:]) if constant == _SHIFT.get(str(site.dtype)) else None
    if stage == "shifted" and name == "or":
        return ("mantissa", *draw[1:]) if constant == _ONE.get(str(site.dtype)) else None
    if stage == "one to two" and name == "sub" and index == 0 and constant == 1:
        return ("uniform", *draw[1:], 0.0, 1.0)
    if stage == "uniform" and constant is not None:
        return _affine(draw, name, constant)
    return None


def _affine(draw: Any, name: str, constant: float) -> Any:
    *head, low, high = draw
    if name == "mul" and constant > 0:
        return (*head, low * constant, high * constant)
    if name == "add":
        return (*head, low + constant, high + constant)
    if name == "max" and constant <= low + 1e-6:
        return draw
    return None


def _erf_inv(site: Site) -> Any:
    draw = site.facts[0].draw
    if draw[0] != "uniform":
        return None
    low, high = draw[-2:]
    # The open end keeps the draw finite; a wider or narrower range would not be normal.
    whole = abs(low + 1) < 1e-5 and abs(high - 1) < 1e-5
    return ("half normal", draw[1], draw[2]) if whole else None


def noise_of(site: Site) -> Noise | None:
    """Gaussian noise with its standard deviation."""
    facts = site.facts
    for fact in facts:
        if fact.noise is not None or fact.draw is not None:
            break
    else:
        return None
    if site.name == "mul":
        for one, other, index in ((facts[0], facts[1], 1), (facts[1], facts[0], 0)):
            factor = factor_of(other)
            if factor is None or site.shape(1 - index) != site.out_shape:
                continue
            if one.draw and one.draw[0] == "half normal":
                return Noise(factor.scaled(math.sqrt(0.5)), one.draw[1], one.draw[2])
            if one.noise is not None and site.shape(index) in ((), site.out_shape):
                return one.noise._replace(std=one.noise.std.times(factor))
        return None
    if site.name == "div" and facts[0].noise is not None:
        factor = factor_of(facts[1])
        usable = factor is not None and factor.factor > 0 and site.shape(0) == site.out_shape
        return facts[0].noise._replace(std=facts[0].noise.std.over(factor)) if usable else None  # type: ignore[arg-type]
    if _passes(site) or site.name == "neg":
        return facts[0].noise
    return None
