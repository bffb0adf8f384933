"""The files of a training run, and the order in which a round becomes durable.

    kept rows -> release journal -> ledger         of every question, see `privacy.execution.execution`
    metrics -> rows of all clients -> checkpoint   of the round

A crash between two of them leaves files that the checkpoint does not count; the next call drops
them.

Source: docs/ledger-slots.md, section 4.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from privacy.checking import refusal
from privacy.errors import MechanismError, ResumeRefused
from privacy.execution.releases import ReleaseJournal
from privacy.execution.results import Result
from privacy.ledger.ledger import Ledger
from privacy.training.checkpoints import Checkpoint, CheckpointFile
from privacy.training.client_files import ClientFiles
from privacy.training.client_state import ClientState
from privacy.training.metrics import MetricsFile


class RunFiles:
    """The files of a run in its folder, and its client state."""

    def __init__(self, folder: Path, kept: ClientState):
        self.journal = ReleaseJournal(folder / "releases")
        self.checkpoint = CheckpointFile(folder / "checkpoint.npz")
        self.metrics = MetricsFile(folder / "metrics.jsonl")
        self.client_files = ClientFiles(folder / "clients")
        self.kept = kept

    def begin(
        self,
        first: Checkpoint,
        ledger: Ledger,
        measure: Callable[[Any], Mapping[str, float]],
    ) -> Checkpoint:
        """The end of an earlier call; `first` without an earlier call."""
        found = self.checkpoint.read(like=first.state, ledger=ledger, run_id=first.run_id)
        self.journal.check(ledger)
        if found is None:
            line = round_line(0, measure(first.state), {})
            self.metrics.clear()
            self.metrics.append(line)
            return first
        if bool(found.clients) != bool(self.kept.names):
            raise ResumeRefused(
                f"Expected client_state as in the call that wrote {self.checkpoint.path}, which had "
                f"{'some' if found.clients else 'none'}, got it for ({', '.join(self.kept.names)}). "
                "Resume with the same client_state, or use another run_id and folder."
            )
        if found.clients:
            state = self.client_files.read_state(found.round, found.clients, like=self.kept.whole)
            self.kept = ClientState(state, self.kept.population)
        self.metrics.keep(found.round, found.metrics)
        return found

    def end_round(self, line: Mapping[str, Any], checkpoint: Checkpoint) -> None:
        """Makes metrics and client state durable before the checkpoint that counts the round."""
        self.metrics.append(line)
        checkpoint = replace(checkpoint, metrics=self.metrics.digest())
        self.kept.end_round()
        if self.kept.names:
            digest = self.client_files.write_state(checkpoint.round, self.kept.whole)
            checkpoint = replace(checkpoint, clients=digest)
        self.checkpoint.write(checkpoint)
        if self.kept.names:
            self.client_files.forget(but=checkpoint.round)


def round_line(
    done: int, measured: Mapping[str, float], results: Mapping[str, Result]
) -> dict[str, Any]:
    """The line of a round: public, and independent of who took part.

    Raises:
      MechanismError: The measurement is not a mapping from names to numbers.
    """
    releases = {name: result.public_record() for name, result in results.items()}
    advice = "Return plain numbers by name, as {'loss': 0.5}."
    if not isinstance(measured, Mapping):
        expected = "a mapping from names to numbers"
        raise refusal(measured, "what `measure` returns", expected, advice, MechanismError)
    numbers = {}
    for name, value in measured.items():
        try:
            numbers[str(name)] = float(value)
        except (TypeError, ValueError) as error:
            what = f"what `measure` returns as {name!r}"
            raise refusal(value, what, "a number", advice, MechanismError) from error
    return {"round": done} | numbers | {"releases": releases}
