"""Turns facts into findings: bounds of sums, noise scales, keys, releases."""

import dataclasses
from collections.abc import Sequence

from audits.bounds import noise_scales
from audits.bounds.noise_keys import key_findings
from audits.bounds.proving import Prover
from audits.bounds.sum_bounds import SumBound, bound_of, joint
from audits.bounds.values.facts import Fact
from audits.rules.findings import Finding, finding
from audits.rules.rules import Severity


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
    noised_when_run: bool = False,
) -> Judgement:
    """The findings about every sum, noise and output of a walked program.

    If the runtime adds noise to every sum, random draws inside the program are no protection and are
    not judged.
    """
    findings: list[Finding] = []
    bounds = []
    for operand in sorted(prover.records.operands.values(), key=lambda o: o.event):
        bound, found = bound_of(prover, operand, mode, clients, primal_bounded)
        bounds.append(bound)
        findings += found
    findings += _unseen_sums(prover)
    findings += [finding("FAD409", line=line) for line in prover.records.undefined]
    by_event = {b.event: b for b in bounds}
    multipliers: list[float] = []
    if prover.records.noise and not noised_when_run:
        prover.records.noise = noise_scales.counted(prover)
        relation = neighbouring or "add_remove"
        found, multipliers = noise_scales.scales(prover, by_event, relation, declared)
        findings += found
        findings += noise_scales.exact_sums(prover, outputs, by_event, clients, relation)
        findings += key_findings(prover, outputs)
        findings += noise_scales.noised_twice(prover)
        if neighbouring is None:
            findings += noise_scales.undeclared_relation(outputs)
        if declared is None and all(f.severity < Severity.REJECT for f in findings):
            findings += noise_scales.split_budgets(prover, by_event, multipliers)
    return Judgement(tuple(findings), tuple(bounds), joint(prover, bounds), tuple(multipliers))


def _unseen_sums(prover: Prover) -> list[Finding]:
    """The sums of the first walk that the second did not reach: they have no bound."""
    seen = prover.records.operands
    return [
        finding("FAD401", line=event.line, path=event.where, sum=f"{event.index} ({event.name})")
        for event in prover.checker.recorded.values()
        if event.kind == "sum" and event.index not in seen
    ]
