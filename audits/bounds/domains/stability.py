"""Norms: the effect of each primitive on an L2 bound of one client's value.

A bound belongs to a group of axes and holds for every index of the others. A clip per example
therefore gives, after the local sum over examples, the number of examples times the clip norm.
"""

import math
from collections.abc import Callable

from audits.bounds.domains.clips import divided_norm, guarded_norm, limit_of, scaled_norm
from audits.bounds.values.amounts import Amount, largest, root_of_squares
from audits.bounds.values.facts import Fact, Interval, Norm, factor_of
from audits.bounds.values.members import covers
from audits.bounds.values.precision import (
    is_complex,
    is_float,
    is_unsigned,
    is_whole,
    low_precision,
    roundoff,
    step_near_zero,
)
from audits.bounds.values.steps import Site, entries, moved_axes

Norms = tuple[Norm, ...]


def norms_of(site: Site) -> Norms:
    """L2 bounds of the result that follow from those of the operands."""
    rule = _RULES.get(site.name)
    if rule is None or not _followed(site):
        return ()
    made = rule(site)
    # A test of the divisor is one of these entries only while all stay where they are.
    return made if site.name in _IN_PLACE else tuple(n for n in made if n.divisor is None)


_IN_PLACE = frozenset(
    {"neg", "abs", "copy", "stop_gradient", "tanh", "sin", "mul", "div", "select_n"}
    | {"convert_element_type"}
)


def _followed(site: Site) -> bool:
    """Whether the dtype of the result can represent what the bounds are about."""
    if is_unsigned(site.dtype) and site.name in ("neg", "sub"):
        return False  # small negative numbers become large ones
    return is_float(site.dtype) or is_complex(site.dtype) or is_whole(site.dtype)


def _rounded(site: Site, norms: Norms) -> Norms:
    """The roundings of one operation in a short dtype, and the steps of its subnormal numbers."""
    if not norms or not low_precision(site.dtype):
        return norms
    count = 1
    if site.name == "reduce_sum":
        count = entries(site.shape(0), set(site.params["axes"]))
    loss = count * roundoff(site.dtype)
    if loss > 0.5:
        return ()
    found = []
    for norm in norms:
        steps = step_near_zero(site.dtype) * math.sqrt(entries(site.out_shape, norm.axes))
        amount = norm.amount.scaled(1 + loss).widened(steps)
        if amount is not None:
            found.append(norm._replace(amount=amount))
    return tuple(found)


def whole_norm(fact: Fact, shape: tuple[int, ...], client_axis: int | None) -> Amount | None:
    """The best bound of one client's whole value."""
    own = frozenset(range(len(shape))) - {client_axis}
    found: list[Amount] = []
    for norm in stated(fact):
        rest = own - norm.axes
        found.append(norm.amount.scaled(math.sqrt(entries(shape, rest))))
    reach = fact.interval.magnitude
    if math.isfinite(reach):
        found.append(Amount(reach * math.sqrt(entries(shape, own))))
    best: Amount | None = None
    for amount in found:
        if not math.isfinite(amount.factor):
            continue
        if best is None or amount.at_most(best) or (best.powers and not amount.powers):
            best = amount
    return best


def stated(fact: Fact) -> Norms:
    """The bounds that hold without a guard."""
    return tuple(norm for norm in fact.norms if norm.divisor is None)


def _same(site: Site) -> Norms:
    return site.facts[0].norms if site.shape(0) == site.out_shape else ()


def _on(fact: Fact, shape: tuple[int, ...], axes: frozenset[int]) -> Amount | None:
    """A bound over exactly these axes, from a finer one or from the interval."""
    best: Amount | None = None
    for norm in stated(fact):
        if norm.axes <= axes:
            amount = norm.amount.scaled(math.sqrt(entries(shape, axes - norm.axes)))
            if best is None or amount.at_most(best):
                best = amount
    reach = fact.interval.magnitude
    if best is None and math.isfinite(reach):
        best = Amount(reach * math.sqrt(entries(shape, axes)))
    return best


def _triangle(site: Site) -> Norms:
    groups = {n.axes for f in site.facts for n in stated(f)}
    found = []
    for axes in groups:
        parts = [
            _on(f, site.out_shape, axes)
            if site.shape(i) == site.out_shape
            else _stretched(site, i, axes)
            for i, f in enumerate(site.facts)
        ]
        if None not in parts:
            total = parts[0].plus(parts[1])  # type: ignore[union-attr,arg-type]
            if total is not None:
                found.append(Norm(axes, total))
    return _rounded(site, tuple(found))


def _stretched(site: Site, index: int, axes: frozenset[int]) -> Amount | None:
    reach = site.facts[index].interval.magnitude
    if not math.isfinite(reach):
        return None
    return Amount(reach * math.sqrt(entries(site.out_shape, axes)))


def _mul(site: Site) -> Norms:
    found = list(_scaled_product(site))
    for index, other in ((0, 1), (1, 0)):
        if site.shape(index) != site.out_shape:
            continue
        factor = factor_of(site.facts[other]) if site.shape(other) == () else None
        reach = site.facts[other].interval.magnitude
        if factor is None or not factor.powers:
            factor = Amount(reach) if math.isfinite(reach) else site.facts[other].amount
        if factor is not None:
            scaled = [n._replace(amount=n.amount.times(factor)) for n in site.facts[index].norms]
            found += _rounded(site, tuple(scaled))
    return tuple(found)


def _scaled_product(site: Site) -> Norms:
    """V * s with s at most c over the norm of v."""
    for index, other in ((0, 1), (1, 0)):
        if site.shape(index) == site.out_shape:
            value, factor = site.facts[index], site.facts[other]
            made = scaled_norm(value, factor, site.shape(index), site.shape(other))
            if made is not None:
                return (made,)
    return ()


def _div(site: Site) -> Norms:
    top, bottom = site.facts
    if site.shape(0) != site.out_shape:
        return ()
    made = divided_norm(top, bottom, site.shape(0), site.shape(1))
    if made is not None:
        return (made,)
    low, high = bottom.interval.low, bottom.interval.high
    if low > 0 or high < 0:
        divisor = Amount(min(abs(low), abs(high)))
    elif bottom.amount is not None and bottom.amount.factor > 0:
        divisor = bottom.amount
    else:
        return ()
    quotients = tuple(n._replace(amount=n.amount.over(divisor)) for n in top.norms)
    return _rounded(site, quotients)


def guarded_cases(site: Site) -> list[Fact]:
    """The operands of a `where`, with the bounds of quotients that its test keeps from zero."""
    test, *cases = site.facts
    related = test.relation
    if len(cases) != 2:
        return site.facts
    found = [test]
    for side, fact in enumerate(cases):
        for norm in fact.norms:
            held = None if related is None else guarded_norm(norm, related, bool(side))
            fact = _held(fact, norm, held)
        found.append(fact)
    return found


def _held(fact: Fact, norm: Norm, held: Norm | None) -> Fact:
    """Replaces one bound; a finite value divided by a norm above a limit is finite."""
    if norm.divisor is None:
        return fact
    others = tuple(n for n in fact.norms if n != norm)
    if held is None:
        return fact.replace(norms=others)
    if norm.divisor.finite:
        reach = held.amount.number
        limit = math.inf if reach is None else reach
        fact = fact.replace(interval=Interval(-limit, limit))
    return fact.replace(norms=(*others, held))


def _select(site: Site) -> Norms:
    """The bounds that hold for every case; a zero case does not count."""
    test, cases = site.facts[0], site.facts[1:]
    compared = _chosen_by_norm(site)
    if compared:
        return compared
    live = [(i, f) for i, f in enumerate(cases, start=1) if not f.interval.is_zero]
    if len(live) == 1:
        index, fact = live[0]
        return fact.norms if site.shape(index) == site.out_shape else ()
    groups = (
        frozenset.intersection(*(frozenset(n.axes for n in stated(f)) for _, f in live))
        if live
        else ()
    )
    found = []
    for axes in groups:
        parts = [_on(f, site.out_shape, axes) for _, f in live]
        amount = parts[0]
        uniform = site.shape(0) != site.out_shape or _uniform_over(test, axes)
        for part in parts[1:]:
            if amount is None or part is None:
                amount = None
            else:
                amount = largest(amount, part) if uniform else root_of_squares([amount, part])
        if amount is not None:
            found.append(Norm(axes, amount))
    return tuple(found)


def _uniform_over(test: Fact, axes: frozenset[int]) -> bool:
    related = test.relation
    if related is None or related.mixed:
        return False
    return all(here not in axes for m in related.members for _, here in m.kept)


def _chosen_by_norm(site: Site) -> Norms:
    """`where(n <= c, v, w)` with w bounded: v is selected only if its own norm is at most c."""
    related = site.facts[0].relation
    if related is None or len(site.facts) != 3 or related.kind not in ("within", "outside"):
        return ()
    free, bounded = (2, 1) if related.kind == "within" else (1, 2)
    fact, other = site.facts[free], site.facts[bounded]
    member = next(
        (m for m in related.members if covers(m, fact.number, site.shape(free), site.shape(0))),
        None,
    )
    if member is None:
        return ()
    theirs, own = _on(other, site.out_shape, member.summed), limit_of(related)
    if theirs is None or own is None:
        return ()
    amount = root_of_squares([theirs, own]) if related.mixed else largest(theirs, own)
    return () if amount is None else (Norm(member.summed, amount),)


def _moved(site: Site) -> Norms:
    """Axes of length one may disappear; a stretched axis repeats entries."""
    place = moved_axes(site)
    if site.name == "broadcast_in_dim" and len(place) < len(site.shape(0)):
        return ()
    return tuple(
        n._replace(axes=frozenset(place[k] for k in n.axes if k in place))
        for n in site.facts[0].norms
    )


def _reshape(site: Site) -> Norms:
    """The norm of a client's whole value does not depend on its shape."""
    amount = None
    for norm in stated(site.facts[0]):
        rest = site.own_axes(0) - norm.axes
        whole = norm.amount.scaled(math.sqrt(entries(site.shape(0), rest)))
        if amount is None or whole.at_most(amount):
            amount = whole
    return () if amount is None else (Norm(site.own_axes(), amount),)


def _reduce_sum(site: Site) -> Norms:
    """A sum over m entries multiplies an L2 norm over them by sqrt(m), and any other norm by m."""
    gone = set(site.params["axes"])
    if site.labels[0].client_axis in gone:
        return ()
    place, found = moved_axes(site), []
    for norm in stated(site.facts[0]):
        inside, outside = gone & norm.axes, gone - norm.axes
        growth = math.sqrt(entries(site.shape(0), inside)) * entries(site.shape(0), outside)
        axes = frozenset(place[k] for k in norm.axes if k in place)
        found.append(Norm(axes, norm.amount.scaled(growth)))
    return _rounded(site, tuple(found))


def _round(site: Site) -> Norms:
    """Rounding changes every entry by at most one half; floor and ceil by at most one."""
    move = 0.5 if site.name == "round" else 1.0
    found = []
    for norm in stated(site.facts[0]):
        extra = Amount(move * math.sqrt(entries(site.out_shape, norm.axes)))
        total = norm.amount.plus(extra)
        if total is not None:
            found.append(Norm(norm.axes, total))
    return tuple(found)


def _joined(site: Site) -> Norms:
    """Pieces of one value, each bounded: the root of the sum of squares."""
    parts = []
    for index, fact in enumerate(site.facts):
        amount = whole_norm(fact, site.shape(index), site.labels[index].client_axis)
        if amount is None:
            return ()
        parts.append(amount)
    total = root_of_squares(parts)
    return () if total is None else (Norm(site.own_axes(), total),)


def _pad(site: Site) -> Norms:
    if not site.facts[1].interval.is_zero:
        return ()
    if any(low < 0 or high < 0 for low, high, _ in site.params["padding_config"]):
        return ()
    return site.facts[0].norms


def _contracting(site: Site) -> Norms:
    """Functions with |f(x)| <= |x| for real x; infinities, which no norm counts, become finite."""
    real = is_float(site.dtype) and not site.facts[0].interval.inf
    return _same(site) if real else ()


def _convert(site: Site) -> Norms:
    interval = site.facts[0].interval
    if is_whole(site.dtype) and not interval.finite:
        return ()
    if is_unsigned(site.dtype) and interval.low < 0:
        return ()  # negative numbers wrap to large ones
    return _rounded(site, _same(site)) if _narrower(site) else _same(site)


def _narrower(site: Site) -> bool:
    """Whether a conversion rounds."""
    before = site.operand_dtype(0)
    if not is_float(site.dtype):
        return False
    return not is_float(before) or roundoff(site.dtype) > roundoff(before)


_RULES: dict[str, Callable[[Site], Norms]] = {
    **dict.fromkeys(("neg", "abs", "copy", "stop_gradient", "rev"), _same),
    **dict.fromkeys(("tanh", "sin"), _contracting),
    "slice": lambda site: site.facts[0].norms,
    "split": lambda site: site.facts[0].norms,
    "add": _triangle,
    "add_any": _triangle,
    "sub": _triangle,
    "mul": _mul,
    "div": _div,
    "select_n": _select,
    **dict.fromkeys(("transpose", "broadcast_in_dim", "squeeze"), _moved),
    "reshape": _reshape,
    "reduce_sum": _reduce_sum,
    "round": _round,
    "floor": _round,
    "ceil": _round,
    "concatenate": _joined,
    "stack": _joined,
    "pad": _pad,
    "convert_element_type": _convert,
}
