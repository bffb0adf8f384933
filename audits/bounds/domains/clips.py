"""Clips by hand: the bound of a value times c over its norm, or divided by its norm.

The factor applies to the value whose norm it was computed from, or to a multiple of it. What
underflow hides of the norm is added: root(amount^2 + (factor * gap)^2). A quotient by a norm without
a lower limit has a bound only where a guard says that the norm is large.
"""

from audits.bounds.values.amounts import Amount
from audits.bounds.values.facts import Divisor, Fact, Member, Norm, Relation
from audits.bounds.values.members import covers
from audits.bounds.values.steps import Site


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


def scaled_norm(fact: Fact, factor: Fact, shape: tuple, related: tuple) -> Norm | None:
    """The norm of `fact * factor` if the factor is at most c over a norm that contains the fact."""
    relation = factor.relation
    if relation is None or relation.kind != "scale":
        return None
    found = member_of(relation, fact, shape, related)
    if found is None:
        return None
    member, unit = found
    limited = relation.amount.widened(relation.gap and factor.interval.reach * relation.gap)
    if limited is not None:
        return Norm(member.summed, limited.times(unit))
    divisor = Divisor(relation.origin, relation.gap, _finite(fact, factor))
    return Norm(member.summed, relation.amount.times(unit), divisor)


def divided_norm(fact: Fact, bottom: Fact, shape: tuple, related: tuple) -> Norm | None:
    """The norm of `fact / bottom` if the divisor is at least a norm that contains the fact."""
    relation = bottom.relation
    if relation is None or relation.kind != "norm" or not relation.amount.factor > 0:
        return None
    found = member_of(relation, fact, shape, related)
    if found is None:
        return None
    member, unit = found
    amount, low = unit.over(relation.amount), bottom.interval.low
    if low > 0:
        limited = amount.stretched(relation.amount.most * relation.gap / low)
        if limited is not None:
            return Norm(member.summed, limited)
    divisor = Divisor(relation.origin, relation.gap, _finite(fact, bottom))
    return Norm(member.summed, amount, divisor)


def _finite(fact: Fact, other: Fact) -> bool:
    """Whether a quotient or product with a norm can only be infinite because that is small."""
    return fact.interval.finite and not other.interval.nan


def member_of(
    relation: Relation, fact: Fact, shape: tuple, related: tuple
) -> tuple[Member, Amount] | None:
    """The member that is the value, or that it is a multiple of, with the factor."""
    for number, unit in ((fact.number, Amount(1.0)), fact.multiple or (fact.number, Amount(1.0))):
        for member in relation.members:
            if covers(member, number, shape, related):
                return member, unit
    return None


def guarded_norm(norm: Norm, test: Relation, side: bool) -> Norm | None:
    """The norm of a quotient where a flag is on one side: true only above a limit, or false there."""
    if norm.divisor is None:
        return norm
    above = test.kind == "within" if not side else test.kind.startswith("outside")
    if not above or test.mixed or test.origin < 0 or test.origin != norm.divisor.origin:
        return None
    if not _in_place(test):
        return None
    # The test has an origin, so its limit is positive.
    limited = norm.amount.stretched(norm.divisor.gap / test.amount.least)
    return None if limited is None else Norm(norm.axes, limited)


def _in_place(test: Relation) -> bool:
    """Whether a test of rows is at the rows that it tests, as a quotient by their norms is."""
    return all(mine == here for member in test.members for mine, here in member.kept)


def limit_of(related: Relation) -> Amount | None:
    """The largest norm for which a flag is within."""
    return related.amount.widened(related.gap)
