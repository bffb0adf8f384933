"""The verdict of every program of the corpus, and where findings point."""

from pathlib import Path

import pytest
from corpus_programs import CASES
from verdicts import judged

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DrJAX asks for an old mesh


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_program_is_judged_as_stated(case):
    report = judged(case)
    rules = {f.rule for f in report.findings}
    assert report.kind == case.kind, (report.kind, rules, [f.message for f in report.findings])
    if case.kind != "accept":
        assert rules & case.rules, rules


@pytest.mark.parametrize("case", [c for c in CASES if c.kind == "reject"], ids=lambda c: c.name)
def test_rejection_names_a_line_of_the_users_file(case):
    findings = [f for f in judged(case).findings if f.severity == 2]
    for finding in findings:
        assert Path(finding.line.split(":")[0]).name == f"{case.fn.__module__}.py", finding
