"""The GitHub Action and the pre-commit hook do what they say: their steps are run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[3]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
MODEL = """
import jax
import jax.numpy as jnp
import secfad as fad

@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def loss(w, x):
    return fad.mean(jnp.sum((fad.broadcast(w) - x) ** 2), name="loss")

@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def leak(w, x):
    return jnp.sum(w * x)

spec = jax.ShapeDtypeStruct((3,), "float32")
SPECS = {"loss": (spec, spec), "leak": (spec, spec)}
"""


# In place of secfad: says what it is asked, and judges by the name of the target.
STUB = """#!/bin/bash
echo "secfad $*"
case "$2" in *:leak) exit 1;; *:absent) exit 2;; esac
"""


@pytest.fixture
def project(tmp_path):
    """A folder with a model, and a `secfad` and a `python` on the path."""
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "bin").mkdir()
    for name, command in (("secfad", "-m audits.commands.cli"), ("python", "")):
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/bash\nexec "{sys.executable}" {command} "$@"\n')
        script.chmod(0o755)
    return tmp_path


def bash(project, script, **variables):
    """Runs a step as GitHub does; the exit code and what it wrote."""
    path = f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), **variables}
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    run = subprocess.run(shell, cwd=project, env=environment, capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


def certify(project, **inputs):
    """Runs the step that certifies, with the inputs that it declares."""
    step = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "certify")
    declared = {name: record.get("default", "") for name, record in ACTION["inputs"].items()}
    given = declared | {name.replace("_", "-"): value for name, value in inputs.items()}
    variables = {
        name: given[source.removeprefix("${{ inputs.").removesuffix(" }}")]
        for name, source in step["env"].items()
    }
    output = project / "output"
    code, said = bash(project, step["run"], GITHUB_OUTPUT=str(output), **variables)
    return code, said, output.read_text()


def test_the_action_is_composite_and_states_its_shells():
    assert ACTION["runs"]["using"] == "composite"
    assert all(step["shell"] == "bash" for step in ACTION["runs"]["steps"])
    # Inputs are the caller's text: they reach the shell as variables only.
    assert not any("${{" in step["run"] for step in ACTION["runs"]["steps"])


def test_the_action_installs_its_own_revision(project):
    step = next(step for step in ACTION["runs"]["steps"] if step["name"] == "Install")
    (project / "bin" / "python").write_text('#!/bin/bash\necho "$@"\n')
    code, said = bash(project, step["run"], GITHUB_ACTION_PATH="/act", PACKAGES="optax flax>=0.10")
    assert (code, said) == (0, "-m pip install --quiet /act optax flax>=0.10\n")
    assert bash(project, step["run"], GITHUB_ACTION_PATH="/act", PACKAGES="")[0] == 0


@pytest.mark.parametrize(
    ("targets", "expected"),
    [("m.py:loss", 0), ("m.py:loss m.py:leak", 1), ("m.py:leak\nm.py:absent\nm.py:loss", 2)],
)
def test_the_action_checks_every_target_and_ends_with_the_worst(project, targets, expected):
    (project / "bin" / "secfad").write_text(STUB)
    code, said, output = certify(project, targets=targets, mode="mixed", folder="out dir")
    assert code == expected
    assert output == "folder=out dir\n"
    for target in targets.split():
        name = target.replace(":", "_")
        reports = f"--format sarif --out out dir/{name}.sarif --certificate out dir/{name}.json"
        assert f"secfad certify {target} --mode mixed {reports}\n" in said
        annotated = f"secfad certify {target} --mode mixed --format github" in said
        assert annotated == (not target.endswith("absent"))


def test_without_targets_the_action_checks_the_project(project):
    (project / "bin" / "secfad").write_text(STUB)
    said = certify(project, folder="out")[1]
    sarif, github = said.splitlines()
    assert sarif == ("secfad certify --all --format sarif --out out/all.sarif --certificate out")
    assert github == "secfad certify --all --format github"


@pytest.mark.slow
def test_the_action_certifies_the_programs_of_a_project(project):
    programs = (
        f'[tool.secfad.programs.{name}]\ntarget = "model.py:{name}"\n' for name in ("loss", "leak")
    )
    (project / "pyproject.toml").write_text("".join(programs))
    code, said, _ = certify(project)
    assert code == 1, said
    assert "::error file=model.py,line=12" in said
    body = json.loads((project / "secfad-reports" / "all.sarif").read_text())
    assert {result["ruleId"] for result in body["runs"][0]["results"]} == {"FAD102"}
    assert [path.name for path in (project / "secfad-reports").glob("*.json")]


def test_the_action_can_treat_obligations_as_rejections(project):
    (project / "bin" / "secfad").write_text(STUB)
    for value, expected in (("true", True), ("false", False)):
        said = certify(project, targets="m.py:loss", error_on_caveat=value)[1]
        assert ("--error-on-caveat" in said) == expected


def test_the_action_does_not_run_what_a_target_says(project):
    (project / "bin" / "secfad").write_text(STUB)
    certify(project, targets="m.py:$(touch${IFS}hacked);touch${IFS}hacked", mode="`touch hacked`")
    assert not (project / "hacked").exists()


@pytest.mark.slow
def test_the_action_certifies_annotates_and_writes_reports(project):
    code, said, output = certify(project, targets="model.py:loss\nmodel.py:leak", mode="primal")
    assert code == 1
    assert "::error file=model.py,line=12" in said
    assert output == "folder=secfad-reports\n"
    reports = project / "secfad-reports"
    assert json.loads((reports / "model.py_loss.json").read_text())["subject"] == "loss"
    for name, count in (("loss", 0), ("leak", 1)):
        body = json.loads((reports / f"model.py_{name}.sarif").read_text())
        assert len(body["runs"][0]["results"]) == count
    assert not (reports / "model.py_leak.json").exists()


@pytest.mark.slow
def test_the_action_says_what_it_cannot_read(project):
    code, said, _ = certify(project, targets="model.py:absent", mode="primal")
    assert code == 2
    assert said.count("Expected a computation `absent`") == 1


def test_the_hook_is_installed_with_python_and_gets_no_files():
    (hook,) = HOOKS
    assert (hook["language"], hook["pass_filenames"]) == ("python", False)
    assert hook["entry"] == "secfad snapshot"


@pytest.mark.slow
def test_the_hook_compares_snapshots(project):
    (hook,) = HOOKS
    target = "model.py:loss --folder certificates --mode primal"
    code, said = bash(project, f"{hook['entry']} {target}")
    assert code == 1
    assert "--update" in said
    assert bash(project, f"{hook['entry']} {target} --update")[0] == 0
    assert bash(project, f"{hook['entry']} {target}")[0] == 0
