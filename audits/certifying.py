"""`certify`: checks a computation or a private program and issues a certificate or findings.

Each mode is traced and checked separately. A private program is also compared with its mechanism:
every sum must have a joint clip of at most the mechanism's clip norm, and every release must have
exactly one such clip.

    computation --trace--> program --check--> certificate, bound to the program's digest

Sources: the claims T, D and M are stated in docs/privacy-model.md.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from audits.bounds.sum_bounds import SumBound
from audits.checking.checking import check_program
from audits.proofs.verification import stated_mode
from audits.refusals import refusal
from audits.reports.locations import portable
from audits.rules.assumptions import ASSUMPTIONS
from audits.rules.findings import Facts, Finding, Report, finding
from audits.rules.rules import Severity
from privacy.accounting.sizes import STATEMENT
from privacy.certificates.certificates import (
    Bound,
    Certificate,
    Message,
    Obligation,
    current_environment,
)
from privacy.certificates.cohort_ranges import SMALLEST, CohortRange
from privacy.mechanisms.privatization import PrivateProgram
from secfad import CLIENTS, SERVER, Computation, Program, jvp, trace, vjp
from secfad.errors import ArgumentError, ModeError, SecfadError
from secfad.inner import no_collection

RULE_SET = "2026.1"
MODES = ("primal", "forward", "reverse", "mixed")
KNOWN_MODES = (*MODES, "factored", "blockwise")


class CertificationError(Exception):
    """A program was not certified.

    Attributes:
      findings: The reasons, the most severe first.
      reports: One per checked mode.
    """

    def __init__(self, reports: Sequence[Report]):
        self.reports = tuple(reports)
        self.findings = tuple(
            f for r in reports for f in r.findings if f.severity == Severity.REJECT
        )
        lines = [f"{f.rule} {f.line}: {f.message}. {f.remedy}." for f in self.findings]
        super().__init__(
            "Expected a program that communicates by bounded sums and broadcasts only, got:\n"
            + "\n".join(lines)
        )


@no_collection()
def certify(
    subject: PrivateProgram | Program | Computation,
    *specs: Any,
    modes: Sequence[str] = ("primal",),
    argnums: int | Sequence[int] | None = None,
    public: Sequence[Any] = (),
) -> Certificate:
    """Proves a program and states the proved claims.

    Guarantees:
      The certificate is issued only if every mode passed the check; it holds for programs with
      exactly the stated digests.

    Args:
      subject: A private program, a traced program, or a computation with its specs.
      *specs: The shape of the value that the server or one client holds, for each argument of a
        computation.
      modes: Modes of a computation: `"primal"`, `"forward"`, `"reverse"`, `"factored"`, `"mixed"`,
        `"blockwise"`.
      argnums: Server arguments of the derivative modes; all floating-point ones by default.
      public: Captured constants that anybody may know: arrays, trees of them, or digests.

    Raises:
      CertificationError: With the findings of every mode that failed.
    """
    reports = check_modes(subject, *specs, modes=modes, argnums=argnums, public=public)
    if any(report.kind == "reject" for report, _ in reports.values()):
        raise CertificationError([report for report, _ in reports.values()])
    return issue(subject, reports)


def assert_certified(
    computation: Computation,
    *specs: Any,
    modes: Sequence[str] = ("forward", "reverse", "mixed"),
    argnums: int | Sequence[int] | None = None,
) -> Certificate:
    """Asserts in a test that the computation and its derivatives pass the check.

    Raises:
      CertificationError: With the findings.
    """
    return certify(computation, *specs, modes=("primal", *modes), argnums=argnums)


def check_modes(
    subject: PrivateProgram | Program | Computation,
    *specs: Any,
    modes: Sequence[str] = ("primal",),
    argnums: int | Sequence[int] | None = None,
    public: Sequence[Any] = (),
) -> dict[str, tuple[Report, Program | None]]:
    """Checks a subject in each mode; the program is None if the mode does not exist.

    Raises:
      ValueError: An unknown mode.
    """
    if isinstance(subject, PrivateProgram):
        report = check_program(subject.program, profile="secagg+dp", public=public)
        return {"primal": (_compared(report, subject), subject.program)}
    if isinstance(subject, Program):
        return {"primal": (check_program(subject, public=public), subject)}
    _require_computation(subject)
    unknown = {modes} if isinstance(modes, str) else set(modes) - set(KNOWN_MODES)
    if unknown:
        raise ValueError(
            f"Expected a tuple of modes among {KNOWN_MODES}, got {sorted(unknown)}. Write for example "
            'modes=("primal", "forward").'
        )
    chosen = _argnums(subject, specs, argnums)
    reports: dict[str, tuple[Report, Program | None]] = {}
    for mode in dict.fromkeys(modes):
        if mode == "primal" or chosen:
            reports[mode] = _checked(subject, specs, mode, chosen, public)
        if mode == "primal" and reports[mode][1] is None:
            # Its derivatives would repeat the same finding.
            return reports
    return reports


def programs_of(
    subject: PrivateProgram | Program | Computation,
    *specs: Any,
    modes: Sequence[str],
    argnums: int | Sequence[int] | None = None,
) -> dict[str, Program]:
    """The programs of a subject by mode, unchecked, as its certificates refer to them.

    Raises:
      SecfadError: A mode does not exist for the subject.
    """
    if isinstance(subject, PrivateProgram):
        return {"primal": subject.program}
    if isinstance(subject, Program):
        return {"primal": subject}
    chosen = _argnums(subject, specs, argnums)
    return {mode: _program(subject, specs, mode, chosen) for mode in modes}


def _require_computation(subject: Any) -> None:
    if not isinstance(subject, Computation):
        kind = "class" if isinstance(subject, type) else type(subject).__name__
        raise ArgumentError(
            f"Expected a computation, a program or a private program, got a {kind}. Decorate the "
            "function with @secfad.computation(argument=secfad.SERVER, ...)."
        )


def _argnums(
    computation: Computation, specs: Sequence[Any], argnums: int | Sequence[int] | None
) -> tuple[int, ...]:
    """Server arguments whose leaves are all floating point."""
    if argnums is not None:
        return (argnums,) if isinstance(argnums, int) else tuple(argnums)
    found = []
    for position, (placement, spec) in enumerate(zip(computation.placements.values(), specs)):
        leaves = jax.tree.leaves(spec)
        floating = all(jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating) for leaf in leaves)
        if placement is SERVER and leaves and floating:
            found.append(position)
    return tuple(found)


def _checked(
    computation: Computation,
    specs: Sequence[Any],
    mode: str,
    argnums: tuple[int, ...],
    public: Sequence[Any],
) -> tuple[Report, Program | None]:
    subject = {"name": computation.name, "style": "native", "mode": mode, "profile": "secagg"}
    try:
        program = _program(computation, specs, mode, argnums)
    except (SecfadError, TypeError, ValueError) as error:
        return Report.of([refusal(computation, mode, error)], Facts(), subject), None
    return check_program(program, mode=mode, public=public), program


def _program(
    computation: Computation, specs: Sequence[Any], mode: str, argnums: tuple[int, ...]
) -> Program:
    """The program of one mode: a directional derivative for forward, a pullback for reverse and
    mixed.
    """
    if mode == "primal":
        return trace(computation, *specs)
    if mode == "forward":
        return trace(jvp(computation, argnums), *specs, *(specs[i] for i in argnums))
    primal = trace(computation, *specs)
    avals = [v.aval for v in primal.jaxpr.jaxpr.outvars]
    if any(p is CLIENTS for p in primal.out_placements):
        raise ModeError(
            f"`{computation.name}` returns client values, which have no cotangent on the server. "
            "Certify the computation without them."
        )
    cotangent = jax.tree.unflatten(primal.out_tree, list(map(_cotangent, avals)))
    return trace(vjp(computation, argnums, mode=mode), *specs, cotangent)  # type: ignore[arg-type]


def _cotangent(aval: Any) -> jax.ShapeDtypeStruct:
    """The spec of the cotangent of a result; integers, flags and keys have none, so float0."""
    floating = jax.dtypes.issubdtype(aval.dtype, jax.numpy.inexact)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype if floating else jax.dtypes.float0)


def _compared(report: Report, private: PrivateProgram) -> Report:
    """Compares the proved bounds with the mechanism of a private program."""
    if report.kind == "reject":
        return report
    mechanism = private.mechanism
    findings = []
    stated = {e.index for e in report.facts.events}
    events = {e.index: e for e in (*report.facts.events, *report.facts.alternatives)}
    groups: dict[int, int] = {}
    for bound in report.facts.bounds:
        event = events[bound.event]
        norm = mechanism.clip_norm_of(event.name)
        number = None if bound.amount is None else bound.amount.number
        part = bound.fact.part
        if number is None or part is None or number > norm * (1 + 1e-9):
            findings.append(_too_large(event, bound, norm, mechanism.noise_multiplier))
            continue
        if bound.event in stated:
            groups[part.group] = event.count
    released = sum(groups.values())
    planned = sum(1 for r in private.releases for _ in (r.sums if not mechanism.joint else [r]))
    if not findings and released > planned:
        findings.append(
            finding("FAD403", joint=f"the root of {math.ceil(released / max(planned, 1))} clips")
        )
    findings += _repeated(report)
    return Report.of([*report.findings, *report.notes, *findings], report.facts, report.subject)


def _too_large(event, bound: SumBound, norm: float, multiplier: object) -> Finding:
    found = "no joint clip" if bound.fact.part is None else str(bound.amount)
    return finding(
        "FAD406",
        line=event.line,
        path=event.where,
        std=f"{multiplier} * {norm:.6g}",
        sensitivity=found,
        multiplier="too small",
        expected=multiplier,
    )


def _repeated(report: Report) -> list[Finding]:
    """A clipped value that is summed twice counts twice."""
    seen: set[tuple[int, int]] = set()
    for bound in report.facts.bounds:
        part = bound.fact.part
        if part is None:
            continue
        if (part.group, part.index) in seen:
            return [finding("FAD403", joint="more than one clip norm: a value is summed twice")]
        seen.add((part.group, part.index))
    return []


def issue(
    subject: PrivateProgram | Program | Computation,
    reports: dict[str, tuple[Report, Program | None]],
) -> Certificate:
    """Issues the certificate of checked modes, none of which was rejected."""
    private = isinstance(subject, PrivateProgram)
    programs = {mode: p for mode, (_, p) in reports.items() if p is not None}
    conditions = obligations([r for r, _ in reports.values()])
    notes = {f"{f.rule}: {f.message}" for r, _ in reports.values() for f in r.notes}
    facts = [r.facts for r, _ in reports.values()]
    return Certificate(
        subject=subject.name,
        digests={mode: p.digest for mode, p in programs.items()},
        profile="secagg+dp" if private else "secagg",
        environment=current_environment(),
        arguments=_arguments(programs[stated_mode(programs)]),
        schedule={mode: _schedule(r.facts) for mode, (r, _) in reports.items()},
        bounds={m: _bounds(r.facts) for m, (r, _) in reports.items()} if private else {},
        mechanism=subject.mechanism.record() if isinstance(subject, PrivateProgram) else {},
        purpose=subject.purpose if isinstance(subject, PrivateProgram) else "",
        clients={
            "residual_bytes": max(f.residual_bytes for f in facts),
            "readdress": any(f.readdress for f in facts),
            "stateful": any(f.stateful_clients for f in facts),
        },
        cohort=cohort_range(facts),
        obligations=conditions,
        notes=(f"rule set {RULE_SET}", *sorted(notes)),
        assumptions=(*ASSUMPTIONS, *_of_mechanism(subject)),
        evidence={mode: r.facts.evidence for mode, (r, _) in reports.items()},
    )


def obligations(reports: Iterable[Report]) -> tuple[Obligation, ...]:
    """The obligations of reports, each text once: a rule may have several."""
    said = {(item.rule, item.message) for report in reports for item in report.findings}
    return tuple(Obligation(rule, text) for rule, text in sorted(said))


def _arguments(program: Program) -> tuple[dict[str, Any], ...]:
    """Every argument leaf, as certificates state it."""
    return tuple(
        {
            "position": k,
            "shape": list(v.aval.shape),  # type: ignore[attr-defined]
            "dtype": str(v.aval.dtype),  # type: ignore[attr-defined]
            "placement": placement.value,
        }
        for k, (v, placement) in enumerate(zip(program.jaxpr.jaxpr.invars, program.in_placements))
    )


def _of_mechanism(subject: PrivateProgram | Program | Computation) -> tuple[str, ...]:
    """The requirements of a private program's mechanism on a run."""
    by_clients = isinstance(subject, PrivateProgram) and subject.mechanism.by_clients
    return (STATEMENT,) if by_clients else ()


def cohort_range(facts: Sequence[Facts]) -> CohortRange:
    """All numbers of clients for which integer sums do not wrap: the program has no axis of
    clients.
    """
    found = CohortRange(SMALLEST, None, "the program has no axis of clients")
    for fact in facts:
        sums = [e for e in (*fact.events, *fact.alternatives) if e.kind == "sum"]
        dtypes = {e.index: jax.numpy.dtype(e.dtype) for e in sums}
        for bound in fact.bounds:
            dtype = dtypes.get(bound.event)
            amount = None if bound.amount is None else bound.amount.number
            if dtype is not None and dtype.kind in "iu" and amount:
                limit = int(jax.numpy.iinfo(dtype).max // amount)
                found = found.up_to(limit, f"beyond that, sums of {dtype} can wrap")
    return found


def _schedule(facts: Facts) -> tuple[Message, ...]:
    return tuple(
        Message(e.kind, e.name, e.shape, e.dtype, e.bytes, e.depth, e.count, portable(e.line))
        for e in facts.events
    )


def _bounds(facts: Facts) -> tuple[Bound, ...]:
    names = {e.index: e.name for e in (*facts.events, *facts.alternatives)}
    made = []
    for bound in facts.bounds:
        amount, part = bound.amount, bound.fact.part
        norm = "unbounded" if amount is None else str(amount)
        if amount is not None and amount.number is not None:
            norm = amount.number
        group, unit = ("", 1.0) if part is None else (f"clip{part.group}", part.unit)
        made.append(Bound(names[bound.event], norm, bound.proof, group, unit, bound.slack))
    return tuple(made)
