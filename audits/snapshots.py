"""Snapshots: the facts of a certificate in a file that is reviewed in diffs.

A snapshot holds the facts that a reviewer should notice: rounds, messages, bytes, obligations and
bounds per mode. It holds no lines and no digests, so harmless edits do not change it. The pytest
plugin and `secfad snapshot` (the pre-commit hook) read and write the same files.

Source: TensorFlow Federated's unit tests, which assert that no aggregation is insecure.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audits.rules.findings import Report


def facts(reports: Mapping[str, Report]) -> dict[str, Any]:
    """The contents of a snapshot, by mode."""
    return {
        mode: {
            "rounds": report.facts.rounds,
            "messages": [
                f"{e.kind} {e.name} {e.dtype}{list(e.shape)} phase {e.depth} x {e.count}"
                for e in report.facts.events
            ],
            "up_bytes": report.facts.up_bytes,
            "down_bytes": report.facts.down_bytes,
            "readdress": report.facts.readdress,
            "obligations": sorted({f.rule for f in report.findings}),
            "sensitivity": list(report.facts.sensitivity),
        }
        for mode, report in reports.items()
    }


def difference(path: Path, found: Mapping[str, Any]) -> str | None:
    """The difference between the facts and a snapshot, line by line; None if there is no
    difference.
    """
    stated = path.read_text() if path.exists() else ""
    text = _text(found)
    if stated == text:
        return None
    lines = difflib.unified_diff(
        stated.splitlines(), text.splitlines(), str(path), "the program now", lineterm="", n=1
    )
    return "\n".join(lines)


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Writes a snapshot and creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_text(found))


def _text(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=2, sort_keys=True) + "\n"
