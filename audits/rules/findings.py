"""Findings, facts and the report: the result of a check.

>>> Report.of([], Facts()).kind
'accept'
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from audits.rules.catalogue import RULES
from audits.rules.rules import Severity


@dataclasses.dataclass(frozen=True)
class Finding:
    """One root cause, with its rule and the user's line.

    Attributes:
      rule: Rule id.
      severity: Its effect on the verdict; a style may lower or raise the rule's own severity.
      message: One line, with the names of the user's program.
      line: The user's source line, `file:line (function)`.
      where: Path of the equation inside the traced program.
      entered: Lines where the combined values entered the program.
      source: Description of the values that entered there.
      native: The line as a native computation has it, for programs of another style.
      remedy: One suggestion.
    """

    rule: str
    severity: Severity
    message: str
    line: str = ""
    where: str = ""
    entered: tuple[str, ...] = ()
    remedy: str = ""
    source: str = ""
    native: str = ""

    @property
    def name(self) -> str:
        """The kebab-case name of the rule."""
        return RULES[self.rule].name

    @property
    def path(self) -> str:
        """Alias of `where`."""
        return self.where


def finding(
    rule: str,
    *,
    severity: Severity | None = None,
    line: str = "",
    path: str = "",
    entered: Sequence[str] = (),
    remedy: str = "",
    **fields: object,
) -> Finding:
    """Fills the message template of a rule; `remedy` overrides the remedy of the rule."""
    record = RULES[rule]
    texts = {k: str(v) for k, v in fields.items()}
    return Finding(
        rule,
        record.severity if severity is None else severity,
        record.message.format(**texts),
        line,
        path,
        tuple(entered),
        remedy or (record.remedy.format(**texts) if "{" in record.remedy else record.remedy),
    )


@dataclasses.dataclass(frozen=True)
class Event:
    """One message of the schedule: a leaf of a broadcast or of a sum.

    Attributes:
      kind: `"broadcast"` or `"sum"`.
      index: Position in the schedule; names the event in findings.
      name: Name of the message in the program.
      shape: Shape of the leaf at one client.
      dtype: Its dtype.
      bytes: Bytes per client and execution.
      depth: Phase: the number of sums that must have finished before.
      count: Number of executions in one run.
      line: The user's source line.
      where: Path of the equation.
    """

    kind: str
    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    depth: int
    count: int
    line: str = ""
    where: str = ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """The costs of the schedule and the bounds on one client's influence; the content of a
    certificate.

    `events` are the messages of the schedule; of several branches, those of the branch that sends
    most. `alternatives` are the messages of the other branches.
    """

    rounds: int = 0
    sums: int = 0
    broadcasts: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    readdress: bool = False
    residual_bytes: int = 0
    stateful_clients: bool = False
    released_scalars: int = 0
    releases: int = 0
    clients: int | None = None
    sensitivity: tuple[object, ...] = ()
    joint_sensitivity: object = None
    relation: str = "add_remove"
    noise_multipliers: tuple[float, ...] = ()
    events: tuple[Event, ...] = ()
    alternatives: tuple[Event, ...] = ()
    bounds: tuple[Any, ...] = ()
    evidence: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)

    def get(self, key: str, default: object = None) -> object:
        """A fact by name, for readers that treat facts as a mapping."""
        return getattr(self, key, default)

    def to_dict(self) -> Mapping[str, object]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of one check.

    Attributes:
      kind: `"accept"`, `"caveat"` (accepted under obligations that a run must acknowledge) or
        `"reject"`.
      findings: Rejections and caveats, the most severe first.
      notes: Findings that do not change the verdict.
      facts: Schedule and bounds.
      subject: The checked subject: name, style, mode and profile.
    """

    kind: str
    findings: tuple[Finding, ...]
    facts: Facts
    notes: tuple[Finding, ...] = ()
    subject: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """The text report."""
        from audits.reports.text import render_texts

        return render_texts({self.subject.get("mode", "primal"): self})

    def _repr_html_(self) -> str:
        """The report for a notebook, with the graph of messages."""
        from audits.reports.html import render_fragment

        return render_fragment({self.subject.get("mode", "primal"): self})

    @classmethod
    def of(
        cls,
        findings: Sequence[Finding],
        facts: Facts,
        subject: Mapping[str, str] | None = None,
    ) -> "Report":
        """The verdict that follows from the findings, without repetitions."""
        unique = list(dict.fromkeys(findings))
        ranked = sorted(unique, key=lambda f: -f.severity)
        top = max((f.severity for f in ranked), default=Severity.NOTE)
        kind = {Severity.NOTE: "accept", Severity.CAVEAT: "caveat", Severity.REJECT: "reject"}[top]
        return cls(
            kind,
            tuple(f for f in ranked if f.severity > Severity.NOTE),
            facts,
            tuple(f for f in ranked if f.severity == Severity.NOTE),
            dict(subject or {}),
        )
