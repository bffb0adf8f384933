"""Combines the parts of an equation's fact: interval, relation, guards, linear form and blame."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from audits.bounds.domains.chance import draw_of, noise_of
from audits.bounds.domains.chosen import chosen_factor, limited_factors
from audits.bounds.domains.flags import LOWER
from audits.bounds.domains.guards import ALWAYS, scaled_of, selected
from audits.bounds.domains.intervals import interval_of, magnitude, summed
from audits.bounds.domains.key_rules import keys_of
from audits.bounds.domains.relations import relation_of
from audits.bounds.domains.releases import NoiseSite, direct_of, linear_of, noised, raw_of
from audits.bounds.domains.stability import guarded_cases, norms_of, whole_norm
from audits.bounds.values.amounts import Amount
from audits.bounds.values.facts import Fact, Interval, Norm, Relation, factor_of
from audits.bounds.values.keys import Keys, mixed, unnamed
from audits.bounds.values.precision import is_complex, is_float, is_wide, low_precision
from audits.bounds.values.sets import NONE, only
from audits.bounds.values.steps import RESHAPING, Site, entries
from audits.transfer.labels import Place

Number = Callable[..., int]


def combine(site: Site, number: Number, line: Callable[[], str]) -> tuple[Fact, NoiseSite | None]:
    """The fact of a single-result equation that is neither control flow nor communication."""
    operand, noise = noised(site, line)
    if operand is not None and noise is not None:
        return _with_noise(site, operand, noise, number), noise
    if site.name == "select_n":
        site = dataclasses.replace(site, facts=guarded_cases(site))
        site = dataclasses.replace(site, facts=limited_factors(site))
    raw, divisors = raw_of(site)
    norms, interval = norms_of(site), _interval(site)
    relation = chosen_factor(site) if site.name == "select_n" else relation_of(site)
    scaled = scaled_of(site, relation, interval)
    if scaled >= ALWAYS:
        interval = interval._replace(nan=False, inf=False)
    fact = Fact(
        site.number,
        interval,
        relation=relation,
        scaled=scaled,
        multiple=_multiple(site),
        amount=_amount(site),
        blame=_blame(site),
        low=_low(site, relation),
        linear=linear_of(site),
        raw=raw,
        divisors=divisors,
        direct=direct_of(site),
        proof=_proof(site, norms),
        norms=norms,
        draw=draw_of(site),
        noise=noise_of(site),
        keys=_keys(site, noise),
    )
    return (selected(site, fact, number) if site.name == "select_n" else fact), noise


def _keys(site: Site, noise: NoiseSite | None) -> Keys:
    """The keys of a result; noise of an unknown kind is judged where it is added."""
    keys = keys_of(site)
    return keys if noise is None else unnamed(keys.visible, frozenset())


def _with_noise(site: Site, operand: Fact, noise: NoiseSite, number: Number) -> Fact:
    """Noise hides the sums of a server value; a client value keeps its bound."""
    hidden = NONE
    for event, _ in noise.linear:
        hidden |= only(event)
    direct = bool(noise.linear) and all(a == Amount(1.0) for _, a in noise.linear)
    own: dict[str, Any] = {
        "norms": norms_of(site),
        "draw": draw_of(site),
        "noise": noise_of(site),
        # The draw is in the noise; that the noise is used once is judged there.
        "keys": unnamed(mixed(f.keys for f in site.facts).shown, operand.keys.drawn),
    }
    if noise.at_client:
        return _own_noise(site, operand, noise, own)
    return Fact(
        site.number,
        Interval(-math.inf, math.inf),
        raw=operand.raw & ~hidden,
        divisors=operand.divisors & ~hidden,
        direct=direct,
        **own,
    )


def _own_noise(site: Site, operand: Fact, noise: NoiseSite, own: dict[str, Any]) -> Fact:
    """A client's value with its own noise: only the sum of it has the bound of the value."""
    behind = operand.behind if operand.mixed else operand.norms
    whole = whole_norm(operand, site.out_shape, site.client_axis)
    if whole is not None:
        behind = (*behind, Norm(site.own_axes(), whole))
    i = operand.interval
    own |= {"norms": (), "behind": behind, "mixed": noise.noise}
    return Fact(
        site.number,
        Interval(-math.inf, math.inf, i.nan, i.inf),
        raw=operand.raw,
        divisors=operand.divisors,
        direct=operand.direct,
        proof=operand.proof,
        blame=operand.blame,
        low=operand.low,
        **own,
    )


def _interval(site: Site) -> Interval:
    operands = [f.interval for f in site.facts]
    if site.name == "reduce_sum":
        return summed(operands[0], entries(site.shape(0), set(site.params["axes"])), site.dtype)
    name = "square" if _is_square(site) else site.name
    found = interval_of(name, operands, site.params, site.dtype)
    if site.name == "abs" and is_complex(site.operand_dtype(0)):
        return magnitude(found)
    if site.name in ("div", "rsqrt", "integer_pow") and _is_norm(site.facts[-1]):
        return found._replace(low=max(found.low, 0.0)) if operands[0].low >= 0 else found
    return found


def _is_square(site: Site) -> bool:
    """Whether a product is that of a real number with itself."""
    if site.name != "mul" or not is_float(site.dtype):
        return False
    return site.facts[0].number == site.facts[1].number and site.shape(0) == site.shape(1)


def _is_norm(fact: Fact) -> bool:
    """Whether a value is a norm or a square: its zero is positive."""
    return fact.relation is not None and fact.relation.kind in LOWER


def _multiple(site: Site) -> tuple[int, Amount] | None:
    if site.name != "mul" or not is_float(site.dtype):
        return None
    for one, other, index in ((site.facts[0], site.facts[1], 0), (site.facts[1], site.facts[0], 1)):
        factor = factor_of(other)
        if factor is not None and site.shape(index) == site.out_shape:
            return one.number, factor
    return None


_UNIFORM = RESHAPING | {"neg", "abs"}


def _amount(site: Site) -> Amount | None:
    """Server scalars keep their magnitude under broadcasting and scaling, in floats of 32 bits or
    more; an integer or a short float of them is another number.
    """
    facts = site.facts
    if site.name in _UNIFORM and facts:
        return facts[0].amount
    if site.name == "convert_element_type":
        exact = is_wide(site.dtype) and is_wide(site.operand_dtype(0))
        return facts[0].amount if exact else None
    if site.name in ("mul", "div") and any(f.amount is not None for f in facts):
        return _scaled_amount(site)
    return None


def _scaled_amount(site: Site) -> Amount | None:
    a, b = (factor_of(f) for f in site.facts)
    if a is None or b is None or not is_wide(site.dtype):
        return None
    if site.name == "div" and b.factor == 0:
        return None
    made = a.times(b) if site.name == "mul" else a.over(b)
    # Products that underflow or overflow in float32 have another magnitude.
    return made if made.factor == 0 or _LEAST <= made.factor <= 1 / _LEAST else None


_LEAST = 1e-12  # and its inverse: numbers by which a server value may be scaled


def _blame(site: Site) -> str:
    """The reason why a bounded value became unbounded."""
    inherited = _inherited(site, "blame")
    if site.name == "select_n" and not inherited:
        related = site.facts[0].relation
        if related is not None and related.kind == "outside unless NaN":
            return "FAD407"
    if site.name == "mul" and len(site.facts) == 2:
        for one, other, index in ((*site.facts, 1), (*site.facts[::-1], 0)):
            if not one.norms and not one.behind:
                continue
            free = math.isinf(other.interval.magnitude) and other.relation is None
            mine = site.labels[index].place == Place.CLIENT and other.amount is None
            if free and mine:
                return "FAD404"
    return inherited


def _low(site: Site, relation: Relation | None) -> str:
    inherited = _inherited(site, "low")
    if inherited:
        return inherited
    related = relation is not None and relation.kind in ("square", "norm", "scale")
    rounded = site.name in _ROUNDING and site.outputs[0].on_clients
    return low_precision(site.dtype) if related or rounded else ""


_ROUNDING = frozenset({"add", "add_any", "sub", "mul", "div", "reduce_sum", "convert_element_type"})


def _proof(site: Site, norms: tuple[Norm, ...]) -> str:
    return _inherited(site, "proof") or ("recognised clip" if norms else "")


def _inherited(site: Site, part: str) -> str:
    """The value of the first operand that has one."""
    for fact in site.facts:
        word = getattr(fact, part)
        if word:
            return word
    return ""
