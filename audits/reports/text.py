"""Reports for a terminal, in the manner of compilers: the user's line, the reason, one suggestion.

    reject[FAD102] implicit-broadcast: server value `w` is used by clients without ...
      --> model.py:7:20 (loss)
       |
     7 |     return fad.mean(loss(w, x))
       |                     ^
       = help: Wrap `w` in `fad.broadcast`

Source: the rustc development guide, "Diagnostics".
"""

from audits.reports.locations import parse, source_line
from audits.static.catalogue import RULES
from audits.static.findings import Event, Facts, Finding, Report

VERDICTS = {
    "accept": "certified",
    "caveat": "certified under obligations",
    "reject": "rejected",
}


def render_text(report: Report, *, verbose: bool = False) -> str:
    """The whole report; with `verbose` also notes and the schedule."""
    subject = report.subject
    title = f"{subject.get('name', 'program')} ({subject.get('mode', 'primal')})"
    parts = [render_finding(f) for f in report.findings]
    if verbose:
        parts += [render_finding(f) for f in report.notes]
        parts.append(render_schedule(report.facts))
    parts.append(f"{title}: {VERDICTS[report.kind]}. {summary(report.facts)}")
    return "\n\n".join(part for part in parts if part)


def render_finding(finding: Finding) -> str:
    """One finding with its source line."""
    word = finding.severity.name.lower()
    lines = [f"{word}[{finding.rule}] {finding.name}: {finding.message}"]
    location = parse(finding.line)
    if location is not None:
        where = f" ({location.function})" if location.function else ""
        column = f":{location.column}" if location.column else ""
        lines.append(f"  --> {location.file}:{location.line}{column}{where}")
        text = source_line(location)
        if text:
            width = len(str(location.line))
            lines.append(f" {' ' * width} |")
            lines.append(f" {location.line} | {text}")
            mark = location.column - 1 if location.column else len(text) - len(text.lstrip())
            lines.append(f" {' ' * width} | {' ' * max(mark, 0)}^")
    if finding.remedy:
        lines.append(f"  = help: {finding.remedy}")
    lines.append(f"  = note: secfad certify --explain {finding.rule}")
    return "\n".join(lines)


def render_schedule(facts: Facts) -> str:
    """The messages, one per line."""
    return "\n".join(_event(e) for e in facts.events)


def _event(event: Event) -> str:
    arrow = "clients -> server" if event.kind == "sum" else "server -> clients"
    times = f" x {event.count}" if event.count > 1 else ""
    return (
        f"  phase {event.depth:>3}  {arrow}  {event.name}  {event.dtype}{list(event.shape)}  "
        f"{event.bytes} bytes{times}"
    )


def summary(facts: Facts) -> str:
    """Rounds and bytes in one line."""
    return (
        f"{facts.rounds} rounds, {facts.broadcasts} broadcasts ({facts.down_bytes} bytes down), "
        f"{facts.sums} sums ({facts.up_bytes} bytes up) per client"
    )


def explain(rule: str) -> str:
    """The card of a rule: what `secfad certify --explain` prints.

    Raises:
      KeyError: There is no such rule.
    """
    if rule not in RULES:
        raise KeyError(
            f"Expected a rule id from {min(RULES)} to {max(RULES)}, got {rule!r}. "
            "Findings name their rule in brackets."
        )
    record = RULES[rule]
    return "\n".join(
        [
            f"{record.id} {record.name} ({record.severity.name.lower()})",
            "",
            f"Says: {record.message}",
            "",
            f"Why: {record.why}",
            "",
            "Example:",
            f"    {record.example}",
            "",
            f"Instead: {record.remedy}.",
        ]
    )
