"""Guards: what must be finite so that a value is, and which values a test keeps finite.

A product with a factor is finite if the value is, and all values in the norm that the factor was
computed from: one NaN in any of them makes the factor NaN for all. A value therefore carries
alternatives, each a set of members that must all be finite, and a guard counts only if it tests
every member of one of them along all its axes.
"""

import dataclasses
from collections.abc import Callable, Iterable

from audits.bounds.domains.relations import relation_of
from audits.bounds.values.facts import Fact, Interval, Member, Relation, factor_of
from audits.bounds.values.members import covers, includes, itself
from audits.bounds.values.precision import is_float, largest_number
from audits.bounds.values.steps import Site

Number = Callable[..., int]
Alternatives = frozenset[frozenset[Member]]
NEVER: Alternatives = frozenset()
ALWAYS: Alternatives = frozenset({frozenset()})
MOST = 8  # alternatives of one value

# Finite for every finite operand.
_TAME = frozenset({"tanh", "erf", "logistic", "sin", "cos", "sign", "round", "floor", "ceil"})
_MOVING = frozenset({"neg", "abs", "copy", "broadcast_in_dim", "convert_element_type", "reshape"})


def scaled_of(site: Site, relation: Relation | None, interval: Interval) -> Alternatives:
    """Sets of members; the finiteness of all members of one set makes the result finite."""
    if not is_float(site.dtype):
        return NEVER
    if site.name in _MOVING:
        return _moved(site)
    if site.name in _TAME:
        return _given(site, 0)
    if site.name == "clamp":
        limits = (site.facts[0], site.facts[2])
        known = all(f.interval.finite for f in limits)
        inner = _given(site, 1) if known and site.shape(1) == site.out_shape else NEVER
        return inner | _capped(site, relation, interval)
    if site.name in ("max", "min"):
        return _capped(site, relation, interval) | _limited(site)
    if site.name == "div":
        return _quotient(site, relation)
    return _product(site) if site.name == "mul" else NEVER


def _given(site: Site, index: int) -> Alternatives:
    """The sets that make an operand finite."""
    fact = site.facts[index]
    if fact.interval.finite:
        return ALWAYS
    return frozenset({frozenset({itself(fact, len(site.shape(index)))})}) | fact.scaled


def _both(one: Alternatives, other: Alternatives) -> Alternatives:
    """The sets that make both finite."""
    found = sorted((a | b for a in one for b in other), key=len)
    return frozenset(found[:MOST])


def _limited(site: Site) -> Alternatives:
    """A maximum or minimum with a finite value is finite if the other operand is."""
    for index, other in ((0, 1), (1, 0)):
        if site.facts[other].interval.finite and site.shape(index) == site.out_shape:
            return _given(site, index)
    return NEVER


def _capped(site: Site, relation: Relation | None, interval: Interval) -> Alternatives:
    """A factor that is capped is finite if it is not NaN."""
    if relation is None or relation.kind != "scale" or interval.inf or site.name == "max":
        return NEVER
    one = next(f for f in site.facts if f.relation is not None and f.relation.kind == "scale")
    return one.scaled | frozenset({relation.members})


def _moved(site: Site) -> Alternatives:
    """Follows guards through axis changes, as relations are followed."""
    fact = site.facts[0]
    if not is_float(site.operand_dtype(0)) and site.name == "abs":
        return NEVER  # the magnitude of two finite parts may overflow
    if site.name == "convert_element_type" and not _fits(fact.interval, site):
        return NEVER
    found = set()
    for members in _given(site, 0):
        stand_in = fact.replace(relation=Relation("finite", members))
        follow = dataclasses.replace(site, facts=[stand_in, *site.facts[1:]])
        moved = _axes_moved(follow)
        if moved is not None:
            found.add(moved.members)
    return frozenset(found)


def _axes_moved(site: Site) -> Relation | None:
    same = site.name in ("neg", "abs", "copy", "convert_element_type")
    return site.facts[0].relation if same else relation_of(site)


def _fits(interval: Interval, site: Site) -> bool:
    """Whether a conversion cannot overflow."""
    before = site.equation.invars[0].aval.dtype  # type: ignore[attr-defined]
    limit = largest_number(site.dtype)
    if is_float(before) and largest_number(before) <= limit:
        return True
    return interval.reach < limit / 2


def _quotient(site: Site, relation: Relation | None) -> Alternatives:
    """C / n, and V / n if n is at least positive."""
    top, bottom = site.facts
    limit = largest_number(site.dtype) / 2
    if bottom.interval.low <= 0:
        return NEVER
    if relation is not None and relation.kind == "scale":
        factor = factor_of(top)
        small = factor is not None and factor.most / bottom.interval.low < limit
        if small and bottom.relation is not None:
            return frozenset({relation.members})
    if site.shape(0) != site.out_shape:
        return NEVER
    normed = bottom.relation is not None and bottom.relation.kind == "norm"
    over = normed and any(
        covers(m, top.number, site.shape(0), site.shape(1))
        for m in bottom.relation.members  # type: ignore[union-attr]
    )
    least = bottom.interval.low
    if not over and least < 1 and not top.interval.reach / least < limit:
        return NEVER
    # An infinite norm gives zero, a NaN does not.
    if not normed:
        return _both(_given(site, 0), _given(site, 1))
    below = frozenset({bottom.relation.members})  # type: ignore[union-attr]
    return _both(_given(site, 0), below if bottom.interval.nan else ALWAYS)


def _product(site: Site) -> Alternatives:
    """V * s is finite if both are and the product cannot overflow."""
    for index, other in ((0, 1), (1, 0)):
        if site.shape(index) != site.out_shape:
            continue
        fact, factor = site.facts[index], site.facts[other]
        size = factor.interval.reach
        small = size <= 1 or fact.interval.reach * size < largest_number(site.dtype) / 2
        if small or _scales(factor, fact, site, index, other):
            return _both(_given(site, index), _given(site, other))
    return NEVER


def _scales(factor: Fact, fact: Fact, site: Site, index: int, other: int) -> bool:
    """Whether the factor is at most c over the norm of the fact, so that the product cannot overflow."""
    related = factor.relation
    if related is None or related.kind != "scale":
        return False
    return any(
        covers(m, fact.number, site.shape(index), site.shape(other)) for m in related.members
    )


def selected(site: Site, fact: Fact, number: Number) -> Fact:
    """`where(finite, v, 0)`: the guarded value is finite."""
    test, cases = site.facts[0], site.facts[1:]
    related = test.relation
    if related is None or len(cases) != 2:
        return fact
    if related.kind == "nan":
        hidden = cases[1].interval.finite and _tests_all(related, _own(site, 1))
        return fact.replace(interval=fact.interval._replace(nan=False)) if hidden else fact
    if related.kind not in ("finite", "within") or not cases[0].interval.finite:
        return fact
    kept = cases[1]
    member = any(covers(m, kept.number, site.shape(2), site.shape(0)) for m in related.members)
    if not (member or any(_tests_all(related, members) for members in kept.scaled)):
        return _without_nan(site, fact, related)
    interval = fact.interval._replace(nan=False, inf=False)
    if not cases[0].interval.is_zero:
        return fact.replace(interval=interval)
    renamed = (related.kind, related.test)
    own = number("guarded", kept.number, renamed) if member else site.number
    relation = _guarded_relation(kept.relation, related, number, renamed)
    return fact.replace(number=own, interval=interval, relation=relation, scaled=NEVER)


def _own(site: Site, index: int) -> frozenset[Member]:
    return frozenset({itself(site.facts[index], len(site.shape(index)))})


def _tests_all(related: Relation, members: Iterable[Member]) -> bool:
    return all(any(includes(tested, m) for tested in related.members) for m in members)


def _without_nan(site: Site, fact: Fact, related: Relation) -> Fact:
    """A multiple of a finite value may overflow, but it is not NaN."""
    value, _ = site.facts[2].multiple or (None, None)
    shape = site.shape(2)
    if value is None or not any(covers(m, value, shape, site.shape(0)) for m in related.members):
        return fact
    return fact.replace(interval=fact.interval._replace(nan=False))


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
    return relation._replace(members=members, origin=-1)
