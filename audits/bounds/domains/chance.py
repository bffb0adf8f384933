"""Randomness: normal draws, their keys, and the uses of each key.

The prover recognises a normal draw by its computation, not by the name of a function: random bits
are shifted into the mantissa of a number in [1, 2), moved to (-1, 1), passed through the inverse
error function and multiplied by the root of two. Keys carry their lineage, because anyone with an
ancestor can compute the noise.

Sources: the key discipline of `jax.random`; the origin rules follow information-flow labels.
"""

import functools
import math
from typing import Any

from audits.bounds.domains.amounts import Amount
from audits.bounds.domains.facts import Fact, Noise
from audits.bounds.domains.identities import all_different
from audits.bounds.domains.sets import united
from audits.bounds.domains.steps import Site
from audits.transfer.labels import Place

KEY_PRIMITIVES = frozenset(
    {
        "random_wrap",
        "random_unwrap",
        "random_seed",
        "random_split",
        "random_fold_in",
        "random_clone",
    }
)
SINKS = frozenset({"random_bits", "random_split"})
_PASSING = frozenset(
    {
        "broadcast_in_dim",
        "reshape",
        "transpose",
        "squeeze",
        "slice",
        "copy",
        "stop_gradient",
        "convert_element_type",
        "rev",
    }
)


def lineage_of(site: Site) -> frozenset[int]:
    """The keys that determine the result, including the result; empty for values that are not keys."""
    if site.name in KEY_PRIMITIVES or (site.name in _LINKING and _keylike(site.dtype)):
        inherited = frozenset().union(*(f.lineage for f in site.facts))
        return inherited | {f.number for f in site.facts} | {site.number}
    return frozenset()


_LINKING = _PASSING | {
    "federated_broadcast",
    "dynamic_slice",
    "gather",
    "threefry2x32",
    "concatenate",
}


@functools.cache
def _keylike(dtype: Any) -> bool:
    return str(dtype) == "uint32" or str(dtype).startswith("key<")


# The bits to drop so that the rest is a mantissa, and the bits of the number one.
_SHIFT = {"uint32": 9, "uint64": 12}
_ONE = {"uint32": 0x3F800000, "uint64": 0x3FF0000000000000}


def _passes(site: Site) -> bool:
    """Whether a primitive only rearranges entries; broadcasting a draw uses it many times and does
    not pass.
    """
    return site.name in _PASSING and math.prod(site.shape(0)) == math.prod(site.out_shape)


def draw_of(site: Site) -> Any:
    """The step of the result in the computation from bits to a normal number."""
    if site.name == "random_bits":
        if not all_different(site.facts[0], site.shape(0), _rows(site)):
            return None  # the same numbers in several entries
        place = site.labels[0].place
        copied = place == Place.SERVER and _rows(site) is not None
        return ("bits", site.facts[0].number, int(Place.COPY if copied else place))
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


def _rows(site: Site) -> int | None:
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
            factor = _public_factor(other)
            if factor is None or site.shape(1 - index) != site.out_shape:
                continue
            if one.draw and one.draw[0] == "half normal":
                return Noise(factor.scaled(math.sqrt(0.5)), one.draw[1], one.draw[2])
            if one.noise is not None and site.shape(index) in ((), site.out_shape):
                return one.noise._replace(std=one.noise.std.times(factor))
        return None
    if site.name == "div" and facts[0].noise is not None:
        factor = _public_factor(facts[1])
        usable = factor is not None and factor.factor > 0 and site.shape(0) == site.out_shape
        return facts[0].noise._replace(std=facts[0].noise.std.over(factor)) if usable else None  # type: ignore[arg-type]
    if _passes(site) or site.name == "neg":
        return facts[0].noise
    return None


def _public_factor(fact: Fact) -> Amount | None:
    interval = fact.interval
    if interval.low == interval.high and interval.finite:
        return Amount(abs(interval.low))
    return fact.amount


# Nobody can compute the key from these results.
_ONE_WAY = frozenset({"random_bits", "random_split", "random_fold_in", "threefry2x32"})
# These select some of the keys of an array.
_PICKING = frozenset({"slice", "dynamic_slice", "gather", "squeeze"})


def draws_of(site: Site) -> frozenset[int]:
    """Keys whose draws entered the result."""
    drawn: frozenset[int] = frozenset()
    for fact in site.facts:
        drawn = united(drawn, fact.draws)
    return drawn | {site.facts[0].number} if site.name == "random_bits" else drawn


def reveals_of(site: Site) -> frozenset[int]:
    """Keys that can be computed from the result."""
    if site.name in _ONE_WAY or (site.name in _PICKING and site.facts[0].lineage):
        return frozenset({site.number}) if site.name != "random_bits" else frozenset()
    shown: frozenset[int] = frozenset()
    for fact in site.facts:
        shown = united(shown, fact.reveals)
    return shown
