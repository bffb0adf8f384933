"""Reports and the command behind `secfad certify`: exit codes, formats, snapshots."""

import json
import re

import pytest

from audits.commands.certification import CERTIFIED, REJECTED, UNUSABLE, Outputs, certify_one
from audits.commands.requests import Request
from audits.commands.targets import Target, UnusableInput
from audits.pytest_plugin import compare
from audits.reports.locations import parse
from audits.reports.text import explain
from audits.rules.catalogue import RULES
from privacy.certificates.certificates import Certificate

GOOD = """
import jax, jax.numpy as jnp, secfad as fad

@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def step(w, x):
    return w - fad.mean(jnp.sin(fad.broadcast(w, name="model") * x), name="delta")

@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def leaks(w, x):
    scaled = x * 2.0
    return fad.mean(scaled * w)

@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def without_specs(w, x):
    return fad.mean(x)

v = jax.ShapeDtypeStruct((3,), jnp.float32)
SPECS = {"step": (v, v)}
def leaks_specs():
    return (v, v)
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(GOOD)
    return path


def said(program, name, *, modes=("all",), **options):
    lines = []
    request = Request(Target(str(program), name), modes=modes)
    code = certify_one(request, Outputs(write=lines.append, **options))
    return code, "\n".join(lines)


def test_certified_program_ends_with_zero_and_writes_its_certificate(program, tmp_path):
    out = tmp_path / "certificate.json"
    code, text = said(program, "step", modes=("primal", "forward", "mixed"), certificate=out)
    assert code == CERTIFIED
    assert "certified" in text
    assert set(Certificate.from_json(out.read_text()).digests) == {"primal", "forward", "mixed"}


def test_rejected_program_ends_with_one_and_shows_the_line(program, tmp_path):
    out = tmp_path / "certificate.json"
    code, text = said(program, "leaks", modes=("forward",), certificate=out)
    assert code == REJECTED
    assert "FAD102" in text
    assert "return fad.mean(scaled * w)" in text
    assert "= help:" in text
    assert not out.exists()


@pytest.mark.parametrize("name", ["absent", "without_specs", "v", "jax"])
def test_unusable_name_ends_with_two_and_says_what_to_write(program, name):
    code, text = said(program, name)
    assert code == UNUSABLE
    assert "Expected" in text


def test_unusable_file_mode_and_format_end_with_two(program, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    assert said(tmp_path / "none.py", "f")[0] == UNUSABLE
    assert "ZeroDivisionError" in said(broken, "f")[1]
    with pytest.raises(UnusableInput, match="modes among all"):
        said(program, "step", modes=("sideways",))
    with pytest.raises(UnusableInput, match="a format among"):
        said(program, "step", format="pdf")


def test_caveats_can_count_as_rejections(program):
    assert said(program, "step", modes=("reverse",))[0] == CERTIFIED
    code, _ = said(program, "step", modes=("reverse",), refuse_obligations=True)
    readdressed = "FAD306" in said(program, "step", modes=("reverse",), format="json")[1]
    assert code == (REJECTED if readdressed else CERTIFIED)


def test_json_report_is_data(program):
    code, text = said(program, "leaks", format="json")
    body = json.loads(text)
    assert code == REJECTED
    assert body["primal"]["kind"] == "reject"
    assert body["primal"]["findings"][0]["rule"] == "FAD102"


def test_sarif_has_the_required_properties(program):
    _, text = said(program, "leaks", format="sarif")
    body = json.loads(text)
    assert body["version"] == "2.1.0"
    assert body["$schema"].endswith("sarif-2.1.0.json")
    (run,) = body["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [r["id"] for r in rules] == list(RULES)
    for result in run["results"]:
        assert result["message"]["text"]
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"none", "note", "warning", "error"}
        assert "kind" not in result
        region = result["locations"][0]["physicalLocation"]["region"]
        assert region["startLine"] >= 1


def test_certified_program_has_no_sarif_results(program):
    body = json.loads(said(program, "step", modes=("primal",), format="sarif")[1])
    assert body["runs"][0]["results"] == []


def test_annotation_names_file_and_line(program):
    _, text = said(program, "leaks", modes=("primal",), format="github")
    assert re.match(r"::error file=.*model\.py,line=11,title=FAD102[^:]*::.+", text)
    assert "\n" not in text


def test_html_page_needs_nothing_from_elsewhere(program, tmp_path):
    out = tmp_path / "report.html"
    assert said(program, "step", modes=("primal",), format="html", out=out)[0] == CERTIFIED
    page = out.read_text()
    assert "<svg" in page
    assert not re.search(r"(src|href)=|https?://|<script", page)


def test_html_escapes_names_of_the_program(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text(GOOD.replace('name="delta"', 'name="<b>&"'))
    page = said(path, "step", modes=("primal",), format="html")[1]
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_can_be_explained(rule):
    text = explain(rule)
    assert RULES[rule].why in text
    assert "Instead:" in text


def test_unknown_rule_cannot_be_explained():
    with pytest.raises(KeyError, match="FAD999"):
        explain("FAD999")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.py:7 (f)", ("a.py", 7, 0, "f")),
        ("/x y/a.py:7:4 (C.f)", ("/x y/a.py", 7, 4, "C.f")),
        ("<cell>:3:1-3:9 (<lambda>)", ("<cell>", 3, 1, "<lambda>")),
        ("nothing", None),
    ],
)
def test_locations_are_read(text, expected):
    assert parse(text) == expected


def test_snapshot_is_written_on_demand_and_then_compared(tmp_path):
    path = tmp_path / "certificates" / "s.json"
    with pytest.raises(AssertionError, match=r"got none\. Run pytest --snapshot-update"):
        compare(path, {"primal": {"rounds": 1}}, update=False)
    assert not path.exists()
    compare(path, {"primal": {"rounds": 1}}, update=True)
    compare(path, {"primal": {"rounds": 1}}, update=False)
    with pytest.raises(AssertionError, match="run pytest --snapshot-update"):
        compare(path, {"primal": {"rounds": 2}}, update=False)
    compare(path, {"primal": {"rounds": 2}}, update=True)
    compare(path, {"primal": {"rounds": 2}}, update=False)
