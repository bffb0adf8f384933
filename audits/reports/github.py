"""Findings as workflow commands: annotations on the lines of a pull request."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from audits.reports.locations import parse, within
from audits.reports.reviews import Review
from audits.rules.findings import Report
from audits.rules.rules import Severity

LEVELS = {Severity.REJECT: "error", Severity.CAVEAT: "warning", Severity.NOTE: "notice"}


def render_github(
    programs: Mapping[str, Mapping[str, Report]],
    reviews: Mapping[str, Review] = MappingProxyType({}),
    *,
    root: Path | None = None,
) -> str:
    """One command per finding; what was accepted or is known is a notice.

    Args:
      programs: Name of a program to its reports by mode.
      reviews: What was accepted and known of each program.
      root: Folder as seen from which files are named; the current folder by default.
    """
    root = Path.cwd() if root is None else root
    lines = []
    for program, reports in programs.items():
        review = reviews.get(program, Review())
        for mode, report in reports.items():
            for position, finding in enumerate(report.findings):
                level, text = LEVELS[finding.severity], f"{finding.message}. {finding.remedy}."
                accepted = review.acceptance(finding)
                if accepted is not None or review.is_known(mode, position):
                    level, text = "notice", f"{text} {accepted or 'Known from the baseline'}."
                place = _place(finding.line, root)
                title = _property(f"{finding.rule} {finding.name} ({program}, {mode})")
                lines.append(f"::{level} {place}title={title}::{_message(text)}")
    return "\n".join(lines)


def _place(line: str, root: Path) -> str:
    location = parse(line)
    if location is None:
        return ""
    return f"file={_property(within(location.file, root))},line={location.line},"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
