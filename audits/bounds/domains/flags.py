"""Flags: what a test says about the norm or the entries of a value.

A comparison with the norm gives the clip that is written with `where`; a test for finiteness guards.
A test of every entry, reduced over axes, is a test of the rows along these axes.
"""

from collections.abc import Callable

from audits.bounds.values.amounts import Amount
from audits.bounds.values.facts import Member, Relation, factor_of
from audits.bounds.values.members import itself
from audits.bounds.values.steps import Site, moved_axes

Found = Relation | None
FLAGS = frozenset({"finite", "nan", "within", "outside", "outside unless NaN"})
LOWER = frozenset({"square", "norm"})


def reduced_members(site: Site, related: Relation) -> frozenset[Member] | None:
    """The members of a relation after a reduction over axes; None over the axis of clients."""
    gone = set(site.params["axes"])
    if site.labels[0].client_axis in gone:
        return None
    place = moved_axes(site)
    members = set()
    for member in related.members:
        summed = member.summed | {mine for mine, here in member.kept if here in gone}
        places = tuple((mine, place[here]) for mine, here in member.kept if here not in gone)
        members.add(Member(member.value, frozenset(summed), places))
    return frozenset(members)


def _is_finite(site: Site) -> Found:
    fact = site.facts[0]
    tested = frozenset({itself(fact, len(site.shape(0)))})
    related = fact.relation
    if related is not None and related.kind in ("norm", "square") and related.amount.factor > 0:
        return Relation("finite", related.members | tested, test=site.number)
    return Relation("finite", tested, test=site.number)


def _not_equal(site: Site) -> Found:
    """`x != x` is true exactly for NaN."""
    a, b = site.facts
    if a.number != b.number or site.shape(0) != site.shape(1):
        return None
    return Relation("nan", frozenset({itself(a, len(site.shape(0)))}), test=site.number)


def _compare(site: Site) -> Found:
    left, right = site.facts
    name = site.name
    if left.relation is None or left.relation.kind not in LOWER:
        left, right = right, left
        name = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}[name]
    related, limit = left.relation, factor_of(right)
    if related is None or related.kind not in LOWER or limit is None:
        return None
    if related.kind == "square":
        if limit.powers:
            return None
        limit = Amount(limit.factor**0.5)
    kind = "within" if name in ("lt", "le") else "outside"
    if kind == "outside" and left.interval.nan:
        kind = "outside unless NaN"
    origin = related.origin if right.interval.low > 0 else -1
    amount = limit.over(related.amount)
    return Relation(kind, related.members, amount, site.number, gap=related.gap, origin=origin)


def _and(site: Site) -> Found:
    for fact, other in (site.facts, site.facts[::-1]):
        related = fact.relation
        if related is not None and related.kind in ("finite", "within"):
            varies = site.out_shape != () and not _follows(other.relation, related)
            return related._replace(test=site.number, mixed=related.mixed or varies)
    return None


def _follows(other: Found, related: Relation) -> bool:
    """Whether a flag varies only along the axes of another flag."""
    if other is None or other.mixed:
        return False
    places = lambda r: {here for m in r.members for _, here in m.kept}
    return places(other) <= places(related)


def _every(site: Site) -> Found:
    """All entries are finite along the reduced axes."""
    related = site.facts[0].relation
    if related is None or related.kind != "finite":
        return None
    members = reduced_members(site, related)
    return None if members is None else related._replace(members=members, test=site.number)


RULES: dict[str, Callable[[Site], Found]] = {
    "is_finite": _is_finite,
    "ne": _not_equal,
    "lt": _compare,
    "le": _compare,
    "gt": _compare,
    "ge": _compare,
    "and": _and,
    "reduce_and": _every,
}
