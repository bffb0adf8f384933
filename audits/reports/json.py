"""Reports as JSON for tools: findings, facts and schedule with stable field names."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from audits.rules.findings import Finding, Report

SCHEMA = "urn:secfad:report"
VERSION = 1


def report_to_dict(report: Report) -> dict[str, Any]:
    """Plain values; non-finite numbers become text."""
    hidden = ("alternatives", "bounds", "evidence")  # of certificates
    facts = {k: v for k, v in dataclasses.asdict(report.facts).items() if k not in hidden}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "subject": dict(report.subject),
        "kind": report.kind,
        "findings": [finding_to_dict(f) for f in report.findings],
        "notes": [finding_to_dict(f) for f in report.notes],
        "facts": _plain(facts),
    }


def finding_to_dict(finding: Finding) -> dict[str, Any]:
    """One finding, with the name of its rule."""
    body = _plain(dataclasses.asdict(finding))
    if not finding.native:
        del body["native"]
    return body | {"name": finding.name, "severity": finding.severity.name.lower()}


def reports_to_dict(reports: Mapping[str, Report]) -> dict[str, Any]:
    """Reports by mode."""
    return {mode: report_to_dict(report) for mode, report in reports.items()}


def to_json(body: Mapping[str, Any]) -> str:
    """The text of plain values."""
    return json.dumps(body, indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value
