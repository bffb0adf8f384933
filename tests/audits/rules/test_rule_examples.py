"""Every rule: its example raises it, at a line of the user's file, and its remedy makes the program pass."""

import dataclasses
from pathlib import Path

import pytest
from rule_examples import AT_RUN_TIME, EXAMPLES

import audits
from audits.rules.catalogue import RULES
from audits.rules.findings import Report
from audits.rules.rules import Severity

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DrJAX asks for an old mesh
TESTS = Path(__file__).parents[3]


def found(report):
    return {f.rule: f for f in (*report.findings, *report.notes)}


def judged(rule, which):
    example = EXAMPLES[rule]
    if which == "bad":
        return audits.check(example.bad, example.args, **example.settings)
    return audits.check(example.good, example.good_args, **example.good_settings)


def test_every_rule_has_an_example():
    assert set(EXAMPLES) | set(AT_RUN_TIME) == set(RULES)
    for rule, path in AT_RUN_TIME.items():
        assert rule in (TESTS / path).read_text()


@pytest.mark.parametrize("rule", EXAMPLES)
def test_example_raises_its_rule_at_the_users_line(rule):
    report = judged(rule, "bad")
    assert rule in found(report), (report.kind, sorted(found(report)))
    if RULES[rule].severity == Severity.REJECT:
        assert report.kind == "reject"
    for finding in report.findings:
        if finding.severity == Severity.REJECT:
            assert Path(finding.line.split(":")[0]).name == "rule_examples.py", finding
            assert finding.remedy


@pytest.mark.parametrize("rule", EXAMPLES)
def test_remedy_makes_the_program_pass(rule):
    report = judged(rule, "good")
    assert report.kind != "reject", [f.message for f in report.findings]
    assert rule not in found(report)


@pytest.mark.parametrize("rule", EXAMPLES)
def test_checker_without_the_rule_fails_its_example(rule, monkeypatch):
    """The suite notices if a rule is never raised: its example is then judged otherwise."""
    complete = judged(rule, "bad")
    made = Report.of

    def without(findings, *rest):
        return made([f for f in findings if f.rule != rule], *rest)

    monkeypatch.setattr(Report, "of", without)
    mutilated = judged(rule, "bad")
    assert rule not in found(mutilated)
    assert found(mutilated) != found(complete)
    assert dataclasses.replace(mutilated, subject={}) != dataclasses.replace(complete, subject={})
