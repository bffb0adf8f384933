"""Baselines: findings that are known already, so that a check fails for new ones only.

A baseline lets a project with rejected programs enforce that nothing gets worse. It certifies nothing: a
rejected program has no certificate, whether its findings are known or not. A finding is known by its
program, mode, rule and the text of its line, as often as the baseline counts it.

Source: the baselines of SARIF 2.1.0, section 3.27.24 (`baselineState`).
"""

import collections
import json
from collections.abc import Mapping
from pathlib import Path

from audits.commands.targets import UnusableInput
from audits.reports.sarif import fingerprint
from audits.rules.findings import Finding, Report

Key = tuple[str, str, str, str]
Reports = Mapping[str, Mapping[str, Report]]


def key_of(program: str, mode: str, finding: Finding) -> Key:
    """What identifies a finding while lines above it change."""
    return program, mode, finding.rule, fingerprint(finding, mode)


def counted(programs: Reports) -> collections.Counter[Key]:
    """How often each finding occurs."""
    return collections.Counter(
        key_of(program, mode, finding)
        for program, reports in programs.items()
        for mode, report in reports.items()
        for finding in report.findings
    )


def write_baseline(path: Path, programs: Reports) -> None:
    """Writes the findings of programs."""
    body = [
        {"program": program, "mode": mode, "rule": rule, "fingerprint": mark, "count": count}
        for (program, mode, rule, mark), count in sorted(counted(programs).items())
    ]
    path.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def read_baseline(path: Path) -> collections.Counter[Key]:
    """The findings of a baseline.

    Raises:
      UnusableInput: There is no such file, or it has another form.
    """
    known: collections.Counter[Key] = collections.Counter()
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(items, list):
            raise TypeError(f"a {type(items).__name__}")
        for item in items:
            if type(item["count"]) is not int:
                raise TypeError("a count that is no integer")
            known[(item["program"], item["mode"], item["rule"], item["fingerprint"])] += item[
                "count"
            ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UnusableInput(
            f"Expected a baseline in {path}, got {error}. Write it with secfad certify --all "
            "--baseline FILE --update-baseline."
        ) from error
    return known


def known_findings(
    programs: Reports, known: Mapping[Key, int]
) -> dict[str, frozenset[tuple[str, int]]]:
    """Mode and position of the findings of each program that a baseline has.

    Of several alike, no more are known than the baseline counts.
    """
    left = dict(known)
    found: dict[str, set[tuple[str, int]]] = {program: set() for program in programs}
    for program, reports in programs.items():
        for mode, report in reports.items():
            for position, finding in enumerate(report.findings):
                key = key_of(program, mode, finding)
                if left.get(key, 0) > 0:
                    left[key] -= 1
                    found[program].add((mode, position))
    return {program: frozenset(positions) for program, positions in found.items()}
