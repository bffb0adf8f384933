"""Runs `secfad run` and kills its own process at one step of one round, or not at all.

Usage: crashing.py STEP ROUND CONFIG OUT. A step is "before X" or "after X" with X one of `STEPS`.
"""

import os
import signal
import sys

STEPS = ("reserve", "open", "journal", "commit", "metrics", "checkpoint", "results")


def target(step: str):
    """The function that does a step, as the object and attribute that hold it."""
    from audits.quickstart import results
    from privacy.execution.releases import ReleaseJournal
    from privacy.ledger.ledger import Ledger
    from privacy.ledger.reservations import Reservation
    from privacy.training.checkpoints import CheckpointFile
    from privacy.training.metrics import MetricsFile

    return {
        "reserve": (Ledger, "reserve"),
        "open": (Reservation, "open"),
        "journal": (ReleaseJournal, "write"),
        "commit": (Reservation, "commit"),
        "metrics": (MetricsFile, "append"),
        "checkpoint": (CheckpointFile, "write"),
        "results": (results, "write"),
    }[step]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash_at(when: str, step: str, round: int) -> None:
    """Replaces the function of a step by one that dies in its round + 1st call."""
    holder, name = target(step)
    original, calls = getattr(holder, name), 0

    def dying(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == round + 1 and when == "before":
            kill()
        result = original(*args, **kwargs)
        if calls == round + 1 and when == "after":
            kill()
        return result

    setattr(holder, name, dying)


def main() -> None:
    moment, call, config, out = sys.argv[1:]
    if moment != "never":
        when, step = moment.split()
        crash_at(when, step, int(call))
    from audits.commands import cli

    sys.argv = ["secfad", "run", config, "--out", out, "--resume"]
    cli.main()


if __name__ == "__main__":
    main()
