"""Reports as SARIF 2.1.0, for code-scanning services.

Only findings become results, because services turn passes into alerts; the certificate records
passes. An acknowledged caveat is a result with a suppression. The fingerprint of a result is its
rule and the text of its line, so it survives an edit above the line.

Source: OASIS, Static Analysis Results Interchange Format (SARIF) 2.1.0.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from audits.reports.locations import Location, parse, source_line, uri_of
from audits.rules.catalogue import RULES
from audits.rules.findings import Finding, Report
from audits.rules.rules import Severity

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {Severity.REJECT: "error", Severity.CAVEAT: "warning", Severity.NOTE: "note"}


def render_sarif(
    reports: Mapping[str, Report], acknowledged: Collection[str] = (), *, root: Path | None = None
) -> str:
    """One run with the findings of all modes.

    Args:
      reports: By mode.
      acknowledged: Rules of the obligations that a run accepts.
      root: Folder of the repository, for relative references; the current folder by default.
    """
    root = Path.cwd() if root is None else root
    results = [
        _result(finding, mode, acknowledged, root)
        for mode, report in reports.items()
        for finding in report.findings
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


def _result(
    finding: Finding, mode: str, acknowledged: Collection[str], root: Path
) -> dict[str, Any]:
    location = parse(finding.line)
    made: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": list(RULES).index(finding.rule),
        "level": LEVELS[finding.severity],
        "message": {"text": f"{finding.message}. {finding.remedy}."},
        "partialFingerprints": {"rule/line/v1": _fingerprint(finding, mode, location)},
        "properties": {"mode": mode, "path": finding.where},
    }
    if location is not None:
        made["locations"] = [_physical(location, root)]
        steps = [parse(text) for text in finding.entered]
        path = [step for step in (*steps, location) if step is not None]
        flow = [{"location": _physical(step, root)} for step in path]
        if len(flow) > 1:
            made["codeFlows"] = [{"threadFlows": [{"locations": flow}]}]
    if finding.severity == Severity.CAVEAT and finding.rule in acknowledged:
        made["suppressions"] = [{"kind": "external", "justification": "acknowledged by the run"}]
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


def _fingerprint(finding: Finding, mode: str, location: Location | None) -> str:
    text = source_line(location).strip() if location else ""
    return hashlib.sha256(f"{finding.rule}\n{mode}\n{text}".encode()).hexdigest()[:32]
