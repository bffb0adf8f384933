"""Locations in source files: parses `file:line (function)` and reads the line.

>>> parse("model.py:7:4 (step)")
Location(file='model.py', line=7, column=4, function='step')
"""

import linecache
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote


class Location(NamedTuple):
    """A location in a source file; line and column start at one and are zero if unknown."""

    file: str
    line: int
    column: int
    function: str


_FORM = re.compile(
    r"^(?P<file>.*?):(?P<line>\d+)(?::(?P<column>\d+))?(?:-\d+(?::\d+)?)?(?: \((?P<function>.*)\))?$"
)


def parse(text: str) -> Location | None:
    """The parts of a location, or None if there is none."""
    match = _FORM.match(text.strip())
    if match is None:
        return None
    return Location(
        match["file"], int(match["line"]), int(match["column"] or 0), match["function"] or ""
    )


def source_line(location: Location) -> str:
    """The text of the line; empty if the file cannot be read."""
    linecache.checkcache(location.file)  # a session may outlive a version of the file
    return linecache.getline(location.file, location.line).rstrip("\n")


def within(file: str, root: Path) -> str:
    """The path of a file relative to a folder, with slashes; unchanged if the file is elsewhere."""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(root):
        path = path.relative_to(root)
    return path.as_posix()


def portable(text: str) -> str:
    """A location without folders of one machine: relative to the current folder, or the file alone."""
    location = parse(text)
    if location is None:
        return text
    path = within(location.file, Path.cwd())
    return text.replace(location.file, Path(path).name if Path(path).is_absolute() else path, 1)


def uri_of(file: str, root: Path) -> str:
    """A reference to a file: relative inside the root, a file URI outside."""
    path = within(file, root)
    return ("file://" if path.startswith("/") else "") + quote(path)
