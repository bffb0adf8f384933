"""What users, files and continuous integration of others rely on; a change here is a change for them.

`public_surface.json` is the list. Whoever adds a name adds it there, and to the changelog.
"""

import ast
import json
import sqlite3
from pathlib import Path

import pytest
import typer

import audits
import privacy
import secagg
import secfad
from audits.commands.cli import app
from audits.rules.catalogue import RULES
from privacy.certificates.certificates import specimen

LISTED = json.loads(Path(__file__).with_name("public_surface.json").read_text())


def commands(command, words=()):
    """Every command with its options and arguments."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from commands(inner, (*words, name))
    else:
        yield " ".join(words), sorted(o for p in command.params for o in p.opts)


def tables(folder):
    """Every table of a ledger with its columns."""
    slots = [privacy.Slot("training", 1.0, 1.0, 1)]
    path = folder / "ledger.db"
    privacy.Ledger.create(path, privacy.Budget(8.0, 1e-5), population=10, slots=slots).close()
    with sqlite3.connect(path) as file:
        names = file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        found = {n: [row[1] for row in file.execute(f"PRAGMA table_info({n})")] for (n,) in names}
    file.close()
    return found


def public(module):
    names = (n for n in vars(module) if not n.startswith("_"))
    return sorted(n for n in names if type(getattr(module, n)).__name__ != "module")


FOUND = {
    "secfad": lambda _: public(secfad),
    "secagg": lambda _: sorted(secagg.__all__),
    "privacy": lambda _: sorted(privacy.__all__),
    "audits": lambda _: sorted(audits.__all__),
    "command line": lambda _: dict(commands(typer.main.get_command(app))),
    "rules": lambda _: {key: rule.name for key, rule in RULES.items()},
    "certificate": lambda _: sorted(json.loads(specimen().to_json())),
    "ledger": tables,
}


@pytest.mark.parametrize("part", FOUND)
def test_what_others_rely_on_is_as_listed(part, tmp_path):
    assert FOUND[part](tmp_path) == LISTED[part]


@pytest.mark.parametrize("package", [secagg, privacy, audits])
def test_every_public_name_exists(package):
    assert all(hasattr(package, name) for name in package.__all__)


@pytest.mark.parametrize("package", [privacy, audits])
def test_names_that_are_loaded_on_first_use_have_their_types(package):
    tree = ast.parse(Path(package.__file__).read_text())
    branches = [node for node in tree.body if isinstance(node, ast.If)]
    imported = [
        n for b in branches for f in b.body if isinstance(f, ast.ImportFrom) for n in f.names
    ]
    assert sorted(str(n.asname) for n in imported) == sorted(package.__all__)
