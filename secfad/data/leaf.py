"""LEAF: federated data sets as JSON files with `users`, `num_samples` and `user_data`.

A set is one file or a folder of them. Numbers become arrays; text (as in Shakespeare or Reddit) stays
a list, for the user to encode.

Source: Caldas et al. (2018), LEAF, and the files that its scripts write.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from secfad.data.errors import FormatError


def read_leaf(path: str | Path) -> dict[str, dict[str, Any]]:
    """User name to `{"x": ..., "y": ...}`, in the order of the files.

    Args:
      path: A JSON file, or a folder whose `*.json` files are read in the order of their names.

    Raises:
      FormatError: A file is not LEAF's, contradicts itself, or repeats a user.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in _files(Path(path)):
        for user, data in _users(file):
            if user in found:
                raise FormatError(f"Expected each user once, got {user!r} again in {file}.")
            found[user] = data
    return found


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise FormatError(f"Expected JSON files in {path}, got none.")
    return files


def _users(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise FormatError(f"Expected JSON in {file}, got text that is not: {error}.") from error
    missing = {"users", "num_samples", "user_data"} - set(
        content if isinstance(content, dict) else ()
    )
    if missing:
        raise FormatError(f"Expected the keys of LEAF in {file}, got none of {sorted(missing)}.")
    if len(content["users"]) != len(content["num_samples"]):
        raise FormatError(f"Expected a number of samples for every user in {file}, got another.")
    for user, count in zip(content["users"], content["num_samples"]):
        data = content["user_data"].get(user)
        if not isinstance(data, dict) or not {"x", "y"} <= set(data):
            raise FormatError(f"Expected `x` and `y` of user {user!r} in {file}, got none.")
        if not len(data["x"]) == len(data["y"]) == count:
            raise FormatError(
                f"Expected {count} samples of user {user!r} in {file}, got {len(data['x'])} inputs "
                f"and {len(data['y'])} labels."
            )
        yield user, {name: _array(data[name]) for name in ("x", "y")}


def _array(values: list) -> Any:
    """An array of numbers, or the list as it is."""
    try:
        array = np.asarray(values)
    except ValueError:
        return values
    return array if array.dtype.kind in "biuf" else values
