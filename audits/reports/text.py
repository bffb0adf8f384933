"""Reports for a terminal, in the style of compilers: the user's line, the reason, one suggestion.

    reject[FAD102] implicit-broadcast: server value `w` is used by clients without ...
      --> model.py:7:21 (loss)
       |
     7 |     return fad.mean(loss(w, x))
       |                     ^
       = help: Wrap `w` in `fad.broadcast`

If a client value enters further above, that line follows as a second excerpt.

Source: the rustc development guide, "Diagnostics".
"""

from collections.abc import Mapping, Sequence

from audits.reports.locations import Location, parse, source_line
from audits.rules.catalogue import RULES
from audits.rules.findings import Facts, Finding, Report

VERDICTS = {
    "accept": "certified",
    "caveat": "certified under obligations",
    "reject": "rejected",
}


def render_texts(reports: Mapping[str, Report]) -> str:
    """Reports by mode: findings that several modes share appear once, then one verdict per mode."""
    said: dict[tuple[str, str, str], list[str]] = {}
    first: dict[tuple[str, str, str], Finding] = {}
    for mode, report in reports.items():
        for item in report.findings:
            key = (item.rule, item.line, item.message)
            first.setdefault(key, item)
            said.setdefault(key, []).append(mode)
    parts = [render_finding(first[key], modes[1:]) for key, modes in said.items()]
    return "\n\n".join([*parts, "\n".join(verdict(report) for report in reports.values())])


def verdict(report: Report) -> str:
    """Name, mode and outcome, with the costs of the program unless it was rejected."""
    subject = report.subject
    title = f"{subject.get('name', 'program')} ({subject.get('mode', 'primal')})"
    if report.kind == "reject":
        return f"{title}: {VERDICTS['reject']}."
    return f"{title}: {VERDICTS[report.kind]}. {summary(report.facts)}"


def render_finding(finding: Finding, also: Sequence[str] = ()) -> str:
    """One finding with its source line, the entry of its client values, and one suggestion."""
    word = finding.severity.name.lower()
    lines = [f"{word}[{finding.rule}] {finding.name}: {finding.message}"]
    place = parse(finding.line)
    if place is not None:
        origin = f"{finding.source} ends here" if finding.source and finding.entered else ""
        lines += _excerpt(place, "-->", origin)
    elif finding.source:
        lines.append(f"  = note: it concerns {finding.source}")
    for text in finding.entered:
        entry = parse(text)
        if entry is not None:
            lines += _excerpt(entry, ":::", f"{finding.source or 'a client value'} enters here")
    if finding.remedy:
        lines.append(f"  = help: {finding.remedy}")
    if finding.native:
        lines.append(f"  = natively: {finding.native}")
    if also:
        lines.append(f"  = note: the same in the {', '.join(also)} derivative")
    lines.append(f"  = note: secfad certify --explain {finding.rule}")
    return "\n".join(lines)


def _excerpt(place: Location, arrow: str, label: str) -> list[str]:
    """A line of the user's file with a mark under the column."""
    where = f" ({place.function})" if place.function else ""
    column = f":{place.column}" if place.column else ""
    lines = [f"  {arrow} {place.file}:{place.line}{column}{where}"]
    text = source_line(place)
    if text:
        margin = " " * len(str(place.line))
        mark = place.column - 1 if place.column else len(text) - len(text.lstrip())
        lines.append(f" {margin} |")
        lines.append(f" {place.line} | {text}")
        lines.append(f" {margin} | {' ' * max(mark, 0)}^ {label}".rstrip())
    return lines


def summary(facts: Facts) -> str:
    """Rounds and bytes in one line."""
    return (
        f"{facts.rounds} rounds, {facts.broadcasts} broadcasts ({facts.down_bytes} bytes down), "
        f"{facts.sums} sums ({facts.up_bytes} bytes up) per client"
    )


def explain(rule: str) -> str:
    """The card of a rule, as printed by `secfad certify --explain`.

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
