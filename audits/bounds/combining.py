"""Combines the parts of an equation's fact: interval, relation, guards, linear form and blame."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from audits.bounds.domains.amounts import Amount
from audits.bounds.domains.chance import draw_of, noise_of
from audits.bounds.domains.contributions import low_precision
from audits.bounds.domains.facts import Fact, Interval, Member, Norm, Relation
from audits.bounds.domains.intervals import interval_of
from audits.bounds.domains.key_rules import keys_of
from audits.bounds.domains.keys import Keys, mixed, unnamed
from audits.bounds.domains.relations import covers, itself, relation_of
from audits.bounds.domains.releases import NoiseSite, direct_of, linear_of, noised, raw_of
from audits.bounds.domains.sets import NONE, only
from audits.bounds.domains.stability import norms_of
from audits.bounds.domains.steps import Site
from audits.transfer.labels import Place

Number = Callable[..., int]
Alternatives = frozenset[frozenset[Member]]


def combine(site: Site, number: Number, line: Callable[[], str]) -> tuple[Fact, NoiseSite | None]:
    """The fact of a single-result equation that is neither control flow nor communication."""
    operand, noise = noised(site, line)
    if operand is not None and noise is not None:
        return _with_noise(site, operand, noise, number), noise
    raw, divisors = raw_of(site)
    relation, norms = relation_of(site), norms_of(site)
    fact = Fact(
        site.number,
        _interval(site),
        relation=relation,
        scaled=_scaled(site, relation),
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
    return (_selected(site, fact, number) if site.name == "select_n" else fact), noise


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
        own["norms"] = operand.norms or own["norms"]
        return operand.replace(number=site.number, part=None, mixed=noise.noise, **own)
    return Fact(
        site.number,
        Interval(-math.inf, math.inf),
        raw=operand.raw & ~hidden,
        divisors=operand.divisors & ~hidden,
        direct=direct,
        **own,
    )


def _interval(site: Site) -> Interval:
    operands = [f.interval for f in site.facts]
    if site.name == "reduce_sum":
        return _summed(site)
    return interval_of(site.name, operands, site.params, site.dtype)


def _summed(site: Site) -> Interval:
    size = math.prod(site.shape(0)[k] for k in site.params["axes"])
    i = site.facts[0].interval
    many = [Interval(float(size), float(size)), i]
    wide = interval_of("mul", many, {}, site.dtype)
    # Infinities of opposite signs in one sum give NaN.
    return wide._replace(nan=wide.nan or (i.inf and i.low < 0 < i.high and size > 1))


def _scaled(site: Site, relation: Relation | None) -> Alternatives:
    """Sets of members; the finiteness of all members of one set makes the result finite."""
    members = frozenset() if relation is None or relation.kind != "scale" else relation.members
    if site.name == "div" and members and site.facts[1].interval.low > 0:
        return frozenset({members} if _amount_finite(site.facts[0]) else ())
    if site.name == "min" and members:
        known = next((f.scaled for f in site.facts if f.scaled), frozenset())
        return known or frozenset(() if _interval(site).inf else {members})
    if site.name in ("max", "min"):
        return _limited(site)
    if site.name in ("mul", "div"):
        return _product_scaled(site)
    if site.name in _TAME:
        fact = site.facts[1 if site.name == "clamp" else 0]
        own = frozenset({itself(fact, len(site.out_shape))})
        return frozenset({own}) | (fact.scaled if site.name != "clamp" else frozenset())
    if site.name in ("neg", "abs", "copy", "broadcast_in_dim", "convert_element_type", "reshape"):
        return relation_of_scaled(site)
    return frozenset()


# Finite for every finite operand.
_TAME = frozenset(
    {"tanh", "erf", "logistic", "sin", "cos", "sign", "clamp", "round", "floor", "ceil"}
)


def _amount_finite(fact: Fact) -> bool:
    return fact.interval.finite or fact.amount is not None


def _limited(site: Site) -> Alternatives:
    """A maximum or minimum with a finite value is finite if the other operand is."""
    for index, other in ((0, 1), (1, 0)):
        if site.facts[other].interval.finite and site.shape(index) == site.out_shape:
            fact = site.facts[index]
            return frozenset({frozenset({itself(fact, len(site.out_shape))})}) | fact.scaled
    return frozenset()


def relation_of_scaled(site: Site) -> Alternatives:
    """Follows guards through axis changes, as relations are followed."""
    found = set()
    for members in site.facts[0].scaled:
        stand_in = site.facts[0].replace(relation=Relation("finite", members))
        moved = relation_of(dataclasses.replace(site, facts=[stand_in, *site.facts[1:]]))
        if moved is not None:
            found.add(moved.members)
    return frozenset(found)


def _product_scaled(site: Site) -> Alternatives:
    """V * s is finite if v is and s is finite whenever v is; v / n if n is at least positive."""
    out = site.out_shape
    for index, other in ((0, 1), (1, 0)):
        if site.shape(index) != out:
            continue
        fact, factor = site.facts[index], site.facts[other]
        if site.name == "div":
            if index == 0 and factor.interval.low > 0:
                own = frozenset({itself(fact, len(out))})
                return _covered(factor.relation, fact, site, index, other) or (
                    frozenset({own}) if factor.interval.finite else frozenset()
                )
            continue
        reach = max(abs(fact.interval.low), abs(fact.interval.high))
        limit = _largest(site.dtype)
        size = factor.interval.magnitude
        small = size <= 1 or reach * size < limit
        finite = factor.interval.finite and (small or scales(factor, fact, site))
        if finite or any(
            covers(m, fact.number, site.shape(index), site.shape(other))
            for members in factor.scaled
            for m in members
        ):
            return frozenset({frozenset({itself(fact, len(out))})}) | fact.scaled
    return frozenset()


@functools.cache
def _largest(dtype: Any) -> float:
    """The largest finite number of a float dtype; zero for every other."""
    return float(jnp.finfo(dtype).max) if jnp.issubdtype(dtype, jnp.floating) else 0.0


def scales(factor: Fact, fact: Fact, site: Site) -> bool:
    """Whether the factor is at most c over the norm of the fact, so that the product cannot overflow."""
    shape, related = site.out_shape, factor.relation
    if related is None or related.kind != "scale":
        return False
    other = site.shape(0) if site.facts[0] is factor else site.shape(1)
    return any(covers(m, fact.number, shape, other) for m in related.members)


def _covered(relation, fact: Fact, site: Site, index: int, other: int) -> Alternatives:
    if relation is None or relation.kind != "norm":
        return frozenset()
    for member in relation.members:
        if covers(member, fact.number, site.shape(index), site.shape(other)):
            return frozenset({frozenset({itself(fact, len(site.shape(index)))})})
    return frozenset()


def _selected(site: Site, fact: Fact, number: Number) -> Fact:
    """`where(finite, v, 0)`: the guarded value is finite."""
    test, cases = site.facts[0], site.facts[1:]
    related = test.relation
    if related is None or len(cases) != 2:
        return fact
    if (
        related.kind == "nan"
        and cases[1].interval.finite
        and _is_member(related, cases[0], site, 1)
    ):
        return fact.replace(interval=fact.interval._replace(nan=False))
    if related.kind not in ("finite", "within") or not cases[0].interval.finite:
        return fact
    kept = cases[1]
    member = _is_member(related, kept, site, 2)
    guarded = member or (kept.scaled and _all_members(related, kept, site))
    if not guarded:
        return fact
    interval = fact.interval._replace(nan=False, inf=False)
    if not cases[0].interval.is_zero:
        return fact.replace(interval=interval)
    renamed = (related.kind, related.test)
    own = number("guarded", kept.number, renamed) if member else site.number
    relation = _guarded_relation(kept.relation, related, number, renamed)
    return fact.replace(number=own, interval=interval, relation=relation, scaled=frozenset())


def _is_member(related: Relation, fact: Fact, site: Site, index: int) -> bool:
    return any(covers(m, fact.number, site.shape(index), site.shape(0)) for m in related.members)


def _all_members(related: Relation, fact: Fact, site: Site) -> bool:
    return any(all(_tested(related, m.value, site) for m in members) for members in fact.scaled)


def _tested(related: Relation, value: int, site: Site) -> bool:
    return any(covers(m, value, site.shape(2), site.shape(0)) for m in related.members)


def _guarded_relation(
    relation: Relation | None, test: Relation, number: Number, renamed: tuple
) -> Relation | None:
    """A norm of guarded values, or a factor that is zero where the guard fails."""
    if relation is None:
        return None
    if relation.kind == "scale":
        return relation
    tested = {(m.value, m.kept) for m in test.members}
    lower = relation.kind in ("norm", "square")
    if not lower or any((m.value, m.kept) not in tested for m in relation.members):
        return None
    members = frozenset(
        m._replace(value=number("guarded", m.value, renamed)) for m in relation.members
    )
    return relation._replace(members=members)


def _multiple(site: Site) -> tuple[int, Amount] | None:
    if site.name != "mul":
        return None
    for one, other, index in ((site.facts[0], site.facts[1], 0), (site.facts[1], site.facts[0], 1)):
        factor = factor_of(other)
        if factor is not None and site.shape(index) == site.out_shape:
            return one.number, factor
    return None


def factor_of(fact: Fact) -> Amount | None:
    """The magnitude of a public number or server scalar."""
    interval = fact.interval
    if interval.low == interval.high and interval.finite:
        return Amount(abs(interval.low))
    return fact.amount


def _amount(site: Site) -> Amount | None:
    """Server scalars keep their magnitude under broadcasting, conversion and scaling."""
    facts = site.facts
    if site.name in _UNIFORM and facts:
        return facts[0].amount
    if site.name in ("mul", "div") and any(f.amount is not None for f in facts):
        a, b = (factor_of(f) for f in facts)
        if a is None or b is None or (site.name == "div" and b.factor == 0):
            return None
        return a.times(b) if site.name == "mul" else a.over(b)
    return None


_UNIFORM = frozenset(
    [
        "broadcast_in_dim",
        "reshape",
        "squeeze",
        "copy",
        "stop_gradient",
        "convert_element_type",
        "neg",
        "abs",
    ]
)


def _blame(site: Site) -> str:
    """The reason why a bounded value became unbounded."""
    inherited = _inherited(site, "blame")
    if site.name == "select_n" and not inherited:
        related = site.facts[0].relation
        if related is not None and related.kind == "outside unless NaN":
            return "FAD407"
    if site.name == "mul" and len(site.facts) == 2:
        for one, other, index in ((*site.facts, 1), (*site.facts[::-1], 0)):
            if not one.norms:
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
