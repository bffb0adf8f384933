import runpy
import sys
from pathlib import Path

import pytest

from audits.commands import cli

FLOW = Path(__file__).parents[2] / "flow" / "conftest.py"


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `secfad ...` in this process: exit code, output, messages."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["secfad", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def tiny_config(tmp_path):
    """Writes the tiny configuration of the flow tests with one text replaced."""
    text = runpy.run_path(str(FLOW))["TINY"]

    def write(old, new):
        assert old in text
        path = tmp_path / "config.toml"
        path.write_text(text.replace(old, new, 1))
        return path

    return write
