"""The README says what is run, and its example runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
)
GENERATED = re.compile(r"docs/(rules/|findings|reproductions)")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_continuous_integration_runs_the_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [block.strip() for block in blocks("sh")]
    assert commands == [
        "python3 -m venv .venv && . .venv/bin/activate",
        "pip install . && secfad run quickstart",
        "pip install -e '.[test]' && pytest",
    ]
    for command in commands[1:]:
        assert command in script
        for part in command.split(" && "):
            assert re.search(rf"^(.* && |time )?{re.escape(part)}( && .*)?$", script, re.MULTILINE)
    assert script.endswith('pytest -m "slow and not night"\n')


def test_the_example_runs_as_it_stands(tmp_path):
    [example] = blocks("python")
    (tmp_path / "example.py").write_text(example)
    run = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "released:" in run.stdout
    assert (tmp_path / "ledger.db").exists()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def prose(text):
    """The lines of a page outside code, tables and the targets of links."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\n\n {4,}[^\n]*(\n {4,}[^\n]*)*", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    # A line of one word, such as the name of a test, cannot be broken.
    return [line for line in text.splitlines() if not line.startswith("|") and " " in line.strip()]


@pytest.mark.parametrize("page", [page for page in PAGES if not GENERATED.match(page)])
def test_lines_of_prose_are_at_most_100_characters_wide(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [line for line in prose(text) if len(line) > 100] == []
