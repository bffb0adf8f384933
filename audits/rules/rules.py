"""The rule table: every way a program can fail to be certified, in one place.

A finding names a rule; reports, documentation pages and `secfad certify --explain` are generated
from the record here, so that none of them can lack an explanation. Numbers are never reused: a rule
that disappears keeps its number. The hundreds group by question: 0xx can the program be read at all,
1xx does it communicate only by broadcast and sum, 2xx does its control flow keep to that, 3xx do its
derivatives, 4xx is every contribution bounded, 5xx is the randomness what it claims to be, 6xx what
do many sums together reveal, 7xx what do clients keep or see.

Sources: the form follows the rustc development guide, "Diagnostics", and ruff's rule records.
"""

import dataclasses
import enum
from collections.abc import Mapping
from types import MappingProxyType


class Severity(enum.IntEnum):
    """What a finding does to the verdict."""

    NOTE = 0
    CAVEAT = 1
    REJECT = 2


@dataclasses.dataclass(frozen=True)
class Rule:
    """One entry of the table.

    Attributes:
      id: `FADnnn`, stable for ever.
      name: Kebab-case name that reads after "allow".
      severity: The usual effect; a rule can be raised with another one where a style says so.
      message: Template of the one-line message.
      why: What goes wrong if the program runs anyway.
      example: The smallest program that raises it.
      remedy: What to write instead.
    """

    id: str
    name: str
    severity: Severity
    message: str
    why: str
    example: str
    remedy: str


def rule(
    id: str,
    name: str,
    severity: Severity,
    message: str,
    *,
    why: str,
    example: str,
    remedy: str,
) -> Rule:
    """A `Rule`, with the texts as keywords so that the catalogue reads as a list of cards."""
    return Rule(id, name, severity, message, why, example, remedy)


def table(*groups: tuple[Rule, ...]) -> Mapping[str, Rule]:
    """Joins groups of rules into one table.

    Raises:
      ValueError: Two rules share an id or a name.
    """
    found: dict[str, Rule] = {}
    for entry in (entry for group in groups for entry in group):
        if entry.id in found or any(entry.name == other.name for other in found.values()):
            raise ValueError(
                f"Expected every rule once, got {entry.id} ({entry.name}) twice. "
                "Give the new rule a number that was never used."
            )
        found[entry.id] = entry
    return MappingProxyType(found)
