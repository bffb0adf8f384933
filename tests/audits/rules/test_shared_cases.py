"""The acceptance corpus, where it is at hand: no wrong accept, and the stated facts."""

import json
from pathlib import Path

import pytest

import audits

CORPUS = Path(__file__).parents[3].parent / "shared" / "cases" / "checker" / "cases.jsonl"
CASES = [json.loads(t) for t in CORPUS.read_text().splitlines()] if CORPUS.exists() else []
FACTS = ("rounds", "sums", "broadcasts", "up_bytes", "down_bytes")
# The declared relation is not part of the question that is asked, so the answer is a caveat.
UNDECLARED = {"ST-D48"}

pytestmark = [
    pytest.mark.skipif(not CASES, reason="the acceptance corpus is not at hand"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # DrJAX asks for an old mesh
]


def answered(case):
    scope = {}
    exec(compile(case["code"], f"<{case['id']}>", "exec"), scope)
    args = [audits.Arg(a["name"], a["shape"], a["dtype"], a["placement"]) for a in case["args"]]
    return audits.check(
        scope["f"],
        args,
        style=case["style"],
        mode=case["mode"],
        wrt=case["wrt"],
        profile=case["profile"],
    )


@pytest.mark.parametrize("case", [c for c in CASES if "procedure" not in c], ids=lambda c: c["id"])
def test_answer_is_the_expected_one(case):
    report = answered(case)
    rules = {f.rule for f in report.findings}
    assert not (case["kind"] == "reject" and report.kind == "accept"), "wrong accept"
    if case["id"] in UNDECLARED or report.kind in case.get("tolerate", ()):
        return
    assert report.kind == case["kind"], rules
    if report.kind == "reject":
        assert any(f"<{case['id']}>:" in f.line for f in report.findings), "no line of the user's"
    assert case["rule"] is None or rules & {case["rule"], *case.get("also", ())}
    if report.kind == case["kind"] != "reject":
        for fact in FACTS:
            if fact in case.get("expect", {}):
                assert getattr(report.facts, fact) == case["expect"][fact], fact


def test_declared_relation_that_the_noise_does_not_serve_is_rejected():
    case = next(c for c in CASES if c["id"] == "ST-D48")
    scope = {}
    exec(compile(case["code"], "<relation>", "exec"), scope)
    args = [audits.Arg(a["name"], a["shape"], a["dtype"], a["placement"]) for a in case["args"]]
    report = audits.check(
        scope["f"], args, style="stacked", profile="secagg+dp", neighbouring="replace_one",
        noise_multipliers=[1.1],
    )  # fmt: skip
    assert report.kind == "reject"
    assert {f.rule for f in report.findings} == {"FAD412"}
