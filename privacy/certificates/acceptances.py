"""Acceptances: who takes responsibility for an obligation of a program, and why.

An acceptance is a statement of a person. It proves nothing: the obligation stays in the certificate, the
verifier asks for it, and a run still has to acknowledge it. It holds for one text of the obligation, so
that nobody has accepted what a later version of the program adds.

>>> Acceptance("FAD306", "asks again", "clients stay online", "A. Doe", "2026-01-31", "m.py:f").fault
"""

import dataclasses
import datetime
from collections.abc import Iterable
from typing import Protocol

LONGEST = 2000


@dataclasses.dataclass(frozen=True)
class Acceptance:
    """The acceptance of one obligation of one program.

    Attributes:
      rule: Rule id of the obligation.
      text: The obligation, word for word.
      reason: Why it is acceptable.
      by: Who accepts it.
      date: The day, as YYYY-MM-DD.
      program: The program, as it was named when it was certified.
    """

    rule: str
    text: str
    reason: str
    by: str
    date: str
    program: str

    @property
    def fault(self) -> str | None:
        """What is expected of it and missing; None if it is complete."""
        for name in ("rule", "text", "reason", "by", "program"):
            value = getattr(self, name)
            if not value.strip() or len(value) > LONGEST or not value.isprintable():
                return f"one line of text as `{name}` of an acceptance"
        try:
            day = datetime.date.fromisoformat(self.date)
        except ValueError:
            day = None
        if day is None or day.isoformat() != self.date:
            return "a day as YYYY-MM-DD as `date` of an acceptance"
        return None

    def __str__(self) -> str:
        return f"{self.rule} accepted by {self.by} on {self.date}: {self.reason}"


class Condition(Protocol):
    """What acceptances are compared with: an obligation."""

    @property
    def rule(self) -> str:
        """Rule id."""
        ...

    @property
    def text(self) -> str:
        """The condition."""
        ...


def applying(
    given: Iterable[Acceptance], conditions: Iterable[Condition]
) -> tuple[Acceptance, ...]:
    """Those acceptances that are about one of the conditions, word for word."""
    stated = {(c.rule, c.text) for c in conditions}
    return tuple(a for a in given if (a.rule, a.text) in stated)


def fault_of(given: Iterable[Acceptance], conditions: Iterable[Condition]) -> str | None:
    """What is expected of the acceptances of a certificate and missing."""
    given = tuple(given)
    faults = [a.fault for a in given if a.fault is not None]
    if faults:
        return faults[0]
    whole = len(applying(given, conditions)) == len(given)
    return None if whole else "acceptances of its own obligations, word for word"
