"""The acceptance list of docs/secagg-spec.md and the tests name each other."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
SPECIFICATION = DOCS / "secagg-spec.md"
TESTS = sorted(HERE.rglob("test_*.py"))
DECISIONS = [*DOCS.glob("decisions/*secagg*.md")]
ROW = re.compile(r"^\| ([DSCEPK]\d+) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"^def test_([dscepk]\d+)_", re.MULTILINE)
CITED = re.compile(r"\b([DSCEPK])(\d+)(?: to \1(\d+))?\b")


def rows_of_the_list() -> dict[str, set[str]]:
    """The files of tests that each row of the list names."""
    rows = ROW.findall(SPECIFICATION.read_text())
    assert len(rows) == len({number for number, _ in rows})
    return {number: set(re.findall(r"`([^`]+)`", files)) for number, files in rows}


def rows_of_the_tests() -> dict[str, set[str]]:
    """The files that hold a test named after each row."""
    found: dict[str, set[str]] = {}
    for path in TESTS:
        for number in TEST.findall(path.read_text()):
            found.setdefault(number.upper(), set()).add(str(path.relative_to(HERE)))
    return found


def test_every_row_has_the_tests_it_names_and_every_numbered_test_has_a_row():
    assert rows_of_the_list() == rows_of_the_tests()


def test_every_row_that_is_cited_stands_in_the_list():
    rows = set(rows_of_the_list())
    docstrings = {path: ast.get_docstring(ast.parse(path.read_text())) for path in TESTS}
    decisions = {path: path.read_text() for path in DECISIONS}
    for path, text in (docstrings | decisions).items():
        for letter, first, last in CITED.findall(text or ""):
            assert {f"{letter}{first}", f"{letter}{last or first}"} <= rows, path
