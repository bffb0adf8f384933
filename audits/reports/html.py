"""One self-contained HTML page: the verdict, the federated graph with its messages, the findings.

No script, no network: the page can be mailed or archived next to a certificate.
"""

from collections.abc import Mapping
from html import escape

from audits.reports.locations import parse, source_line
from audits.reports.text import VERDICTS, summary
from audits.rules.catalogue import RULES
from audits.rules.findings import Event, Facts, Finding, Report

_STYLE = """
.secfad-report{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:auto;color:#1b1f24;
h1{font-size:1.4rem} h2{font-size:1.1rem;margin-top:2rem} code,pre{font-family:ui-monospace,monospace}
pre{background:#f5f6f8;padding:.6rem;overflow-x:auto;border-radius:4px}
.badge{padding:.1rem .5rem;border-radius:4px;color:#fff} .accept{background:#1a7f37}
.caveat{background:#9a6700} .reject{background:#cf222e} .note{background:#57606a}
article{border-left:4px solid #d0d7de;padding:.2rem 1rem;margin:1rem 0}
table{border-collapse:collapse} td,th{padding:.2rem .7rem;text-align:left;border-bottom:1px solid #d0d7de}
svg text{font:12px system-ui,sans-serif}}
"""  # nested, so that a notebook keeps its own styles


def render_html(reports: Mapping[str, Report], title: str) -> str:
    """The page for all modes of one program."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"</head><body>{render_fragment(reports, title)}</body></html>\n"
    )


def render_fragment(reports: Mapping[str, Report], title: str = "") -> str:
    """The reports as a part of a page, such as the output of a notebook's cell."""
    head = f"<h1>{escape(title)}</h1>" if title else ""
    body = "".join(_section(mode, report) for mode, report in reports.items())
    return f'<div class="secfad-report"><style>{_STYLE}</style>{head}{body}</div>'


def _section(mode: str, report: Report) -> str:
    badge = f'<span class="badge {report.kind}">{escape(VERDICTS[report.kind])}</span>'
    findings = "".join(_finding(f) for f in (*report.findings, *report.notes))
    return (
        f"<h2>{escape(mode)} {badge}</h2><p>{escape(summary(report.facts))}</p>"
        f"{_graph(report)}{_table(report.facts)}{findings}"
    )


def _finding(finding: Finding) -> str:
    kind = {0: "note", 1: "caveat", 2: "reject"}[int(finding.severity)]
    place = _excerpt(finding.line, "")
    origin = finding.source or "a client value"
    entries = "".join(_excerpt(line, f"{origin} enters here: ") for line in finding.entered)
    native = f"<p>Natively: <code>{escape(finding.native)}</code></p>" if finding.native else ""
    return (
        f'<article><p><span class="badge {kind}">{finding.rule}</span> '
        f"<strong>{escape(finding.name)}</strong>: {escape(finding.message)}</p>{place}{entries}"
        f"<p>{escape(RULES[finding.rule].why)}</p><p>Instead: {escape(finding.remedy)}.</p>{native}"
        "</article>"
    )


def _excerpt(line: str, label: str) -> str:
    """A location in the user's file, with its text."""
    location = parse(line)
    if location is None:
        return ""
    source = source_line(location)
    text = f"<pre>{escape(source)}</pre>" if source else ""
    return f"<p>{escape(label)}<code>{escape(location.file)}:{location.line}</code></p>{text}"


def _table(facts: Facts) -> str:
    if not facts.events:
        return ""
    bounds = {b.event: str(b.amount) for b in facts.bounds}
    rows = "".join(_row(e, bounds.get(e.index, "")) for e in facts.events)
    head = "".join(
        f"<th>{h}</th>" for h in ("phase", "message", "name", "value", "bytes", "times", "bound")
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _row(event: Event, bound: str) -> str:
    cells = (
        event.depth, event.kind, event.name, f"{event.dtype}{list(event.shape)}", event.bytes,
        event.count, bound,
    )  # fmt: skip
    return "<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in cells) + "</tr>"


def _graph(report: Report) -> str:
    """Server and clients as two lines, messages as arrows between them, findings on their arrows."""
    events = report.facts.events[:40]
    if not events:
        return ""
    step, top, bottom = 64, 30, 130
    width = step * (len(events) + 1)
    marked = {f.where for f in report.findings}
    arrows = "".join(
        _arrow(e, step * (k + 1), top, bottom, e.where in marked) for k, e in enumerate(events)
    )
    lanes = "".join(
        f'<line x1="0" x2="{width}" y1="{y}" y2="{y}" stroke="#57606a"/>'
        f'<text x="2" y="{y - 6 if y == top else y + 16}">{name}</text>'
        for y, name in ((top, "server"), (bottom, "clients"))
    )
    return (
        f'<svg role="img" aria-label="messages in order" viewBox="0 0 {width} 170" '
        f'width="{min(width, 960)}" height="170">{lanes}{arrows}</svg>'
    )


def _arrow(event: Event, x: int, top: int, bottom: int, marked: bool) -> str:
    down = event.kind == "broadcast"
    colour = "#cf222e" if marked else "#0969da" if down else "#1a7f37"
    tip, tail = (bottom, top) if down else (top, bottom)
    back = tip - 8 if down else tip + 8
    label = escape(event.name[:12])
    return (
        f'<line x1="{x}" x2="{x}" y1="{tail}" y2="{tip}" stroke="{colour}" stroke-width="2"/>'
        f'<path d="M{x - 5},{back} L{x + 5},{back} L{x},{tip} Z" fill="{colour}"/>'
        f'<text x="{x + 4}" y="{(top + bottom) // 2}" transform="rotate(-35 {x} {(top + bottom) // 2})">'
        f"{label}</text>"
    )
