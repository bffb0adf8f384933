"""Reports as SARIF 2.1.0, for code-scanning services.

Only findings become results, because services turn passes into alerts; the certificate records
passes. An accepted obligation is a result with a suppression, a finding of a baseline one that is
unchanged. The fingerprint of a result is its rule and the text of its line, so it survives an edit
above the line.

Source: OASIS, Static Analysis Results Interchange Format (SARIF) 2.1.0.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from audits.reports.locations import Location, parse, source_line, uri_of
from audits.reports.reviews import Review
from audits.rules.catalogue import RULES
from audits.rules.findings import Finding, Report
from audits.rules.rules import Severity

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {Severity.REJECT: "error", Severity.CAVEAT: "warning", Severity.NOTE: "note"}


def render_sarif(
    programs: Mapping[str, Mapping[str, Report]],
    reviews: Mapping[str, Review] = MappingProxyType({}),
    *,
    root: Path | None = None,
) -> str:
    """One run with the findings of all modes of all programs.

    Args:
      programs: Name of a program to its reports by mode.
      reviews: What was accepted and known of each program.
      root: Folder of the repository, for relative references; the current folder by default.
    """
    root = Path.cwd() if root is None else root
    results = [
        _result(finding, mode, root)
        | _reviewed(finding, mode, position, reviews.get(program, Review()))
        | {"properties": {"program": program, "mode": mode, "path": finding.where}}
        for program, reports in programs.items()
        for mode, report in reports.items()
        for position, finding in enumerate(report.findings)
    ]
    return json.dumps(
        {
            "$schema": SCHEMA,
            "version": "2.1.0",
            "runs": [
                {
                    "tool": {"driver": _driver()},
                    "results": results,
                    "columnKind": "unicodeCodePoints",
                }
            ],
        },
        indent=2,
    )


def _driver() -> dict[str, Any]:
    return {
        "name": "secfad",
        "rules": [
            {
                "id": r.id,
                "name": "".join(word.capitalize() for word in r.name.split("-")),
                "shortDescription": {"text": r.name.replace("-", " ")},
                "fullDescription": {"text": r.why},
                "help": {"text": f"{r.remedy}."},
                "defaultConfiguration": {"level": LEVELS[r.severity]},
            }
            for r in RULES.values()
        ],
    }


def _reviewed(finding: Finding, mode: str, position: int, review: Review) -> dict[str, Any]:
    """What a result says about its acceptance and about a baseline."""
    made: dict[str, Any] = {}
    accepted = review.acceptance(finding)
    if accepted is not None:
        made["suppressions"] = [
            {"kind": "external", "status": "accepted", "justification": accepted}
        ]
    if review.known is not None:
        made["baselineState"] = "unchanged" if review.is_known(mode, position) else "new"
    return made


def _result(finding: Finding, mode: str, root: Path) -> dict[str, Any]:
    location = parse(finding.line)
    natively = [f"Natively: {finding.native}."] if finding.native else []
    made: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": list(RULES).index(finding.rule),
        "level": LEVELS[finding.severity],
        "message": {"text": " ".join([f"{finding.message}. {finding.remedy}.", *natively])},
        "partialFingerprints": {"rule/line/v1": fingerprint(finding, mode)},
    }
    if location is not None:
        made["locations"] = [_physical(location, root)]
        steps = [parse(text) for text in finding.entered]
        path = [step for step in (*steps, location) if step is not None]
        flow = [{"location": _physical(step, root)} for step in path]
        if len(flow) > 1:
            made["codeFlows"] = [{"threadFlows": [{"locations": flow}]}]
    return made


def _physical(location: Location, root: Path) -> dict[str, Any]:
    region: dict[str, Any] = {"startLine": max(location.line, 1)}
    if location.column:
        region["startColumn"] = location.column
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": uri_of(location.file, root)},
            "region": region,
        }
    }


def fingerprint(finding: Finding, mode: str) -> str:
    """Identifies a finding by its rule, its mode and the text of its line."""
    location = parse(finding.line)
    text = source_line(location).strip() if location else ""
    return hashlib.sha256(f"{finding.rule}\n{mode}\n{text}".encode()).hexdigest()[:32]
