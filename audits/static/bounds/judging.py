"""From what is proved to findings: bounds of sums, noise against sensitivity, keys, releases.

Where the caller declares nothing, the policy is stated here and nowhere else: noise with a multiplier
under `LEAST_MULTIPLIER` counts as a mistake of scale; leaves that are clipped separately must reach a
joint multiplier of `JOINT_MULTIPLIER` if each alone does; and a noised sum that is returned without
any normaliser needs a declared neighbouring relation, because nothing else shows which was meant.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from audits.static.bounds.amounts import Amount, root_of_squares
from audits.static.bounds.contributions import Operand
from audits.static.bounds.facts import Fact
from audits.static.bounds.proving import Prover
from audits.static.bounds.releases import NoiseSite
from audits.static.bounds.sets import NONE, events_of, united
from audits.static.bounds.stability import whole_norm
from audits.static.findings import Finding, finding
from audits.static.labels import Place
from audits.static.rules import Severity

LEAST_MULTIPLIER = 0.5
JOINT_MULTIPLIER = 1.0
OVERNOISE = 4.0
REPLACE_FACTOR = {"add_remove": 1.0, "replace_special": 1.0, "replace_one": 2.0}


@dataclasses.dataclass(frozen=True)
class SumBound:
    """How much one client can change one sum.

    Attributes:
      event: Index in the schedule.
      amount: L2 bound; None if there is none.
      proof: How it was proved.
      fact: What was proved.
      slack: Factor by which rounding may exceed it.
    """

    event: int
    amount: Amount | None
    proof: str
    fact: Fact
    slack: float = 1.0


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The outcome of the second walk."""

    findings: tuple[Finding, ...]
    bounds: tuple[SumBound, ...]
    joint: object
    multipliers: tuple[float, ...]


def judge(
    prover: Prover,
    outputs: Sequence[Fact],
    *,
    mode: str,
    clients: int | None,
    neighbouring: str | None,
    declared: Sequence[float] | None,
    primal_bounded: bool,
) -> Judgement:
    """Findings about every sum, noise and output of a walked program."""
    findings: list[Finding] = []
    bounds = []
    for operand in sorted(prover.records.operands.values(), key=lambda o: o.event):
        bound, found = _bound(prover, operand, mode, clients, primal_bounded)
        bounds.append(bound)
        findings += found
    findings += [finding("FAD409", line=line) for line in prover.records.undefined]
    by_event = {b.event: b for b in bounds}
    multipliers: list[float] = []
    if prover.records.noise:
        relation = neighbouring or "add_remove"
        found, multipliers = _noise(prover, by_event, relation, declared)
        findings += found
        findings += _exact(prover, outputs, by_event, clients, relation)
        findings += keys(prover, outputs)
        findings += _noised_twice(prover)
        if neighbouring is None:
            findings += _undeclared_relation(outputs)
        if declared is None and all(f.severity < Severity.REJECT for f in findings):
            findings += _split(prover, by_event, multipliers)
    return Judgement(tuple(findings), tuple(bounds), _joint(prover, bounds), tuple(multipliers))


def _bound(
    prover: Prover, operand: Operand, mode: str, clients: int | None, primal_bounded: bool
) -> tuple[SumBound, list[Finding]]:
    fact, event = operand.fact, operand.event
    label = f"{event} ({prover.checker.recorded[event].name})"
    amount = whole_norm(fact, operand.shape, operand.client_axis)
    say = lambda rule, severity=None, **fields: finding(
        rule, severity=severity, line=operand.line, sum=label, **fields
    )
    if amount is None:
        rule = _why_unbounded(prover, fact, mode, primal_bounded)
        return SumBound(event, None, "", fact), [say(rule, mode=mode)]
    found = []
    if any(prover.private.get(name) for name, _ in amount.powers):
        found.append(say("FAD410"))
    if not fact.interval.finite:
        found.append(say("FAD407", Severity.CAVEAT))
    # Four roundings in a row, of half a unit in the last place each.
    slack = 1 + 4 * 2.0 ** -(jnp.finfo(fact.low).nmant + 1) if fact.low else 1.0
    if fact.low:
        factor = f"{slack:.4f}"
        found.append(say("FAD408", bound=amount, factor=factor, dtype=fact.low))
    found += _integer_range(operand, amount, clients, say)
    proof = fact.proof or "bounded operation"
    return SumBound(event, amount, proof, fact, slack), found


def _why_unbounded(prover: Prover, fact: Fact, mode: str, primal_bounded: bool) -> str:
    if fact.blame:
        return fact.blame
    if mode != "primal" and primal_bounded:
        return "FAD307"
    return "FAD402" if prover.server_clips else "FAD401"


def _integer_range(operand: Operand, amount: Amount, clients: int | None, say) -> list[Finding]:
    dtype = jnp.dtype(operand.dtype)
    if dtype.kind not in "iu":
        return []
    count = clients or 1
    reach = amount.number
    if reach is None or reach * count > float(jnp.iinfo(dtype).max):
        return [say("FAD413", clients=count, dtype=dtype)]
    return []


def _joint(prover: Prover, bounds: Sequence[SumBound]) -> object:
    """The L2 bound of one phase: clipped together counts once, separate leaves add in squares."""
    phases: dict[int, list[SumBound]] = {}
    for bound in bounds:
        phases.setdefault(prover.checker.recorded[bound.event].depth, []).append(bound)
    found = [joint_amount(members) for members in phases.values()]
    if not found or any(a is None for a in found):
        return None
    numbers = [a.number for a in found if a is not None]
    if any(n is None for n in numbers):
        return ", ".join(str(a) for a in found)
    return max(n for n in numbers if n is not None)


def joint_amount(bounds: Sequence[SumBound]) -> Amount | None:
    """The joint L2 bound of several sums of one phase."""
    groups: dict[int, dict[int, list[SumBound]]] = {}
    alone: list[Amount | None] = []
    for bound in bounds:
        part = bound.fact.part
        if part is None:
            alone.append(bound.amount)
        else:
            groups.setdefault(part.group, {}).setdefault(part.index, []).append(bound)
    for members in groups.values():
        repeats = max(len(same) for same in members.values())
        parts = [same[0].fact.part for same in members.values()]
        unit = max(p.unit for p in parts if p is not None)
        limit = parts[0].bound if parts[0] is not None else None
        alone.append(None if limit is None else limit.scaled(unit * math.sqrt(repeats)))
    if any(a is None for a in alone):
        return None
    return root_of_squares([a for a in alone if a is not None])


def _noise(
    prover: Prover,
    bounds: dict[int, SumBound],
    relation: str,
    declared: Sequence[float] | None,
) -> tuple[list[Finding], list[float]]:
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
            if site.noise.place != Place.CLIENT:
                found.append(finding("FAD503", line=site.line))
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
            found.append(finding("FAD406", line=site.line, expected="comparable numbers", **fields))
            continue
        multipliers.append(multiplier)
        expected = wanted[min(position, len(wanted) - 1)] if wanted else None
        found += _mismatch(site, multiplier, sensitivity, expected, relation)
    return found, multipliers


def _private(prover: Prover, site: NoiseSite) -> list[int]:
    """Un-noised sums by which the noised value or its noise is scaled."""
    amounts = [site.noise.std, *(factor for _, factor in site.linear)]
    names = {name for amount in amounts for name, _ in amount.powers}
    behind = NONE
    for name in names:
        behind = united(behind, prover.private.get(name, NONE))
    return events_of(behind)


def _multiplier(site: NoiseSite, bounds, relation: str) -> tuple[float | None, object]:
    """Noise over sensitivity, at the value to which the noise is added."""
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


def _exact(
    prover: Prover,
    outputs: Sequence[Fact],
    bounds: dict[int, SumBound],
    clients: int | None,
    relation: str,
) -> list[Finding]:
    """With noise in the program, every sum that is used must be noised."""
    if any(site.at_client for site in prover.records.noise):
        return _by_clients(prover, bounds, clients, relation)
    divisors, exact = NONE, prover.records.shown
    for fact in outputs:
        divisors, exact = united(divisors, fact.divisors), united(exact, fact.raw)
    normalised = set(events_of(divisors))
    return [
        finding(
            "FAD405" if event in normalised else "FAD415",
            line=prover.checker.recorded[event].line,
            sum=event,
        )
        for event in events_of(exact)
    ]


def _by_clients(
    prover: Prover, bounds: dict[int, SumBound], clients: int | None, relation: str
) -> list[Finding]:
    """Each client adds its own noise: the deviations of all clients add in squares."""
    found = []
    for operand in prover.records.operands.values():
        noise, bound = operand.fact.mixed, bounds[operand.event].amount
        if noise is None:
            found.append(finding("FAD415", line=operand.line, sum=operand.event))
            continue
        if bound is None:
            continue
        total = noise.std.scaled(math.sqrt(clients or 1))
        ratio = total.over(bound.scaled(REPLACE_FACTOR[relation])).number
        if ratio is None or ratio < LEAST_MULTIPLIER:
            multiplier = "unknown" if ratio is None else f"{ratio:.4g}"
            fields: dict[str, Any] = {"std": total, "sensitivity": bound, "multiplier": multiplier}
            expected = f"at least {LEAST_MULTIPLIER}"
            found.append(finding("FAD406", line=operand.line, expected=expected, **fields))
    return found


def _noised_twice(prover: Prover) -> list[Finding]:
    """One sum with two independent noises is two releases, and averaging them halves the noise."""
    times: dict[int, int] = {}
    for site in prover.records.noise:
        for event, _ in site.linear:
            times[event] = times.get(event, 0) + 1
    most = max(times.values(), default=0)
    return [finding("FAD414", severity=Severity.CAVEAT, count=most)] if most > 1 else []


def _undeclared_relation(outputs: Sequence[Fact]) -> list[Finding]:
    if any(fact.direct for fact in outputs):
        return [finding("FAD412", found="add or remove one", expected="not declared")]
    return []


def _split(prover: Prover, bounds, multipliers: Sequence[float]) -> list[Finding]:
    """Several norm-clipped leaves of one phase, each with noise for itself alone."""
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


def keys(prover: Prover, outputs: Sequence[Fact]) -> list[Finding]:
    """Noise keys must be secret, fresh and used for nothing else."""
    found = []
    drawn = frozenset().union(*(f.draws for f in outputs)) | prover.records.shown_draws
    revealed = frozenset().union(*(f.reveals for f in outputs))
    noise_keys: dict[int, list[NoiseSite]] = {}
    for site in prover.records.noise:
        if not site.known:
            continue
        noise_keys.setdefault(site.noise.key, []).append(site)
    for key, sites in noise_keys.items():
        line = sites[-1].line
        place = sites[0].noise.place
        found.append(
            finding("FAD506", line=line, generator=prover.records.generators.get(key, "a key"))
        )
        if place == Place.PUBLIC:
            found.append(finding("FAD505", line=line))
        own = prover.records.lineages.get(key, frozenset({key}))
        if own & prover.records.sent and not sites[0].at_client:
            found.append(finding("FAD502", line=line))
        ancestors = prover.records.lineages.get(key, frozenset()) | {key}
        if not sites[0].at_client and (key in drawn or ancestors & revealed):
            found.append(finding("FAD504", line=line, other="a value that is released"))
        if len(sites) > 1:
            found.append(finding("FAD501", line=line, count=len(sites)))
        elif (times := _times_used(prover, key)) > 1:
            found.append(finding("FAD501", line=line, count=times))
    return found


def _times_used(prover: Prover, key: int) -> int:
    """How often a key is consumed, under whatever form."""
    mine = prover.records.identities.get(key, frozenset())
    same = [u for u in prover.records.uses if u.key == key or mine & u.identities]
    return sum(use.count if prover.reused(use) else 1 for use in same)
