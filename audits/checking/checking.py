"""`check`: runs the front end, the walk and the proofs, and returns the report.

    trace one mode -> remove dead code -> walk with labels -> judge outputs -> state the facts

The claim behind an acceptance (transcript-determinism): every value that the server holds or emits
is a function of server inputs and of the listed sums, and every value that a client receives is a
listed broadcast. Under profile `secagg+dp` also: each client's contribution to each sum is bounded.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from audits.bounds.judging import judge
from audits.bounds.proving import Prover
from audits.checking.arguments import Leaves, digests_of
from audits.checking.contacts import scheduled
from audits.checking.declarations import Declared, sensitivity_findings, with_outputs
from audits.checking.evidence import evidence_of
from audits.checking.frontends import PLACEMENTS, Arg, Traced, trace_mode
from audits.checking.outputs import judge_outputs
from audits.checking.provenance import with_origins
from audits.rules.findings import Facts, Finding, Report, finding
from audits.rules.lines import definition_line, raising_line
from audits.rules.native_hints import hint
from audits.rules.rules import Severity
from audits.transfer.interpreter import Checker
from audits.transfer.labels import Label, Place
from audits.transfer.styles import STYLES, Style
from audits.transfer.transfer import TRANSFER
from secfad import CLIENTS, SERVER, Program
from secfad.errors import SecfadError
from secfad.inner import costs, label, normalise, place, schedule

PROFILES = ("secagg", "secagg+dp")
MINIMUM_CLIENTS = 2
MODE_NAMES = {"forward": "jvp", "reverse": "vjp"}


def check(
    fn: Callable,
    args: Sequence[Any],
    *,
    style: str = "native",
    mode: str = "primal",
    wrt: Sequence[int | str] = (),
    profile: str = "secagg",
    public: Sequence[Any] = (),
    neighbouring: str | None = None,
    noise_multipliers: Sequence[float] | None = None,
    outputs: Sequence[str] | None = None,
    sensitivity: Sequence[float] | None = None,
) -> Report:
    """Checks one mode of a program.

    Guarantees:
      The result is `"accept"` or `"caveat"` only if every equation of the traced mode follows a
      rule that preserves the claim of this module. Everything unknown is `"reject"`.

    Args:
      fn: A function or a `secfad` Computation.
      args: Its arguments with their placements: an `Arg` each, or a tree of them (`Arg.tree`).
      style: `"native"`, `"stacked"`, `"drjax"` or `"spmd"`.
      mode: `"primal"`, `"forward"`, `"reverse"` or `"mixed"`; JAX's `"jvp"` and `"vjp"` are two
        of these.
      wrt: Positions or names of the differentiated arguments.
      profile: `"secagg"` for communication, `"secagg+dp"` also for bounds and noise.
      public: Captured constants that anybody may know: arrays, trees of them, or digests.
      neighbouring: The declared relation, `"add_remove"` or `"replace_one"`.
      noise_multipliers: Declared multipliers of noise drawn in the program, one per sum.
      outputs: Declared placements of the flat outputs, for mode `"primal"`.
      sensitivity: Declared sensitivities under the relation, one per sum, for `"secagg+dp"`.

    Returns:
      The report, with findings that name the user's lines.

    Raises:
      ValueError: An unknown style, mode, profile, relation or placement, or a declaration of
        another length.
    """
    chosen = _style(style)
    if profile not in PROFILES:
        raise ValueError(
            f"Expected the profile {' or '.join(map(repr, PROFILES))}, got {profile!r}. "
            'Use "secagg" for communication alone.'
        )
    subject = {"name": _name(fn), "style": style, "mode": mode, "profile": profile}
    leaves, mode = Leaves.of(fn, args), MODE_NAMES.get(mode, mode)
    fn, args, wrt = leaves.fn, leaves.args, leaves.positions(wrt)
    try:
        traced = trace_mode(fn, args, style=chosen, mode=mode, wrt=wrt)
    except Exception as error:
        return Report.of([_untraceable(fn, error, mode)], Facts(), subject)
    if outputs is not None and mode != "primal":
        raise ValueError(f'Expected `outputs` with mode "primal" only, got mode {mode!r}.')
    traced = with_outputs(traced, outputs)
    known = frozenset(digests_of(public))
    declared = Declared(known, neighbouring, noise_multipliers, sensitivity)
    if mode != "primal" and profile == "secagg+dp":
        primal = check(fn, args, style=style, profile=profile, public=public)
        declared = dataclasses.replace(declared, primal_bounded=primal.kind != "reject")
    findings, facts = examine(traced, chosen, mode=mode, profile=profile, declared=declared)
    rejected = any(f.severity == Severity.REJECT for f in findings)
    if chosen.name == "native" and not rejected:
        facts = _scheduled(facts, traced)
    findings += _again(facts)
    if chosen.sums_by_reduction and not rejected:
        findings += _other_cohorts(fn, args, chosen, mode, wrt, declared, outputs)
    findings = [
        dataclasses.replace(f, line=f.line or definition_line(fn), native=hint(f.rule, style))
        for f in findings
    ]
    return Report.of(findings, facts, subject)


def _other_cohorts(
    fn: Callable,
    args: Sequence[Arg],
    style: Style,
    mode: str,
    wrt: Sequence[int],
    declared: Declared,
    outputs: Sequence[str] | None,
) -> list[Finding]:
    """Checks one client fewer and three more, because a program may branch on their number."""
    held = [a.shape[0] for a in args if PLACEMENTS[a.placement] == Place.CLIENT and a.shape]
    for size in {n for k in held[:1] for n in (k - 1, k + 3) if n >= MINIMUM_CLIENTS}:
        resized = [
            dataclasses.replace(a, shape=(size, *a.shape[1:]))
            if PLACEMENTS[a.placement] == Place.CLIENT and a.shape
            else a
            for a in args
        ]
        try:
            traced = trace_mode(fn, resized, style=style, mode=mode, wrt=wrt)
            traced = with_outputs(traced, outputs)
        except Exception:
            continue  # a program for one size of cohort says so by itself
        found, _ = examine(traced, style, mode=mode, profile="secagg", declared=declared)
        rejected = next((f for f in found if f.severity == Severity.REJECT), None)
        if rejected is not None:
            return [
                finding(
                    "FAD605", line=rejected.line, clients=held[0], other=size, cause=rejected.rule
                )
            ]
    return []


def _style(name: str) -> Style:
    if name not in STYLES:
        raise ValueError(
            f"Expected a style of {', '.join(STYLES)}, got {name!r}. Most programs are native."
        )
    return STYLES[name]


def _name(fn: Callable) -> str:
    return getattr(fn, "name", None) or getattr(fn, "__name__", "program")


def _untraceable(fn: Callable, error: Exception, mode: str) -> Finding:
    text, line = str(error).strip().splitlines(), raising_line(error, fn)
    short = f"{type(error).__name__}: {text[0] if text else ''}"
    if isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        return finding("FAD008", line=line, primitive="a boolean index")
    if mode == "primal":
        return finding("FAD007", line=line, function=_name(fn), error=short)
    return finding("FAD304", line=line, mode=mode, error=short)


def walk(
    traced: Traced, style: Style, *, mode: str = "primal", public: frozenset[str] = frozenset()
):
    """Runs the interpreter; returns the checker and the labels of the outputs."""
    checker = Checker(style, TRANSFER, public=public, mode=mode)
    labels = [arg.label(style) for arg in traced.inputs]
    outs = checker.run(traced.closed, labels, [arg.name for arg in traced.inputs])
    return checker, outs


def labels_of(traced: Traced, style: Style) -> list[Label]:
    """The labels of the outputs of a primal."""
    return walk(traced, style)[1]


def examine(
    traced: Traced, style: Style, *, mode: str, profile: str, declared: Declared
) -> tuple[list[Finding], Facts]:
    """Findings and facts of a traced mode."""
    clients = cohort_size(traced, style)
    if clients is not None and clients < MINIMUM_CLIENTS:
        small = finding("FAD601", clients=clients, minimum=MINIMUM_CLIENTS)
        return [small], Facts(clients=clients)
    checker, outs = walk(traced, style, mode=mode, public=declared.public)
    returned = judge_outputs(checker, traced, style, outs, mode)
    findings = [*checker.findings, *returned]
    facts = _facts(checker, traced, clients)
    if checker.poisoned and not any(f.severity == Severity.REJECT for f in findings):
        # A walk that stopped must not pass because its reason was lost.
        findings.append(finding("FAD001", primitive="a part that could not be followed"))
    if profile == "secagg+dp" and not any(f.severity == Severity.REJECT for f in findings):
        found, facts = _bounded(checker, traced, facts, mode=mode, declared=declared)
        findings += found
    if profile == "secagg":  # under a mechanism there is noise on every entry
        for line, sums in checker.indexed.items():
            findings.append(finding("FAD602", line=line, sum=", ".join(map(str, sums))))
    findings += _obligations(traced, facts, profile)
    if all(f.severity < Severity.REJECT for f in findings):
        return findings, dataclasses.replace(facts, evidence=evidence_of(checker))
    return with_origins(findings, checker, traced), facts


def _bounded(
    checker: Checker, traced: Traced, facts: Facts, *, mode: str, declared: Declared
) -> tuple[list[Finding], Facts]:
    """The second walk: bounds, noise and keys."""
    prover = Prover(checker)
    names, secret = zip(*((a.name, a.secret) for a in traced.inputs)) if traced.inputs else ((), ())
    outputs = prover.run(traced.closed, names, secret)
    judgement = judge(
        prover,
        outputs,
        mode=mode,
        clients=facts.clients,
        neighbouring=declared.neighbouring,
        declared=declared.noise_multipliers,
        primal_bounded=declared.primal_bounded,
        noised_when_run=declared.noised_when_run,
    )
    stated = tuple(
        None
        if b.amount is None
        else b.amount.number
        if b.amount.number is not None
        else str(b.amount)
        for b in judgement.bounds
    )
    facts = dataclasses.replace(
        facts,
        sensitivity=stated,
        joint_sensitivity=judgement.joint,
        relation=declared.neighbouring or "add_remove",
        noise_multipliers=judgement.multipliers,
        bounds=judgement.bounds,
    )
    events = checker.recorded
    return [*judgement.findings, *sensitivity_findings(declared, judgement.bounds, events)], facts


def traced_program(program: Program) -> Traced:
    """A `secfad` program in the form that the walk reads: normal form and placement of its leaves."""
    words = {SERVER: "server", CLIENTS: "clients"}
    variables = program.jaxpr.jaxpr.invars
    leaves = jax.tree.unflatten(program.in_tree, range(len(variables)))
    named = [
        label(path, program.argument_names).strip("`")
        for path, _ in jax.tree_util.tree_leaves_with_path(leaves)
    ]
    inputs = tuple(
        Arg(named[k], v.aval.shape, v.aval.dtype, words[p])  # type: ignore[attr-defined]
        for k, (v, p) in enumerate(zip(variables, program.in_placements))
    )
    wants = tuple(Place.SERVER if p is SERVER else None for p in program.out_placements)
    return Traced(program.jaxpr, inputs, wants, ("the result",) * len(wants))


def check_program(
    program: Program, *, profile: str = "secagg", mode: str = "primal", public: Sequence[Any] = ()
) -> Report:
    """Checks a traced program: one mode of a computation, or a private program.

    Args:
      program: The program in normal form.
      profile: `"secagg"`, or `"secagg+dp"` for a private program, whose noise the runtime adds.
      mode: Name of the mode in findings.
      public: Captured constants that anybody may know: arrays, trees of them, or digests.
    """
    style = dataclasses.replace(STYLES["native"], client_outputs=True)
    subject = {"name": program.name, "style": "native", "mode": mode, "profile": profile}
    declared = Declared(frozenset(digests_of(public)), noised_when_run=True)
    findings, facts = examine(
        traced_program(program), style, mode="primal", profile=profile, declared=declared
    )
    if all(f.severity < Severity.REJECT for f in findings):
        facts = scheduled(facts, program.schedule, program.costs)
    findings += _again(facts)
    return Report.of(findings, facts, subject)


def _scheduled(facts: Facts, traced: Traced) -> Facts:
    """The facts of the schedule of a native program; those of the walk if secfad refuses it."""
    placements = [
        SERVER if PLACEMENTS[a.placement] == Place.SERVER else CLIENTS for a in traced.inputs
    ]
    try:
        normal = normalise(traced.closed, erase_rules=True)
        plan = schedule(place(normal, placements, [a.name for a in traced.inputs]))
    except SecfadError:
        return facts
    return scheduled(facts, plan, costs(plan))


def cohort_size(traced: Traced, style: Style) -> int | None:
    """The number of clients if the program has an axis of clients."""
    if not style.stacked:
        return None
    sizes = {
        a.shape[0] for a in traced.inputs if PLACEMENTS[a.placement] == Place.CLIENT and a.shape
    }
    return min(sizes) if sizes else None


def _facts(checker: Checker, traced: Traced, clients: int | None) -> Facts:
    sums = [e for e in checker.events if e.kind == "sum"]
    sent = [e for e in checker.events if e.kind == "broadcast"]
    state = any(a.placement == "client_state" for a in traced.inputs)
    stated = {e.index for e in checker.events}
    others = [e for e in checker.recorded.values() if e.index not in stated and e.kind == "sum"]
    return Facts(
        rounds=max((e.depth for e in sums), default=0),
        sums=sum(e.count for e in sums),
        broadcasts=sum(e.count for e in sent),
        up_bytes=sum(e.bytes * e.count for e in sums),
        down_bytes=sum(e.bytes * e.count for e in sent),
        readdress=bool(checker.residuals),
        residual_bytes=sum(checker.residuals.values()),
        stateful_clients=state,
        released_scalars=sum(math.prod(e.shape) * e.count for e in sums),
        releases=sum(e.count for e in sums),
        clients=clients,
        events=tuple(checker.events),
        alternatives=tuple(others),
    )


def _obligations(traced: Traced, facts: Facts, profile: str) -> list[Finding]:
    """Caveats about the program as a whole."""
    found = []
    if facts.stateful_clients:
        names = ", ".join(f"`{a.name}`" for a in traced.inputs if a.placement == "client_state")
        found.append(finding("FAD701", value=names))
    if facts.clients is not None and profile == "secagg":
        found += _equations_against_unknowns(traced, facts)
    for event in facts.events:
        if event.kind == "broadcast" and event.depth and profile == "secagg":
            name, phase = event.name, f"of phase {event.depth}"
            found.append(finding("FAD705", line=event.line, broadcast=name, sum=phase))
    if facts.releases > 1:
        found.append(finding("FAD414", count=facts.releases))
    return found


def _again(facts: Facts) -> list[Finding]:
    """The caveat that a later phase needs the same clients, with the state that they keep."""
    if not facts.readdress:
        return []
    state = facts.residual_bytes
    return [finding("FAD306"), *([finding("FAD305", bytes=state)] if state else [])]


def _equations_against_unknowns(traced: Traced, facts: Facts) -> list[Finding]:
    """The caveat that one phase releases as many numbers as the clients hold, so they can be solved
    for.
    """
    held = sum(math.prod(a.shape) for a in traced.inputs if PLACEMENTS[a.placement] == Place.CLIENT)
    phases: dict[int, list] = {}
    for event in facts.events:
        if event.kind == "sum" and event.count == 1:
            phases.setdefault(event.depth, []).append(event)
    for events in phases.values():
        scalars = sum(math.prod(e.shape) for e in events)
        if len(events) > 1 and scalars >= held:
            return [finding("FAD604", sums=len(events), scalars=scalars)]
    return []
