"""Metrics of a training run: exactly one JSON line for every finished round.

A line is durable before the checkpoint of its round. A crash in between leaves one line too many. A
resume drops it, so the file always agrees with the checkpoint. Line 0 is the state before the first
round.

>>> import tempfile
>>> file = MetricsFile(Path(tempfile.mkdtemp()) / "metrics.jsonl")
>>> file.append({"round": 0, "loss": 2.0}); file.append({"round": 1, "loss": 1.5})
>>> file.keep(0)
>>> file.read()
[{'round': 0, 'loss': 2.0}]

Source: docs/ledger-slots.md, section 4, for the order of the steps.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privacy.errors import ResumeRefused
from privacy.files import storage, write_durably


class MetricsFile:
    """The lines of one run.

    Args:
      path: Of the file; its folder must exist.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def append(self, line: Mapping[str, Any]) -> None:
        """Adds the line of a round, durably.

        Raises:
          StorageFailed: The disk is full or cannot be written; earlier lines are unchanged.
        """
        with storage(self.path), open(self.path, "ab") as file:
            end = file.tell()
            try:
                file.write(json.dumps(dict(line)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self.path, end)
                raise

    def read(self) -> list[dict[str, Any]]:
        """The lines in order, without a last line that a crash cut off."""
        return [line for line, _ in self._lines()]

    def _lines(self) -> list[tuple[dict[str, Any], bytes]]:
        """The lines and their bytes, up to the first invalid one."""
        if not self.path.exists():
            return []
        with storage(self.path):
            content = self.path.read_bytes()
        lines = []
        for text in content.splitlines(keepends=True):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                break
            if not isinstance(line, dict) or not text.endswith(b"\n"):
                break
            lines.append((line, text))
        return lines

    def digest(self) -> str:
        """SHA-256 of all lines, for the checkpoint of their round."""
        return _digest(self._lines())

    def clear(self) -> None:
        """Removes all lines: the run starts, or starts over from its journal."""
        with storage(self.path):
            self.path.unlink(missing_ok=True)

    def keep(self, rounds: int, digest: str = "") -> None:
        """Drops lines that a crash left after the line of round `rounds`, the checkpoint's.

        Its `digest` is that of the lines up to it; "" for a checkpoint without one.

        Raises:
          ResumeRefused: Lines up to it are missing or were altered.
        """
        lines = self._lines()[: rounds + 1]
        whole = [line.get("round") for line, _ in lines] == list(range(rounds + 1))
        if not whole or (digest and _digest(lines) != digest):
            came = "others" if whole else f"{len(lines)} of them"
            raise ResumeRefused(
                f"Expected {self.path} with the rounds 0 to {rounds} of the checkpoint, got {came}."
                " Restore it, or remove the checkpoint too: the run starts over from its journal of"
                " releases."
            )
        write_durably(self.path, b"".join(text for _, text in lines))


def _digest(lines: Sequence[tuple[dict[str, Any], bytes]]) -> str:
    return hashlib.sha256(b"".join(text for _, text in lines)).hexdigest()
