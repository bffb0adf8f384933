"""Compares noise with sensitivity: too little, too much, added twice, or missing.

This module states the policy for callers that declare nothing. Noise with a multiplier below
`LEAST_MULTIPLIER` counts as a scaling mistake. Leaves that are clipped separately must reach a
joint multiplier of `JOINT_MULTIPLIER` if each leaf alone does. A noised sum that is returned
without a normaliser needs a declared neighbouring relation, because nothing else shows which one
was meant.
"""

import math
from collections.abc import Sequence
from typing import Any

from audits.bounds.domains.contributions import COUNT, Operand
from audits.bounds.domains.releases import NoiseSite
from audits.bounds.proving import Prover
from audits.bounds.sum_bounds import SumBound, joint_amount
from audits.bounds.values.amounts import Amount
from audits.bounds.values.facts import Fact
from audits.bounds.values.sets import NONE, events_of, united
from audits.rules.findings import Finding, finding
from audits.rules.rules import Severity

LEAST_MULTIPLIER = 0.5
JOINT_MULTIPLIER = 1.0
OVERNOISE = 4.0
REPLACE_FACTOR = {"add_remove": 1.0, "replace_special": 1.0, "replace_one": 2.0}


def counted(prover: Prover) -> list[NoiseSite]:
    """The places where noise protects a sum: at the server, and last at a client.

    A client's other draws, as those that augment its data, protect nothing. They count if the same
    draw is added last elsewhere.
    """
    last = {o.fact.mixed.draw for o in prover.records.operands.values() if o.fact.mixed}
    return [s for s in prover.records.noise if not s.at_client or s.noise.draw in last]


def scales(
    prover: Prover,
    bounds: dict[int, SumBound],
    relation: str,
    declared: Sequence[float] | None,
) -> tuple[list[Finding], list[float]]:
    """Compares noise with sensitivity wherever noise is added, and returns the multipliers."""
    found, multipliers = [], []
    wanted = list(declared or ())
    for position, site in enumerate(prover.records.noise):
        if not site.known:
            fields: dict[str, Any] = {
                "std": "unknown",
                "sensitivity": "the sum",
                "multiplier": "unknown",
            }
            expected = "independent normal draws of the shape of the sum"
            found.append(finding("FAD406", line=site.line, expected=expected, **fields))
            multipliers.append(math.nan)
            continue
        if site.at_client:
            multipliers.append(math.nan)
            continue
        behind = _private(prover, site)
        if behind:
            found.append(finding("FAD411", line=site.line, sum=behind[0]))
            multipliers.append(math.nan)
            continue
        multiplier, sensitivity = _multiplier(site, bounds, relation)
        if multiplier is None:
            fields = {"std": site.noise.std, "sensitivity": sensitivity, "multiplier": "unknown"}
            counts = COUNT in str(sensitivity)
            expected = (
                "noise that is divided by the same number" if counts else "comparable numbers"
            )
            found.append(finding("FAD406", line=site.line, expected=expected, **fields))
            continue
        multipliers.append(multiplier)
        expected = wanted[min(position, len(wanted) - 1)] if wanted else None
        found += _mismatch(site, multiplier, sensitivity, expected, relation)
    return found, multipliers


def _private(prover: Prover, site: NoiseSite) -> list[int]:
    """Sums without noise that scale the noised value or its noise."""
    amounts = [site.noise.std, *(factor for _, factor in site.linear)]
    names = {name for amount in amounts for name, _ in amount.powers}
    behind = NONE
    for name in names:
        behind = united(behind, prover.private.get(name, NONE))
    return events_of(behind)


def _multiplier(site: NoiseSite, bounds, relation: str) -> tuple[float | None, object]:
    """The noise divided by the sensitivity of the value to which it is added."""
    total: Amount | None = None
    for event, factor in site.linear:
        bound = bounds.get(event)
        if bound is None or bound.amount is None:
            return None, "unbounded"
        part = bound.amount.times(factor).scaled(REPLACE_FACTOR[relation] * bound.slack)
        total = part if total is None else total.plus(part)
        if total is None:
            return None, "not comparable"
    if total is None:
        return None, "unknown"
    if total.factor == 0:
        return math.inf, total
    ratio = site.noise.std.over(total)
    return ratio.number, total


def _mismatch(
    site: NoiseSite, multiplier: float, sensitivity: object, expected: float | None, relation: str
) -> list[Finding]:
    fields = {
        "std": site.noise.std,
        "sensitivity": sensitivity,
        "multiplier": f"{multiplier:.4g}",
    }
    least = LEAST_MULTIPLIER if expected is None else expected * (1 - 1e-5)
    most = OVERNOISE if expected is None else expected * 2
    if multiplier < least:
        if relation == "replace_one" and multiplier * 2 >= least:
            return [
                finding("FAD412", severity=Severity.REJECT, line=site.line, found="add or remove one",
                        expected="replace one")
            ]  # fmt: skip
        return [finding("FAD406", line=site.line, expected=f"at least {least:.4g}", **fields)]
    if multiplier > most:
        text = f"at most {most:.4g}"
        return [
            finding("FAD406", severity=Severity.CAVEAT, line=site.line, expected=text, **fields)
        ]
    return []


def exact_sums(
    prover: Prover,
    outputs: Sequence[Fact],
    bounds: dict[int, SumBound],
    clients: int | None,
    relation: str,
) -> list[Finding]:
    """If the program adds noise, every used sum must have noise, the server's or the clients'."""
    divisors, exact = NONE, prover.records.shown
    for fact in outputs:
        divisors, exact = united(divisors, fact.divisors), united(exact, fact.raw)
    normalised = set(events_of(divisors))
    found = []
    for event in events_of(exact):
        operand = prover.records.operands.get(event)
        if operand is not None and operand.fact.mixed is not None:
            found += _by_clients(operand, bounds[event].amount, clients, relation)
            continue
        rule = "FAD405" if event in normalised else "FAD415"
        line = prover.checker.recorded[event].line
        found.append(finding(rule, line=line, sum=event))
    return found


def _by_clients(
    operand: Operand, bound: Amount | None, clients: int | None, relation: str
) -> list[Finding]:
    """Each client adds its own noise: the deviations of all clients add in squares."""
    noise = operand.fact.mixed
    if noise is None or bound is None:
        return []
    total = noise.std.scaled(math.sqrt(clients or 1))
    ratio = total.over(bound.scaled(REPLACE_FACTOR[relation])).number
    if ratio is not None and ratio >= LEAST_MULTIPLIER:
        return []
    multiplier = "unknown" if ratio is None else f"{ratio:.4g}"
    fields: dict[str, Any] = {"std": total, "sensitivity": bound, "multiplier": multiplier}
    expected = f"at least {LEAST_MULTIPLIER}"
    return [finding("FAD406", line=operand.line, expected=expected, **fields)]


def noised_twice(prover: Prover) -> list[Finding]:
    """One sum with two independent noises is two releases, and averaging them halves the noise."""
    times: dict[int, int] = {}
    for site in prover.records.noise:
        for event, _ in site.linear:
            times[event] = times.get(event, 0) + 1
    most = max(times.values(), default=0)
    return [finding("FAD414", severity=Severity.CAVEAT, count=most)] if most > 1 else []


def undeclared_relation(outputs: Sequence[Fact]) -> list[Finding]:
    """A noised sum is returned unchanged without a declared neighbouring relation."""
    if any(fact.direct for fact in outputs):
        return [finding("FAD412", found="add or remove one", expected="not declared")]
    return []


def split_budgets(prover: Prover, bounds, multipliers: Sequence[float]) -> list[Finding]:
    """Several norm-clipped leaves of one phase, each with noise scaled only for itself."""
    phases: dict[int, list[tuple[float, SumBound, NoiseSite]]] = {}
    for site, multiplier in zip(prover.records.noise, multipliers):
        for event, _ in site.linear:
            bound = bounds[event]
            clipped = bound.fact.proof in ("recognised clip", "clip") and bound.fact.norms
            if clipped and bound.fact.part is None:
                depth = prover.checker.recorded[event].depth
                phases.setdefault(depth, []).append((multiplier, bound, site))
    for entries in phases.values():
        if len(entries) < 2 or any(m < JOINT_MULTIPLIER for m, _, _ in entries):
            continue
        joint = 1 / math.sqrt(sum(1 / m**2 for m, _, _ in entries))
        if joint < JOINT_MULTIPLIER:
            together = joint_amount([b for _, b, _ in entries])
            return [finding("FAD403", line=entries[-1][2].line, joint=together)]
    return []
