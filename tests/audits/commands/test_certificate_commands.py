"""`secfad certify --sign`, `verify`, `snapshot` and `new-key`: what they accept, refuse and write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from audits.commands import cli

ROOT = Path(__file__).parents[3]
MODEL = """
import jax
import jax.numpy as jnp
import privacy
import secfad as fad

@fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
def loss(model, batch):
    sent = fad.broadcast(model, name="model")
    return fad.mean(jnp.sum((batch - sent) ** 2), name="loss")

@fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
def leaky(model, batch):
    return fad.mean(jnp.sum((batch - model) ** 2))

@fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
def asks_twice(model, batch):
    return jnp.sum(jnp.tanh(fad.mean(jnp.sin(fad.broadcast(model) * batch))))

spec = jax.ShapeDtypeStruct((3,), "float32")
SPECS = {"loss": (spec, spec), "leaky": (spec, spec), "asks_twice": (spec, spec)}
mechanism = privacy.Gaussian(noise_multiplier=1.0, clip_norm=0.5)
private = privacy.privatize(loss, spec, spec, mechanism=mechanism)
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def keys(command, tmp_path):
    assert command("new-key", tmp_path / "ci.pem")[0] == 0
    return tmp_path / "ci.pem", tmp_path / "ci.pem.pub"


def certified(command, model, out, *options, name="loss"):
    code, text, message = command(
        "certify", f"{model}:{name}", "--mode", "forward", "--certificate", out, *options
    )
    assert code == 0, text + message
    return out


def test_signed_certificate_is_verified_and_its_proof_re_checked(command, model, keys, tmp_path):
    out = certified(command, model, tmp_path / "c.json", "--sign", keys[0])
    assert json.loads(out.read_text())["payloadType"] == "application/vnd.in-toto+json"
    code, text, _ = command("verify", out, "--key", keys[1], "--program", f"{model}:loss")
    assert code == 0
    assert text.count("proof re-checked") == 2
    assert "2 or more clients" in text


def test_private_program_is_verified_with_its_mechanism(command, model, tmp_path):
    out = certified(command, model, tmp_path / "c.json", name="private")
    assert command("verify", out, "--program", f"{model}:private")[0] == 0
    model.write_text(MODEL.replace("noise_multiplier=1.0", "noise_multiplier=0.5"))
    code, _, message = command("verify", out, "--program", f"{model}:private")
    assert code == 1
    assert "FAD006" in message


def test_certificate_of_another_program_is_refused(command, model, tmp_path):
    out = certified(command, model, tmp_path / "c.json")
    assert command("verify", out, "--program", f"{model}:loss")[0] == 0
    model.write_text(MODEL.replace("** 2", "** 4"))
    code, _, message = command("verify", out, "--program", f"{model}:loss")
    assert code == 1
    assert "FAD006" in message


def test_altered_evidence_is_refused(command, model, tmp_path):
    out = certified(command, model, tmp_path / "c.json")
    body = json.loads(out.read_text())
    letters = body["evidence"]["primal"][""]
    body["evidence"]["primal"][""] = "S" * len(letters)
    out.write_text(json.dumps(body))
    code, _, message = command("verify", out, "--program", f"{model}:loss")
    assert code == 1
    assert message.startswith("VerificationError")


def test_key_and_form_must_agree(command, model, keys, tmp_path):
    plain = certified(command, model, tmp_path / "plain.json")
    signed = certified(command, model, tmp_path / "signed.json", "--sign", keys[0])
    command("new-key", tmp_path / "other")
    for arguments in (
        (plain, "--key", keys[1]),
        (signed,),
        (signed, "--key", tmp_path / "other.pub"),
    ):
        code, _, message = command("verify", *arguments)
        assert code == 1
        assert message.startswith("SignatureRefused")
    damaged = tmp_path / "damaged.json"
    damaged.write_text(signed.read_text()[:-9])
    code, _, message = command("verify", damaged)
    assert code == 1
    assert message.startswith("CertificateMalformed")


def test_unusable_keys_are_exit_code_2(command, model, keys, tmp_path):
    target = f"{model}:loss"
    assert command("certify", target, "--sign", keys[0])[0] == 2
    out = tmp_path / "c.json"
    for bad in (keys[1], tmp_path / "absent"):
        code, text, _ = command("certify", target, "--certificate", out, "--sign", bad)
        assert (code, out.exists()) == (2, False), text
    assert command("verify", certified(command, model, out), "--key", keys[0])[0] == 2
    assert command("verify", tmp_path / "absent")[0] == 2
    assert command("new-key", keys[0])[0] == 2


def test_caveats_can_count_as_rejections(command, model):
    target = f"{model}:asks_twice"
    assert command("certify", target, "--mode", "reverse")[0] == 0
    assert command("certify", target, "--mode", "reverse", "--error-on-caveat")[0] == 1


def test_snapshot_is_written_compared_and_its_change_shown(command, model, tmp_path):
    folder = tmp_path / "facts"
    check = ("snapshot", f"{model}:loss", "--folder", folder, "--mode", "forward")
    code, text, _ = command(*check)
    assert code == 1
    assert "--update" in text
    assert command(*check, "--update")[0] == 0
    assert command(*check) == (0, "", "")
    model.write_text(MODEL.replace('name="model"', 'name="weights"'))
    code, text, _ = command(*check)
    assert code == 1
    assert '+      "broadcast weights float32[3] phase 0 x 1",' in text


def test_snapshot_of_a_rejected_program_is_not_written(command, model, tmp_path):
    folder = tmp_path / "facts"
    code, text, _ = command("snapshot", f"{model}:leaky", "--folder", folder, "--update")
    assert code == 1
    assert "FAD102" in text
    assert not folder.exists()
    assert command("snapshot", f"{model}:absent", "--folder", folder)[0] == 2


def test_hook_of_pre_commit_runs_the_snapshot_command():
    lines = (ROOT / ".pre-commit-hooks.yaml").read_text().splitlines()
    hook = dict(line.lstrip("- ").split(": ", 1) for line in lines)
    words = hook["entry"].split()
    assert words[0] == "secfad"
    assert words[1] in {c.callback.__name__ for c in cli.app.registered_commands}
    assert (hook["language"], hook["pass_filenames"]) == ("python", "false")


def test_help_and_explanations_do_not_import_jax():
    script = (
        "import sys; from typer.testing import CliRunner; from audits.commands.cli import app\n"
        "for words in (['--help'], ['certify', '--help'], ['certify', '--explain', 'FAD102']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0, words\n"
        "assert 'jax' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
