"""Relations: recognises a clip in the arithmetic that users write.

Intervals cannot bound v * min(1, c / |v|): they give |v| times c. The necessary fact is that the
factor is at most c over the norm of the same v. The prover follows the pieces separately: a square,
a sum of squares over axes, a root, a factor at most c over it, and the product with the same value.
A comparison with the norm gives the form with `where`, and a test for finiteness the guard.

Every relation is one-sided, so it is preserved by adding a small constant, taking a maximum with a
constant, or capping the factor at one.

Sources: the spellings are those of optax, of TensorFlow Federated and of common tutorials; Duet's
`mclip` is the same fact as a primitive.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp

from audits.bounds.domains.amounts import Amount
from audits.bounds.domains.facts import Fact, Member, Norm, Relation
from audits.bounds.domains.steps import Site

Found = Relation | None
FLAGS = frozenset({"finite", "nan", "within", "outside", "outside unless NaN"})


def relation_of(site: Site) -> Found:
    """The relation of the result to the norms of other values."""
    rule = _RULES.get(site.name)
    return None if rule is None else rule(site)


@functools.cache
def _straight(rank: int) -> tuple[tuple[int, int], ...]:
    return tuple((k, k) for k in range(rank))


def itself(fact: Fact, rank: int) -> Member:
    """A value as a member of its own norm, before any axis is summed."""
    return Member(fact.number, frozenset(), _straight(rank))


def _square(site: Site) -> Found:
    if not jnp.issubdtype(site.dtype, jnp.floating):
        return None  # integers wrap, and the square of a complex number can be anything
    fact = site.facts[0]
    return Relation("square", frozenset({itself(fact, len(site.shape(0)))}))


def _power(site: Site) -> Found:
    if site.params["y"] == 2:
        return _square(site)
    related = site.facts[0].relation
    if site.params["y"] == -1 and related is not None and related.kind == "norm":
        return Relation("scale", related.members, related.amount.inverse())
    return None


def _mul(site: Site) -> Found:
    a, b = site.facts
    if a.number == b.number and site.shape(0) == site.shape(1):
        return _square(site)
    for one, other, index in ((a, b, 1), (b, a, 0)):
        related = one.relation
        factor = None if related is None else _factor(other)
        if related is None or factor is None or other.interval.low < 0:
            continue
        if site.shape(index) not in ((), site.out_shape):
            continue
        if related.kind in ("norm", "scale"):
            return related._replace(amount=related.amount.times(factor))
    return None


def _factor(fact: Fact) -> Amount | None:
    """The magnitude of a public number or server scalar."""
    interval = fact.interval
    if interval.low == interval.high and interval.finite:
        return Amount(abs(interval.low))
    return fact.amount


def _div(site: Site) -> Found:
    top, bottom = site.facts
    factor, related = _factor(top), bottom.relation
    if factor is not None and related is not None and related.kind == "norm":
        return Relation("scale", related.members, factor.over(related.amount))
    divisor, related = _factor(bottom), top.relation
    if divisor is None or divisor.factor <= 0 or related is None:
        return None
    if site.shape(1) not in ((), site.out_shape):
        return None
    # A negative divisor would destroy a lower bound of a norm.
    if related.kind == "scale" or (related.kind == "norm" and bottom.interval.low > 0):
        return related._replace(amount=related.amount.over(divisor))
    return None


def _sqrt(site: Site) -> Found:
    related = site.facts[0].relation
    if related is not None and related.kind == "square" and not related.amount.powers:
        return Relation("norm", related.members, Amount(related.amount.factor**0.5))
    return None


def _rsqrt(site: Site) -> Found:
    related = _sqrt(site)
    return None if related is None else Relation("scale", related.members, related.amount.inverse())


def _add(site: Site) -> Found:
    a, b = site.facts
    ra, rb = a.relation, b.relation
    if ra is not None and rb is not None and ra.kind == rb.kind == "square":  # noqa: SIM102
        if ra.amount == rb.amount and site.shape(0) == site.shape(1):
            return Relation("square", ra.members | rb.members, ra.amount)
    for related, other in ((ra, b), (rb, a)):
        if related is None or related.kind not in ("square", "norm"):
            continue
        if other.interval.low >= 0 and not other.interval.nan:
            return related
    return None


def _max(site: Site) -> Found:
    for one in site.facts:
        if one.relation is not None and one.relation.kind in ("square", "norm"):
            return one.relation
    return None


def _min(site: Site) -> Found:
    for one, other in (site.facts, site.facts[::-1]):
        if one.relation is not None and one.relation.kind == "scale" and other.interval.low >= 0:
            return one.relation
    return None


def _clamp(site: Site) -> Found:
    low, value, high = site.facts
    related = value.relation
    if related is None or high.interval.low < 0:
        return None
    # Raising a factor breaks an upper bound on it; lowering a norm breaks a lower bound.
    if related.kind == "scale" and low.interval.high <= max(value.interval.low, 0.0):
        return related if value.interval.low >= low.interval.high else None
    return None


def _reduce_sum(site: Site) -> Found:
    related = site.facts[0].relation
    if related is None or related.kind != "square":
        return None
    gone = set(site.params["axes"])
    if site.labels[0].client_axis in gone:
        return None
    left = [k for k in range(len(site.shape(0))) if k not in gone]
    renumbered = {old: new for new, old in enumerate(left)}
    members = set()
    for member in related.members:
        summed = member.summed | {mine for mine, here in member.kept if here in gone}
        kept = tuple((mine, renumbered[here]) for mine, here in member.kept if here not in gone)
        members.add(Member(member.value, frozenset(summed), kept))
    return Relation("square", frozenset(members), related.amount)


def _dot_general(site: Site) -> Found:
    a, b = site.facts
    (contract_l, contract_r), (batch_l, batch_r) = site.params["dimension_numbers"]
    same = a.number == b.number and tuple(contract_l) == tuple(contract_r)
    same = same and jnp.issubdtype(site.dtype, jnp.floating)
    rank = len(site.shape(0))
    if not same or tuple(batch_l) != tuple(batch_r) or len(contract_l) + len(batch_l) != rank:
        return None
    kept = tuple((axis, place) for place, axis in enumerate(batch_l))
    return Relation("square", frozenset({Member(a.number, frozenset(contract_l), kept)}))


def _moved(site: Site, place: Callable[[int], int | None]) -> Found:
    related = site.facts[0].relation
    if related is None:
        return None
    members = set()
    for member in related.members:
        kept = tuple((mine, place(here)) for mine, here in member.kept)
        if any(here is None for _, here in kept):
            return None
        members.add(Member(member.value, member.summed, kept))  # type: ignore[arg-type]
    return related._replace(members=frozenset(members))


def _broadcast_in_dim(site: Site) -> Found:
    targets = site.params["broadcast_dimensions"]
    shape, out = site.shape(0), site.out_shape
    return _moved(site, lambda k: targets[k] if shape[k] == out[targets[k]] else None)


def _reshape(site: Site) -> Found:
    before = [k for k, size in enumerate(site.shape(0)) if size != 1]
    after = [k for k, size in enumerate(site.out_shape) if size != 1]
    if [site.shape(0)[k] for k in before] != [site.out_shape[k] for k in after]:
        return None
    return _moved(site, lambda k: dict(zip(before, after)).get(k))


def _squeeze(site: Site) -> Found:
    gone = {d % len(site.shape(0)) for d in site.params["dimensions"]}
    left = [k for k in range(len(site.shape(0))) if k not in gone]
    return _moved(site, lambda k: left.index(k) if k in left else None)


def _same(site: Site) -> Found:
    return site.facts[0].relation


def _convert(site: Site) -> Found:
    related = site.facts[0].relation
    # Rounding to integers could break an inequality; floats keep it up to slack.
    return (
        related
        if getattr(site.dtype, "kind", "f") not in "iub" or related is None
        else (related if related.kind in FLAGS else None)
    )


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
    if left.relation is None or left.relation.kind not in ("norm", "square"):
        left, right = right, left
        name = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}[name]
    related, limit = left.relation, _factor(right)
    if related is None or related.kind not in ("norm", "square") or limit is None:
        return None
    if related.kind == "square":
        if limit.powers:
            return None
        limit, unit = Amount(limit.factor**0.5), Amount(related.amount.factor**0.5)
    else:
        unit = related.amount
    kind = "within" if name in ("lt", "le") else "outside"
    if kind == "outside" and left.interval.nan:
        kind = "outside unless NaN"
    return Relation(kind, related.members, limit.over(unit), site.number)


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


_RULES: dict[str, Callable[[Site], Found]] = {
    "square": _square,
    "integer_pow": _power,
    "mul": _mul,
    "div": _div,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "add": _add,
    "add_any": _add,
    "max": _max,
    "min": _min,
    "clamp": _clamp,
    "reduce_sum": _reduce_sum,
    "dot_general": _dot_general,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "copy": _same,
    "stop_gradient": _same,
    "convert_element_type": _convert,
    "is_finite": _is_finite,
    "ne": _not_equal,
    "lt": _compare,
    "le": _compare,
    "gt": _compare,
    "ge": _compare,
    "and": _and,
}


def covers(member: Member, number: int, shape: tuple[int, ...], related: tuple[int, ...]) -> bool:
    """Whether a related value, of shape `related`, lines up with the member of shape `shape`.

    Kept axes must be the same axes; along summed axes the related value must be replicated, which is
    so because a relation follows kept axes only.
    """
    if member.value != number:
        return False
    if len(related) not in (0, len(shape)):
        return False
    if not related:
        return not member.kept
    if any(mine >= len(shape) for mine, _ in member.kept):
        return False
    targets = {here for _, here in member.kept}
    aligned = all(mine == here and shape[mine] == related[here] for mine, here in member.kept)
    return aligned and not targets & member.summed


def derives_a_norm(site: Site) -> bool:
    """Whether a value other than the clipped one is multiplied by c over the norm.

    The derivative of a root has this form. At norm zero it is zero times infinity.
    """
    if site.name != "mul" or not site.outputs[0].on_clients:
        return False
    for one, other, index in ((*site.facts, 1), (*site.facts[::-1], 0)):
        related = one.relation
        if related is None or related.kind != "scale" or not one.interval.inf:
            continue
        shapes = (site.shape(index), site.shape(1 - index))
        if other.interval.low < other.interval.high and not any(
            covers(m, other.number, *shapes) for m in related.members
        ):
            return True
    return False


def scaled_norm(
    fact: Fact, factor: Fact, shape: tuple, related: tuple
) -> tuple[Norm, Member] | None:
    """The norm of `fact * factor` if the factor is at most c over a norm that contains the fact."""
    relation = factor.relation
    if relation is None or relation.kind != "scale":
        return None
    for number, unit in ((fact.number, Amount(1.0)), fact.multiple or (fact.number, Amount(1.0))):
        for member in relation.members:
            if covers(member, number, shape, related):
                return Norm(member.summed, relation.amount.times(unit)), member
    return None
