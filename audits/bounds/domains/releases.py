"""The server's use of sums: linear functions, denominators, and the place where noise is added.

Noise hides a sum only if it is added to a linear function of sums; after that the sum counts as
noised. Noise and sensitivity are compared at this point, so a factor of the number of clients
between a sum and a mean is not lost.
"""

import dataclasses
import math
from collections.abc import Callable

from audits.bounds.values.amounts import Amount
from audits.bounds.values.facts import Fact, Noise, factor_of
from audits.bounds.values.precision import is_float, is_wide
from audits.bounds.values.sets import NONE, Sums, united
from audits.bounds.values.steps import RESHAPING, Site
from audits.transfer.labels import Place

_PASSING = RESHAPING | {"transpose", "convert_element_type", "neg"}
_ARITHMETIC = frozenset({"neg", "mul", "div", "add", "add_any", "sub"})


@dataclasses.dataclass(frozen=True)
class NoiseSite:
    """A place where noise is added to sums: at the server, or at a client before the sum.

    Attributes:
      linear: The sums and their factors in the value to which noise is added; empty at a client.
      noise: The noise.
      at_client: Each client adds its own.
      known: It is Gaussian with a known standard deviation, one draw per entry.
      line: The user's line.
      loops: The loops around it.
    """

    linear: tuple[tuple[int, Amount], ...]
    noise: Noise
    at_client: bool
    line: str
    known: bool = True
    loops: tuple[int, ...] = ()


def linear_of(site: Site) -> tuple[tuple[int, Amount], ...]:
    """The result as a linear function of sums, if it is one."""
    facts = site.facts
    for fact in facts:
        if fact.linear:
            break
    else:
        return ()
    if site.name == "convert_element_type" and not is_wide(site.dtype):
        return ()  # rounding a sum is not linear
    if site.name in _ARITHMETIC and not is_float(site.dtype):
        return ()  # integers wrap, and their quotients are cut
    linear = [_repeated(site, k) for k in range(len(facts))]
    if site.name in _PASSING:
        return linear[0]
    if site.name == "mul":
        for one, other in ((0, 1), (1, 0)):
            factor = factor_of(facts[other])
            if linear[one] and factor is not None and not linear[other]:
                return tuple((k, a.times(factor)) for k, a in linear[one])
    if site.name == "div" and linear[0]:
        factor = factor_of(facts[1])
        if factor is not None and factor.factor > 0 and not linear[1]:
            return tuple((k, a.over(factor)) for k, a in linear[0])
    if site.name in ("add", "add_any", "sub") and linear[0] and linear[1]:
        return _merged(linear[0], linear[1])
    return ()


def _repeated(site: Site, index: int) -> tuple[tuple[int, Amount], ...]:
    """The change of a value that is broadcast to m copies grows by the root of m."""
    linear = site.facts[index].linear
    copies = math.prod(site.out_shape) / max(math.prod(site.shape(index)), 1)
    if not linear or copies <= 1:
        return linear
    return tuple((k, a.scaled(math.sqrt(copies))) for k, a in linear)


def _merged(a, b):
    """Factors of a sum of two linear functions: magnitudes add up."""
    total = dict(a)
    for number, amount in b:
        if number in total:
            both = total[number].plus(amount)
            if both is None:
                return ()
            amount = both
        total[number] = amount
    return tuple(sorted(total.items()))


def noised(site: Site, line: Callable[[], str]) -> tuple[Fact | None, NoiseSite | None]:
    """The operand to which noise is added, and its record, if the equation adds noise."""
    if site.name not in ("add", "add_any", "sub") or not (
        any(fact.keys.drawn or fact.noise for fact in site.facts)
    ):
        return None, None
    found = _gaussian(site, line)
    return (None, _unknown(site, line)) if found[0] is None else found


def _unknown(site: Site, line: Callable[[], str]) -> NoiseSite | None:
    """A random value is added to sums without noise, but it is not recognised as Gaussian noise."""
    for index, other in ((0, 1), (1, 0)):
        drawn, value = site.facts[index], site.facts[other]
        server = site.labels[other].place == Place.SERVER
        if server and drawn.keys.drawn and value.raw:
            noise = drawn.noise or Noise(Amount(0.0), -1, False)
            return NoiseSite(value.linear, noise, False, line(), known=False)
    return None


def _gaussian(site: Site, line: Callable[[], str]) -> tuple[Fact | None, NoiseSite | None]:
    for index, other in ((0, 1), (1, 0)):
        noise, value = site.facts[index].noise, site.facts[other]
        if noise is None or value.noise is not None:
            continue
        if not site.shape(index) == site.shape(other) == site.out_shape:
            return (
                None,
                None,
            )  # one draw for many entries, or many draws for one entry, is not this noise
        if value.linear and site.labels[other].place == Place.SERVER:
            # Copies of one draw do not count as noise if the server adds them.
            return value, NoiseSite(value.linear, noise, False, line(), not noise.copied)
        if site.labels[other].place == Place.CLIENT:
            return value, NoiseSite((), noise, True, line())
    return None, None


def raw_of(site: Site) -> tuple[Sums, Sums]:
    """The sums without noise behind the result, and those behind a denominator."""
    raw, divisors = NONE, NONE
    for fact in site.facts:
        raw, divisors = united(raw, fact.raw), united(divisors, fact.divisors)
    if site.name == "div":
        divisors = united(divisors, site.facts[1].raw)
    return raw, divisors


def direct_of(site: Site) -> bool:
    """A noised sum stays direct until it is normalised or combined."""
    if site.name in _PASSING and site.name != "neg":
        return site.facts[0].direct
    return False
