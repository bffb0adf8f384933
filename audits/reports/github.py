"""Findings as workflow commands: annotations on the lines of a pull request."""

from collections.abc import Mapping
from pathlib import Path

from audits.reports.locations import parse, within
from audits.rules.findings import Report
from audits.rules.rules import Severity

LEVELS = {Severity.REJECT: "error", Severity.CAVEAT: "warning", Severity.NOTE: "notice"}


def render_github(reports: Mapping[str, Report], *, root: Path | None = None) -> str:
    """One command per finding; files are named as seen from `root`, the current folder by default."""
    root = Path.cwd() if root is None else root
    lines = []
    for mode, report in reports.items():
        for finding in report.findings:
            location = parse(finding.line)
            place = (
                ""
                if location is None
                else f"file={_property(within(location.file, root))},line={location.line},"
            )
            title = _property(f"{finding.rule} {finding.name} ({mode})")
            text = _message(f"{finding.message}. {finding.remedy}.")
            lines.append(f"::{LEVELS[finding.severity]} {place}title={title}::{text}")
    return "\n".join(lines)


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
