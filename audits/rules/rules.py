"""The rule table: all reasons why a program may not be certified.

A finding names a rule. Reports, documentation pages and `secfad certify --explain` are generated
from these records, so every rule has an explanation. Numbers are never reused: a removed rule keeps
its number. The hundreds group rules by question: 0xx Can the checker read the program? 1xx Does it
communicate only by broadcast and sum? 2xx Does its control flow? 3xx Do its derivatives? 4xx Is
every contribution bounded? 5xx Is the randomness sound? 6xx What do several sums reveal together?
7xx What do clients keep or see?

Sources: the form follows the rustc development guide, "Diagnostics", and ruff's rule records.
"""

import dataclasses
import enum
from collections.abc import Mapping
from types import MappingProxyType


class Severity(enum.IntEnum):
    """The effect of a finding on the verdict."""

    NOTE = 0
    CAVEAT = 1
    REJECT = 2


@dataclasses.dataclass(frozen=True)
class Rule:
    """One entry of the table.

    Attributes:
      id: `FADnnn`, stable forever.
      name: Kebab-case name that reads after "allow".
      severity: The usual effect; a style may raise the rule with another severity.
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
