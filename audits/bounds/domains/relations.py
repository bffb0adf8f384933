"""Relations: recognises a clip in the arithmetic that users write.

Intervals cannot bound v * min(1, c / |v|): they give |v| times c. The necessary fact is that the
factor is at most c over the norm of the same v. The prover follows the pieces separately: a square,
a sum of squares over axes, a root, a factor at most c over it, and the product with the same value.
Tests of a norm and of finiteness are in `flags`.

Every relation is one-sided, so it is preserved by adding a small constant, taking a maximum with a
constant, or capping the factor at one. The other operand of such a step must not be NaN. Squares
that underflow are the `gap` of a relation; a lower limit of the norm or a cap of the factor turns it
into a slightly larger bound.

Sources: the spellings are those of optax, of TensorFlow Federated and of common tutorials; Duet's
`mclip` is the same fact as a primitive.
"""

import math
from collections.abc import Callable

from audits.bounds.domains import flags
from audits.bounds.domains.flags import FLAGS, LOWER, Found, reduced_members
from audits.bounds.values.amounts import Amount
from audits.bounds.values.facts import Member, Relation, factor_of
from audits.bounds.values.members import itself
from audits.bounds.values.precision import (
    is_float,
    largest_number,
    low_precision,
    roundoff,
    step_near_zero,
    tiny,
)
from audits.bounds.values.steps import RESHAPING, Site, entries, moved_axes

# Their result is far above zero where their operand is.
_MOVES = RESHAPING | {"sqrt", "convert_element_type"}


def relation_of(site: Site) -> Found:
    """The relation of the result to the norms of other values."""
    rule = _RULES.get(site.name)
    found = None if rule is None else rule(site)
    if found is None or found.kind in FLAGS:
        return found
    if not is_float(site.dtype):
        return None
    stated = found.kind == "scale" or (site.name in _MOVES and found.origin >= 0)
    return found if stated else found._replace(origin=site.number)


def _square(site: Site) -> Found:
    if not is_float(site.dtype):
        return None  # integers wrap, and the square of a complex number can be anything
    member = itself(site.facts[0], len(site.shape(0)))
    return Relation("square", frozenset({member}), gap=math.sqrt(tiny(site.dtype)))


def _power(site: Site) -> Found:
    if site.params["y"] == 2:
        return _square(site)
    return _inverse(site, Amount(1.0)) if site.params["y"] == -1 else None


def _mul(site: Site) -> Found:
    a, b = site.facts
    if a.number == b.number and site.shape(0) == site.shape(1):
        return _square(site)
    for one, other, index in ((a, b, 1), (b, a, 0)):
        related = one.relation
        factor = None if related is None else factor_of(other)
        if related is None or factor is None or other.interval.low <= 0:
            continue
        if site.shape(index) not in ((), site.out_shape):
            continue
        if related.kind == "norm":
            return _times(related, factor, site)
        if related.kind == "scale":
            return _graded(related._replace(amount=related.amount.times(factor)), site)
    return None


def _times(related: Relation, factor: Amount, site: Site) -> Found:
    """A norm in another unit; a small unit can hide more."""
    if factor.least >= 1:
        return related._replace(amount=related.amount.times(factor))
    hidden = tiny(site.dtype) / (related.amount.times(factor).least)
    gap = math.hypot(related.gap, hidden)
    return related._replace(amount=related.amount.times(factor), gap=gap)


def _graded(related: Relation, site: Site) -> Relation:
    """A factor among the subnormal numbers of a 16-bit dtype may be rounded up."""
    step = step_near_zero(site.dtype)
    if step == 0:
        return related
    error = step * largest_number(site.dtype) / (2 * max(related.amount.least, 1e-300))
    return related._replace(amount=related.amount.scaled(1 + min(error, 1.0)))


def _inverse(site: Site, factor: Amount) -> Found:
    """A factor c / n. A lower limit e of n bounds what underflow hides: |v| c / n <= c + c gap / e."""
    bottom = site.facts[-1]
    related = bottom.relation
    if related is None or related.kind != "norm" or not factor.factor > 0:
        return None
    made = Relation("scale", related.members, factor.over(related.amount), gap=related.gap)
    made = _graded(made._replace(origin=related.origin), site)
    if bottom.interval.low > 0:
        ratio = related.amount.most * related.gap / bottom.interval.low
        limited = made.amount.stretched(ratio)
        if limited is not None:
            return made._replace(amount=limited, gap=0.0)
    return made


def _div(site: Site) -> Found:
    top, bottom = site.facts
    factor = factor_of(top)
    if factor is not None and bottom.relation is not None and bottom.relation.kind == "norm":
        return _inverse(site, factor)
    divisor, related = factor_of(bottom), top.relation
    if divisor is None or divisor.factor <= 0 or related is None:
        return None
    if site.shape(1) not in ((), site.out_shape):
        return None
    # A negative divisor would destroy a lower bound of a norm.
    if related.kind == "norm" and bottom.interval.low > 0:
        return _times(related, divisor.inverse(), site)
    if related.kind == "scale":
        return _graded(related._replace(amount=related.amount.over(divisor)), site)
    return None


def _sqrt(site: Site) -> Found:
    related = site.facts[0].relation
    if related is not None and related.kind == "square" and not related.amount.powers:
        return related._replace(kind="norm")
    return None


def _rsqrt(site: Site) -> Found:
    root = _sqrt(site)
    if root is None:
        return None
    low = math.sqrt(max(site.facts[0].interval.low, 0.0))
    made = Relation("scale", root.members, root.amount.inverse(), gap=root.gap, origin=root.origin)
    ratio = root.amount.most * root.gap / low if low > 0 else math.inf
    limited = made.amount.stretched(ratio)
    return made if limited is None else made._replace(amount=limited, gap=0.0)


def _add(site: Site) -> Found:
    a, b = site.facts
    ra, rb = a.relation, b.relation
    squares = ra is not None and rb is not None and ra.kind == rb.kind == "square"
    if squares and site.shape(0) == site.shape(1):
        return _added(ra, rb, site)  # type: ignore[arg-type]
    for related, other in ((ra, b), (rb, a)):
        if related is None or related.kind not in LOWER:
            continue
        if other.interval.low >= 0 and not other.interval.nan:
            return related
    return None


def _added(a: Relation, b: Relation, site: Site) -> Found:
    """The sum of squares of both; a short dtype loses some of it."""
    if a.amount.powers or b.amount.powers:
        return None
    least = min(a.amount.factor, b.amount.factor) * _kept(site, 1)
    return Relation("square", a.members | b.members, Amount(least), gap=math.hypot(a.gap, b.gap))


def _kept(site: Site, additions: int) -> float:
    """The part of a norm that its sum of squares keeps after some additions in its dtype."""
    if not low_precision(site.dtype):
        return 1.0
    return math.sqrt(max(1 - additions * roundoff(site.dtype), 0.0))


def _max(site: Site) -> Found:
    for one, other in (site.facts, site.facts[::-1]):
        if one.relation is not None and one.relation.kind in LOWER and not other.interval.nan:
            return one.relation
    return None


def _min(site: Site) -> Found:
    for one, other in (site.facts, site.facts[::-1]):
        limit = other.interval
        if one.relation is None or one.relation.kind != "scale" or limit.nan or limit.low < 0:
            continue
        return at_most(one.relation, limit.high)
    return None


def at_most(related: Relation, cap: float) -> Relation:
    """A factor that is at most a cap: what underflow hides stays below cap times the gap."""
    limited = related.amount.widened(related.gap and cap * related.gap)
    return related if limited is None else related._replace(amount=limited, gap=0.0)


def _clamp(site: Site) -> Found:
    low, value, high = site.facts
    related = value.relation
    if related is None or low.interval.nan or high.interval.nan or high.interval.low < 0:
        return None
    # Raising a factor breaks an upper bound on it; lowering a norm breaks a lower bound.
    if related.kind == "scale" and low.interval.high <= max(value.interval.low, 0.0):
        kept = value.interval.low >= low.interval.high
        return at_most(related, high.interval.high) if kept else None
    return None


def _reduce_sum(site: Site) -> Found:
    related = site.facts[0].relation
    if related is None or related.kind != "square" or related.amount.powers:
        return None
    members = reduced_members(site, related)
    count = entries(site.shape(0), set(site.params["axes"]))
    kept = _kept(site, count)
    if members is None or kept < 0.7:  # the sum may stop growing long before its end
        return None
    gap = related.gap * math.sqrt(count)
    return Relation("square", members, related.amount.scaled(kept), gap=gap)


def _dot_general(site: Site) -> Found:
    a, b = site.facts
    (contract_l, contract_r), (batch_l, batch_r) = site.params["dimension_numbers"]
    same = a.number == b.number and tuple(contract_l) == tuple(contract_r)
    rank = len(site.shape(0))
    if not (same and is_float(site.dtype) and is_float(site.operand_dtype(0))):
        return None
    if tuple(batch_l) != tuple(batch_r) or len(contract_l) + len(batch_l) != rank:
        return None
    count = entries(site.shape(0), set(contract_l))
    kept = _kept(site, count)
    if kept < 0.7:
        return None
    axes = tuple((axis, place) for place, axis in enumerate(batch_l))
    member = Member(a.number, frozenset(contract_l), axes)
    hidden = math.sqrt(count * max(tiny(site.dtype), tiny(site.operand_dtype(0))))
    return Relation("square", frozenset({member}), Amount(kept), gap=hidden)


def _moved(site: Site) -> Found:
    related, place = site.facts[0].relation, moved_axes(site)
    if related is None or not all(here in place for m in related.members for _, here in m.kept):
        return None
    members = [
        m._replace(kept=tuple((mine, place[here]) for mine, here in m.kept))
        for m in related.members
    ]
    return related._replace(members=frozenset(members))


def _same(site: Site) -> Found:
    return site.facts[0].relation


def _convert(site: Site) -> Found:
    """A short dtype hides more; only floats have relations."""
    related = site.facts[0].relation
    if related is None or related.kind in FLAGS:
        return related
    smallest = tiny(site.dtype)
    if smallest <= tiny(site.operand_dtype(0)):
        return related
    if related.kind == "scale":
        return related._replace(amount=related.amount.scaled(2.0))
    hidden = smallest if related.kind == "norm" else math.sqrt(smallest)
    least = related.amount.least
    return related._replace(gap=math.hypot(related.gap, hidden / least), origin=-1)


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
    "broadcast_in_dim": _moved,
    "reshape": _moved,
    "squeeze": _moved,
    "copy": _same,
    "stop_gradient": _same,
    "convert_element_type": _convert,
    **flags.RULES,
}
