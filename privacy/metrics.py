"""Metrics of a training run: one JSON line for every finished round, no more and no fewer.

A line is durable before the checkpoint of its round. A crash in between leaves one line too many,
which a resume drops, so that the file always tells the same story as the checkpoint. Line 0 is the
state before the first round.

>>> import tempfile
>>> file = MetricsFile(Path(tempfile.mkdtemp()) / "metrics.jsonl")
>>> file.append({"round": 0, "loss": 2.0}); file.append({"round": 1, "loss": 1.5})
>>> file.keep(0)
>>> file.read()
[{'round': 0, 'loss': 2.0}]

Source: docs/ledger-slots.md, section 4, for the order of the steps.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privacy.checkpoints import write_durably
from privacy.errors import ResumeRefused


class MetricsFile:
    """The lines of one run.

    Args:
      path: Of the file; its folder must exist.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def append(self, line: Mapping[str, Any]) -> None:
        """Adds the line of a round, durably."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """The lines in order; a last one that a crash cut off is left out."""
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
        return lines

    def clear(self) -> None:
        """Removes all lines: the run starts, or starts over from its journal."""
        self.path.unlink(missing_ok=True)

    def keep(self, rounds: int) -> None:
        """Drops what a crash left after the line of round `rounds`.

        Raises:
          ResumeRefused: The lines up to it are not all there.
        """
        lines = self.read()[: rounds + 1]
        if [line.get("round") for line in lines] != list(range(rounds + 1)):
            raise ResumeRefused(
                f"Expected {self.path} with the rounds 0 to {rounds} of the checkpoint, got "
                f"{len(lines)} of them. Restore it, or remove the checkpoint too: the run starts over "
                "from its journal of releases."
            )
        write_durably(self.path, "".join(json.dumps(line) + "\n" for line in lines).encode())
