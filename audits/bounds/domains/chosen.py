"""A factor that a comparison with the norm chooses: `where(n > c, c / n, 1)`.

Where the test says that the norm is above its limit, the quotient is limited; where it says that the
norm is within, the constant times the norm is. Both together are a factor over the norm, as the
minimum of both spellings would be.
"""

from audits.bounds.domains.clips import limit_of
from audits.bounds.domains.flags import Found
from audits.bounds.domains.relations import at_most
from audits.bounds.values.amounts import largest
from audits.bounds.values.facts import Fact, Interval, Relation, factor_of
from audits.bounds.values.precision import roundoff
from audits.bounds.values.steps import Site

# The case that is selected where the norm is above the limit.
_ABOVE = {"within": 0, "outside": 1, "outside unless NaN": 1}


def limited_factors(site: Site) -> list[Fact]:
    """The operands of a `where`; a quotient by a norm is limited where that is above a number."""
    test, *cases = site.facts
    related = test.relation
    if len(cases) != 2 or related is None or related.mixed or related.kind not in _ABOVE:
        return site.facts
    side = _ABOVE[related.kind]
    limited = _limited(cases[side], related, site)
    if limited is None:
        return site.facts
    cases[side] = limited
    return [test, *cases]


def _limited(fact: Fact, test: Relation, site: Site) -> Fact | None:
    """A quotient c / n where n is above t: at most c / t."""
    scale = fact.relation
    if scale is None or scale.kind != "scale" or scale.members != test.members:
        return None
    if not scale.origin == test.origin >= 0:
        return None
    reach = scale.amount.over(test.amount).number if test.amount.least > 0 else None
    if reach is None or scale.amount.powers:
        return None
    limit = reach * (1 + 4 * roundoff(site.dtype))
    i = fact.interval
    # Above the limit the norm is no NaN; `within` is false for NaN too.
    interval = Interval(max(i.low, -limit), min(i.high, limit), i.nan and test.kind == "within")
    return fact.replace(interval=interval, relation=at_most(scale, limit))


def chosen_factor(site: Site) -> Found:
    """The relation of a `where` between a factor over a norm and a number."""
    test, *cases = site.facts
    related = test.relation
    if len(cases) != 2 or related is None or related.mixed:
        return None
    if related.kind not in ("within", "outside") or site.shape(0) not in ((), site.out_shape):
        return None
    side = _ABOVE[related.kind]
    above, within = cases[side], cases[1 - side]
    scale, number, limit = above.relation, factor_of(within), limit_of(related)
    if scale is None or scale.kind != "scale" or scale.members != related.members:
        return None
    if number is None or within.interval.nan or limit is None:
        return None
    amount = largest(scale.amount, number.times(limit))
    return None if amount is None else scale._replace(amount=amount, origin=-1)
