"""`secfad certify --all`, baselines and `secfad accept`: what a project declares, accepts and knows."""

import dataclasses
import json

import pytest

from audits.commands.baselines import counted, known_findings
from audits.commands.projects import Project
from audits.commands.targets import UnusableInput
from audits.rules.findings import Facts, Report, finding
from privacy.certificates.certificates import Certificate

MODEL = """
import jax
import jax.numpy as jnp
import secfad as fad

@fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
def loss(model, batch):
    return fad.mean(jnp.sum((batch - fad.broadcast(model)) ** 2), name="loss")

@fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
def asks_twice(model, batch):
    return jnp.sum(jnp.tanh(fad.mean(jnp.sin(fad.broadcast(model) * batch), name="total")))

@fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
def leaky(model, batch):
    return fad.mean(jnp.sum((batch - model) ** 2))

spec = jax.ShapeDtypeStruct((3,), "float32")
SPECS = {name: (spec, spec) for name in ("loss", "asks_twice", "leaky")}
"""
GOOD = """
[tool.secfad.programs.loss]
target = "model.py:loss"
modes = ["forward"]

[tool.secfad.programs.private]
target = "model.py:loss"
mechanism = {clip_norm = {loss = 0.5}, noise_multiplier = 1.2}

[tool.secfad.programs.twice]
target = "model.py:asks_twice"
modes = "reverse"
wrt = ["model"]
"""
LEAKY = (
    GOOD
    + """
[tool.secfad.programs.leaky]
target = "model.py:leaky"
modes = ["primal"]
"""
)
ACCEPT = ("--reason", "clients stay online", "--by", "A. Doe")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes pyproject.toml and model.py to a folder, and goes there."""
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)

    def write(table):
        (tmp_path / "pyproject.toml").write_text(table)
        return tmp_path

    return write


def test_all_programs_are_certified_each_with_its_certificate(command, project):
    folder = project(GOOD)
    code, out, err = command("certify", "--all", "--certificate", "c", "--bundle", "b")
    assert code == 0, out + err
    found = {p.stem: Certificate.from_json(p.read_text()) for p in (folder / "c").iterdir()}
    assert {name: (sorted(c.digests), c.profile) for name, c in found.items()} == {
        "loss": (["forward", "primal"], "secagg"),
        "private": (["primal"], "secagg+dp"),
        "twice": (["primal", "reverse"], "secagg"),
    }
    for name in found:
        assert command("verify", f"c/{name}.json", "--program", name)[0] == 0
        assert command("verify", f"b/{name}.secfad")[0] == 0
    assert command("verify", "c/loss.json", "--program", "twice")[0] == 1


def test_project_is_found_from_a_folder_below(command, project, monkeypatch):
    (project(GOOD) / "below").mkdir()
    monkeypatch.chdir("below")
    assert command("certify", "--all")[0] == 0


def test_one_sarif_has_the_findings_of_all_programs(command, project):
    project(LEAKY)
    code, out, _ = command("certify", "--all", "--format", "sarif")
    assert code == 1
    (run,) = json.loads(out)["runs"]
    found = {(r["properties"]["program"], r["ruleId"]) for r in run["results"]}
    assert ("leaky", "FAD102") in found
    assert ("twice", "FAD306") in found
    assert all("baselineState" not in r for r in run["results"])


@pytest.mark.parametrize("format", ["text", "json", "html", "github"])
def test_every_format_names_every_program(command, project, format):
    project(LEAKY)
    code, out, _ = command("certify", "--all", "--format", format)
    assert code == 1
    assert "FAD102" in out
    assert "leaky" in out
    if format == "json":
        assert list(json.loads(out)) == ["loss", "private", "twice", "leaky"]


def test_rejected_program_gets_no_certificate_and_the_others_do(command, project):
    folder = project(LEAKY)
    assert command("certify", "--all", "--certificate", "c")[0] == 1
    assert sorted(p.stem for p in (folder / "c").iterdir()) == ["loss", "private", "twice"]


def test_declared_mechanism_is_compared_with_that_of_a_certificate(command, project):
    """What a table declares is believed, not what a certificate says of itself."""
    folder = project(GOOD)
    assert command("certify", "--all", "--certificate", "c")[0] == 0
    assert command("verify", "c/loss.json", "--program", "private")[0] == 1
    for old, new in (("1.2", "1.3"), ("0.5", "0.6"), ("1.2}", '1.2}\npurpose = "evaluation"')):
        (folder / "pyproject.toml").write_text(GOOD.replace(old, new))
        code, _, err = command("verify", "c/private.json", "--program", "private")
        assert code == 1
        assert "FAD006" in err
    code, out, _ = command("verify", "c/private.json", "--program", "model.py:loss")
    assert code == 0
    assert "stated mechanism: gaussian, clip norm {'loss': 0.5}, noise multiplier 1.2" in out


# Baselines.


def test_known_findings_do_not_fail_and_new_ones_do(command, project):
    folder = project(LEAKY)
    options = ("certify", "--all", "--baseline", "known.json")
    code, out, err = command(*options, "--update-baseline", "--certificate", "c")
    assert code == 0, out + err
    assert "known from the baseline" in out
    assert not (folder / "c" / "leaky.json").exists()  # known is not certified
    assert command("certify", "--all")[0] == 1
    moved = MODEL.replace("@fad.computation", "\n\n@fad.computation")
    (folder / "model.py").write_text(moved)
    assert command(*options)[0] == 0
    again = "    x = fad.sum(model * batch)\n    return fad.mean(jnp.sum((batch - model) ** 2)) + x"
    (folder / "model.py").write_text(
        MODEL.replace("    return fad.mean(jnp.sum((batch - model) ** 2))", again)
    )
    code, out, _ = command(*options, "--format", "sarif")
    assert code == 1
    states = [r["baselineState"] for r in json.loads(out)["runs"][0]["results"]]
    assert {"new", "unchanged"} == set(states)


def test_baseline_of_the_table_is_used(command, project):
    project('[tool.secfad]\nbaseline = "known.json"\n' + LEAKY)
    code, out, _ = command("certify", "--all")
    assert code == 2
    assert "Expected a baseline in" in out
    assert command("certify", "--all", "--update-baseline", "--baseline", "known.json")[0] == 0
    assert command("certify", "--all")[0] == 0


def test_baseline_knows_a_line_as_often_as_it_was_there():
    one = finding("FAD103", primitive="reduce_max", where="1")
    two = dataclasses.replace(one, where="2")
    before, after = (Report("reject", found, Facts()) for found in ((one,), (one, two)))
    known = counted({"p": {"primal": before}})
    assert known_findings({"p": {"primal": before}}, known) == {"p": {("primal", 0)}}
    assert known_findings({"p": {"primal": after}}, known) == {"p": {("primal", 0)}}
    assert known_findings({"q": {"primal": before}}, known) == {"q": frozenset()}
    assert known_findings({"p": {"forward": before}}, known) == {"p": frozenset()}


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"program": "p"}]', '[{"count": "2"}]'])
def test_damaged_baseline_is_exit_code_2(command, project, text):
    folder = project(GOOD)
    (folder / "known.json").write_text(text)
    code, out, _ = command("certify", "--all", "--baseline", "known.json")
    assert code == 2
    assert "Expected a baseline in" in out


# Acceptances.


def test_accepted_obligation_passes_and_is_in_the_certificate(command, project):
    folder = project(GOOD)
    strict = ("certify", "--all", "--error-on-caveat", "--certificate", "c")
    assert command(*strict)[0] == 1
    assert not (folder / "c" / "twice.json").exists()
    code, out, err = command("accept", "fad306", *ACCEPT, "--date", "2026-11-30")
    assert code == 0, out + err
    assert "model.py:asks_twice: FAD306 accepted by A. Doe on 2026-11-30" in out
    left = {r for r in ("FAD414", "FAD705") if r in command("certify", "--all")[1]}
    for rule in left:
        assert command("accept", rule, *ACCEPT, "--program", "twice")[0] == 0
    code, out, _ = command(*strict)
    assert code == 0, out
    assert out.count("FAD306 was accepted by A. Doe on 2026-11-30: clients stay online") == 1
    found = Certificate.from_json((folder / "c" / "twice.json").read_text())
    assert "FAD306" in [o.rule for o in found.obligations]
    assert "A. Doe" in [a.by for a in found.acceptances]
    code, out, _ = command("verify", "c/twice.json", "--program", "twice")
    assert code == 0
    assert "accepted by A. Doe" in out


def test_bundle_says_who_accepted_what(command, project):
    folder = project(GOOD)
    reason = ("--reason", "clients <stay> online", "--by", "A. Doe", "--date", "2026-11-30")
    assert command("accept", "FAD306", *reason)[0] == 0
    assert command("certify", "--all", "--bundle", "b")[0] == 0
    said = "FAD306 was accepted by A. Doe on 2026-11-30: clients <stay> online"
    assert said in command("explain", "b/twice.secfad")[1]
    assert "accepted by A. Doe" in command("verify", "b/twice.secfad")[1]
    assert command("explain", "b/twice.secfad", "--html", "page.html")[0] == 0
    assert "clients &lt;stay&gt; online" in (folder / "page.html").read_text()
    assert "accepted by" not in command("explain", "b/loss.secfad")[1]


def test_acceptance_is_one_of_a_program_and_of_its_words(command, project):
    folder = project(GOOD)
    assert command("accept", "FAD306", *ACCEPT, "--program", "twice")[0] == 0
    file = folder / "secfad-acceptances.json"
    (item,) = json.loads(file.read_text())
    assert item["program"] == "model.py:asks_twice"
    strict = ("certify", "model.py:asks_twice", "--mode", "reverse", "--error-on-caveat")
    assert command(*strict)[0] == 0
    for change in ({"program": "model.py:loss"}, {"text": "other words"}, {"rule": "FAD705"}):
        file.write_text(json.dumps([item | change]))
        assert command(*strict)[0] == 1


def test_rejection_cannot_be_accepted(command, project):
    folder = project(LEAKY)
    code, out, _ = command("accept", "FAD102", *ACCEPT, "--program", "leaky")
    assert code == 1
    assert "leaky is rejected" in out
    assert not (folder / "secfad-acceptances.json").exists()
    _, out, _ = command("certify", "model.py:leaky", "--format", "json")
    (item,) = json.loads(out)["primal"]["findings"]
    words = {"rule": item["rule"], "text": item["message"]}
    forged = words | {"reason": "x", "by": "y", "date": "2026-11-30"}
    (folder / "secfad-acceptances.json").write_text(
        json.dumps([forged | {"program": "model.py:leaky"}])
    )
    assert command("certify", "model.py:leaky", "--certificate", "c.json")[0] == 1
    assert not (folder / "c.json").exists()


def test_accepted_obligation_is_suppressed_in_sarif(command, project):
    project(GOOD)
    assert command("accept", "FAD306", *ACCEPT)[0] == 0
    _, out, _ = command("certify", "--all", "--format", "sarif")
    results = json.loads(out)["runs"][0]["results"]
    (found,) = [r for r in results if r["ruleId"] == "FAD306"]
    assert found["suppressions"][0]["status"] == "accepted"
    assert "A. Doe" in found["suppressions"][0]["justification"]


def test_annotations_of_what_is_accepted_or_known_are_notices(command, project):
    project(LEAKY)
    asked = ("certify", "--all", "--format", "github")
    _, before, _ = command(*asked)
    assert "::error file=model.py" in before
    assert "FAD306 same-cohort (twice%2C reverse)" in before
    assert command("accept", "FAD306", *ACCEPT)[0] == 0
    assert command(*asked, "--baseline", "known.json", "--update-baseline")[0] == 0
    code, after, _ = command(*asked, "--baseline", "known.json")
    assert code == 0
    assert len(after.splitlines()) == len(before.splitlines())
    assert all(line.startswith("::notice ") for line in after.splitlines())
    assert "accepted by A. Doe" in after


def test_second_acceptance_of_a_person_takes_the_place_of_the_first(command, project):
    folder = project(GOOD)
    for reason in ("first", "second"):
        asked = ("accept", "FAD306", "--by", "A. Doe", "--reason", reason)
        assert command(*asked, "--program", "model.py:asks_twice")[0] == 0
    (item,) = json.loads((folder / "secfad-acceptances.json").read_text())
    assert item["reason"] == "second"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["FAD999", *ACCEPT], "Expected a rule of an obligation, such as FAD306, got 'FAD999'"),
        (["FAD305", *ACCEPT], "which is a note"),
        (["FAD204", *ACCEPT], "got none that has it"),
        (["FAD306", *ACCEPT, "--program", "loss"], "got none that has it"),
        (["FAD306", *ACCEPT, "--program", "absent"], "Expected FILE.py:NAME"),
        (["FAD306", *ACCEPT, "--date", "today"], "a day as YYYY-MM-DD"),
        (["FAD306", "--reason", " ", "--by", "A. Doe"], "one line of text as `reason`"),
        (["FAD306", "--by", "A. Doe"], "--reason"),
        (["FAD306", "--reason", "x"], "--by"),
    ],
)
def test_wrong_acceptance_is_exit_code_2(command, project, arguments, words):
    folder = project(GOOD)
    code, out, err = command("accept", *arguments)
    assert code == 2
    assert words in out + err
    assert not (folder / "secfad-acceptances.json").exists()


def test_program_must_be_named_if_several_have_the_rule(command, project):
    folder = project(GOOD + '[tool.secfad.programs.again]\ntarget = "model.py:asks_twice"\n')
    code, out, err = command("accept", "FAD306", *ACCEPT)
    assert code == 2
    assert "got twice, again. Name one with --program" in out + err
    assert command("accept", "FAD306", *ACCEPT, "--program", "model.py:asks_twice")[0] == 0
    assert len(json.loads((folder / "secfad-acceptances.json").read_text())) == 1


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[{}]", '[{"rule": "FAD306"}]'])
def test_damaged_acceptances_are_exit_code_2(command, project, text):
    folder = project(GOOD)
    (folder / "secfad-acceptances.json").write_text(text)
    assert command("certify", "--all")[0] == 2
    assert (folder / "secfad-acceptances.json").read_text() == text


# The table.


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("[tool.secfad", "Expected TOML"),
        ("[tool]\nsecfad = 1", "a table in tool.secfad"),
        ("[tool.secfad]\nbase = 1", "keys among"),
        ("[tool.secfad]\nbaseline = 1", "a str in `baseline`"),
        ("[tool.secfad]\nrefuse_obligations = 1", "a bool in `refuse_obligations`"),
        ("[tool.secfad.programs]\nloss = 1", "a table in tool.secfad.programs.loss"),
        ("[tool.secfad.programs.loss]\nmodes = []", "a target, such as"),
        ('[tool.secfad.programs.loss]\ntarget = "model"', "Expected FILE.py:NAME"),
        ('[tool.secfad.programs.loss]\ntarget = "model.py:loss"\nmode = "all"', "keys among"),
        ('[tool.secfad.programs.loss]\ntarget = "model.py:loss"\nmodes = [1]', "a list of names"),
        ('[tool.secfad.programs.loss]\ntarget = "model.py:loss"\nmodes = ["x"]', "modes among all"),
        ('[tool.secfad.programs.loss]\ntarget = "model.py:loss"\nstyle = "x"', "a style of native"),
        ('[tool.secfad.programs.loss]\ntarget = "m.py:f"\nmechanism = 1', "a table as `mechanism`"),
        (
            '[tool.secfad.programs.loss]\ntarget = "m.py:f"\nmechanism = {}',
            "a mechanism of gaussian",
        ),
        (
            '[tool.secfad.programs.loss]\ntarget = "m.py:f"\n'
            'mechanism = {kind = "laplace", clip_norm = 1, noise_multiplier = 1}',
            "a mechanism of gaussian, skellam",
        ),
        (
            '[tool.secfad.programs.loss]\ntarget = "m.py:f"\n'
            "mechanism = {clip_norm = 0, noise_multiplier = 1}",
            "clip_norm",
        ),
    ],
)
def test_wrong_table_is_refused_with_its_name(command, project, table, words):
    folder = project(table)
    with pytest.raises(UnusableInput, match=r"pyproject\.toml|tool\.secfad") as raised:
        Project.find(folder)
    assert words in str(raised.value)
    assert command("certify", "--all")[0] == 2


def test_project_without_programs_says_what_to_write(command, project):
    project("[tool.other]\n")
    code, out, _ = command("certify", "--all")
    assert code == 2
    assert "Expected programs in [tool.secfad.programs]" in out
