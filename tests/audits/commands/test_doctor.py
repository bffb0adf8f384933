"""`secfad doctor` names what is wrong with an installation, with the remedy."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from audits.commands.doctor import Check, examined

ROOT = Path(__file__).parents[3]


def wrong(folder):
    return {check.what: check for check in examined(folder) if check.remedy}


def test_this_installation_is_in_order(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text, _ = command("doctor")
    assert code == 0, text
    for word in (
        "Python",
        "jax ",
        "jaxlib",
        "numpy",
        "cryptography",
        "dp-accounting",
        "extra test",
    ):
        assert word in text
    assert jax.__version__ in text
    assert "cpu:0" in text


@pytest.mark.parametrize("name", ["privacy.py", "audits.py", "secagg", "secfad"])
def test_a_file_that_hides_a_package_is_named(command, tmp_path, monkeypatch, name):
    path = tmp_path / name
    if path.suffix:
        path.touch()
    else:
        path.mkdir()
        (path / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    code, text, _ = command("doctor")
    assert code == 1
    assert f"has {name}" in text
    assert "Rename it" in text


def test_a_folder_without_an_init_and_the_repository_itself_hide_nothing(tmp_path):
    (tmp_path / "privacy").mkdir()
    assert not wrong(tmp_path)
    assert not wrong(ROOT)


@pytest.mark.parametrize("version", [None, "0.4.1"])
def test_a_missing_or_old_library_is_named_with_its_command(tmp_path, monkeypatch, version):
    original = importlib.metadata.version

    def other(name):
        if name != "numpy":
            return original(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", other)
    found = wrong(tmp_path)["numpy"]
    assert found.found == (version or "not installed")
    assert "pip install 'numpy>=2.0'" in found.remedy


def test_devices_that_cannot_be_used_are_named(tmp_path, monkeypatch):
    def failing():
        raise RuntimeError("no such platform\nmore")

    monkeypatch.setattr(jax, "devices", failing)
    found = wrong(tmp_path)["devices"]
    assert found.found == "RuntimeError: no such platform"
    assert "JAX_PLATFORMS=cpu" in found.remedy


def test_a_check_is_one_line_and_its_remedy_another():
    assert str(Check("numpy", "2.0")) == "ok     numpy           2.0"
    assert str(Check("numpy", "1.0", "Do this.")).splitlines()[1].strip() == "Do this."


def test_the_version_and_short_help(command):
    assert command("--version")[1].startswith("secfad ")
    for words in ((), ("certify",), ("ledger",), ("ledger", "show")):
        code, text, _ = command(*words, "-h")
        assert code == 0
        assert "Usage" in text


def test_a_shell_completes_commands():
    words = {"COMP_WORDS": "secfad led", "COMP_CWORD": "1", "_SECFAD_COMPLETE": "complete_bash"}
    run = subprocess.run(
        [sys.executable, "-m", "audits.commands.cli"],
        cwd=ROOT,
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.split() == ["ledger"], run.stderr


@pytest.mark.parametrize("package", ["privacy", "audits"])
def test_windows_is_refused_in_one_sentence(package):
    program = f"import sys; sys.platform = 'win32'; import {package}"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("ImportError: privacy expected Linux or macOS, got Windows")
    assert "Windows Subsystem for Linux" in last


def test_the_other_packages_do_not_ask_for_an_operating_system():
    program = "import sys, jax, sqlite3, cryptography.hazmat.primitives.asymmetric.x25519; "
    program += "sys.platform = 'win32'; import secfad, secagg"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
