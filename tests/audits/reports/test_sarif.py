"""SARIF reports follow the standard, and their files can be found by a code host."""

import json
from pathlib import Path

import jsonschema
import pytest
from corpus_programs import CASES
from verdicts import judged

from audits.reports.github import render_github
from audits.reports.locations import uri_of
from audits.reports.reviews import Review
from audits.reports.sarif import render_sarif

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DrJAX asks for an old mesh
# Reduced by hand from the OASIS schema to what we write; it says so itself.
SCHEMA = json.loads((Path(__file__).parents[1] / "data" / "sarif-2.1.0-reduced.json").read_text())
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def reports():
    return {f"{case.mode} of {case.name}": judged(case) for case in CASES}


def test_reports_of_the_corpus_follow_the_schema(reports):
    said = {(f.rule, f.message): "x" for report in reports.values() for f in report.findings}
    for reviews in ({}, {"corpus": Review(said, frozenset())}):
        body = json.loads(render_sarif({"corpus": reports}, reviews, root=ROOT))
        jsonschema.validate(body, SCHEMA, cls=jsonschema.Draft7Validator)
    results = body["runs"][0]["results"]
    assert len(results) > 10
    assert any("codeFlows" in r for r in results)
    assert any("suppressions" in r for r in results)


def test_schema_refuses_what_the_standard_refuses(reports):
    body = json.loads(render_sarif({"corpus": reports}, root=ROOT))
    result = body["runs"][0]["results"][0]
    for broken in (
        result | {"level": "fatal"},
        result | {"kind": "accept"},
        {k: v for k, v in result.items() if k != "message"},
        result | {"ruleIndex": -2},
    ):
        body["runs"][0]["results"] = [broken]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body, SCHEMA)


def test_files_of_the_repository_have_relative_references(reports):
    body = json.loads(render_sarif({"corpus": reports}, root=ROOT))
    uris = {
        place["physicalLocation"]["artifactLocation"]["uri"]
        for result in body["runs"][0]["results"]
        for place in result.get("locations", ())
    }
    assert "tests/audits/corpus_mixing.py" in uris
    assert "file=tests/audits/corpus_mixing.py,line=" in render_github(reports, root=ROOT)


@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("/repo/a b.py", "a%20b.py"),
        ("/elsewhere/ä.py", "file:///elsewhere/%C3%A4.py"),
        ("<cell>", "%3Ccell%3E"),
        ("model.py", "model.py"),
    ],
)
def test_reference_to_a_file_is_a_uri(file, uri):
    assert uri_of(file, Path("/repo")) == uri
