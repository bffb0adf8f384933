"""The maximum change of each sum by one client, and the reasons for a missing bound.

Sources: the rule pages FAD401 to FAD413.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp

from audits.bounds.domains.contributions import Operand
from audits.bounds.domains.stability import whole_norm
from audits.bounds.proving import Prover
from audits.bounds.rounding import slack_of
from audits.bounds.values.amounts import Amount, root_of_squares
from audits.bounds.values.facts import Fact
from audits.rules.findings import Finding, finding
from audits.rules.rules import Severity


@dataclasses.dataclass(frozen=True)
class SumBound:
    """The maximum change of one sum by one client.

    Attributes:
      event: Index in the schedule.
      amount: L2 bound; None if there is none.
      proof: The kind of proof.
      fact: The proved fact.
      slack: Factor by which rounding may exceed the bound.
    """

    event: int
    amount: Amount | None
    proof: str
    fact: Fact
    slack: float = 1.0


def bound_of(
    prover: Prover, operand: Operand, mode: str, clients: int | None, primal_bounded: bool
) -> tuple[SumBound, list[Finding]]:
    """The bound of one sum, if it exists, and the findings about it."""
    fact, event = operand.fact, operand.event
    label = f"{event} ({prover.checker.recorded[event].name})"
    counted = fact.replace(norms=fact.behind) if fact.mixed else fact
    amount = whole_norm(counted, operand.shape, operand.client_axis)
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
    slack = slack_of(fact.low)
    if fact.low:
        factor = f"{slack:.4f}"
        found.append(say("FAD408", bound=amount, factor=factor, dtype=fact.low))
    found += _integer_range(operand, amount, clients, say)
    proof = fact.proof or "bounded operation"
    return SumBound(event, amount, proof, fact, slack), found


def _why_unbounded(prover: Prover, fact: Fact, mode: str, primal_bounded: bool) -> str:
    if fact.blame:
        return fact.blame
    if fact.interval.nan and math.isfinite(max(abs(fact.interval.low), abs(fact.interval.high))):
        return "FAD407"  # a limit of all numbers, which NaN passes
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


def joint(prover: Prover, bounds: Sequence[SumBound]) -> object:
    """The L2 bound of one phase: a joint clip counts once, separate leaves add in squares."""
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
