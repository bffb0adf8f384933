"""The verifier runs where neither JAX nor secfad can be imported, on the form that another made."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import audits
import privacy
import secfad as fad
from audits.certifying import check_modes, issue
from privacy.certificates.keys import new_key_files, read_signing_key

ROOT = Path(__file__).parents[3]
FORBIDDING = """
import sys


class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "secfad"):
            raise ImportError(f"{name} must not be imported")


sys.meta_path.insert(0, Forbidden())
"""


def alone(script, *arguments):
    """Runs a script in a process in which importing JAX or secfad raises."""
    return subprocess.run(
        [sys.executable, "-c", FORBIDDING + script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


VERIFYING = """
import audits
from pathlib import Path
from privacy.certificates.certificates import Certificate

certificate = Certificate.from_json(Path(sys.argv[1]).read_text())
audits.verify(certificate, Path(sys.argv[2]).read_text())
print("verified")
"""


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def loss(w, x):
    def step(w, _):
        return w - 0.1 * fad.mean(jax.grad(lambda v: jnp.sum((v - x) ** 2))(fad.broadcast(w))), None

    return jax.lax.scan(step, w, None, length=3)[0]


SPEC = jax.ShapeDtypeStruct((3,), jnp.float32)
MECHANISM = privacy.Gaussian(noise_multiplier=1.0, clip_norm=0.5)


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_a_certificate_is_verified_without_jax(tmp_path, private):
    subject = privacy.privatize(loss, SPEC, SPEC, mechanism=MECHANISM) if private else loss
    program = subject.program if private else fad.trace(loss, SPEC, SPEC)
    issued = audits.certify(subject) if private else audits.certify(loss, SPEC, SPEC)
    (tmp_path / "c.json").write_text(issued.to_json())
    (tmp_path / "p.json").write_text(program.canonical)
    done = alone(VERIFYING, tmp_path / "c.json", tmp_path / "p.json")
    assert done.stdout == "verified\n", done.stderr
    (tmp_path / "p.json").write_text(program.canonical.replace("0.1", "0.2"))
    done = alone(VERIFYING, tmp_path / "c.json", tmp_path / "p.json")
    assert "FAD006" in done.stderr


COMMAND = """
from audits.commands.cli import main

sys.argv = ["secfad", *sys.argv[1:]]
main()
"""


def test_commands_about_bundles_need_no_jax(tmp_path):
    file, key = tmp_path / "loss.secfad", tmp_path / "key.pem"
    private, public = new_key_files(key)
    results = check_modes(loss, SPEC, SPEC, modes=("primal", "mixed"))
    signed = audits.sign(issue(loss, results), read_signing_key(private))
    file.write_text(audits.Bundle.of(signed, {m: p for m, (_, p) in results.items()}).to_json())
    verified = alone(COMMAND, "verify", file, "--key", public)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.count("proof checked") == 2
    assert "by the trusted key" in verified.stdout
    explained = alone(COMMAND, "explain", file)
    assert "not a privacy claim" in explained.stdout
    written = alone(COMMAND, "explain", file, "--html", tmp_path / "page.html")
    assert written.returncode == 0, written.stderr
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    other, _ = new_key_files(tmp_path / "other.pem")
    refused = alone(COMMAND, "verify", file, "--key", f"{other}.pub")
    assert refused.returncode == 1
    file.write_text(file.read_text().replace("federated_sum", "federated_clip"))
    damaged = alone(COMMAND, "verify", file, "--key", public)
    assert (damaged.returncode, damaged.stdout) == (1, "")
    assert "FAD006" in damaged.stderr


def test_the_forbidding_process_forbids():
    assert "must not be imported" in alone("import secfad").stderr
