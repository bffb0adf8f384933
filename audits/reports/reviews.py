"""What people have said about the findings of a program: accepted obligations and known findings."""

import dataclasses
from collections.abc import Mapping

from audits.rules.findings import Finding, Report
from audits.rules.rules import Severity


@dataclasses.dataclass(frozen=True)
class Review:
    """The state of the findings of one program.

    Attributes:
      accepted: Rule and text of each accepted obligation, with who accepted it and why.
      known: Mode and position of each finding that a baseline has; None without a baseline.
    """

    accepted: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    known: frozenset[tuple[str, int]] | None = None

    def acceptance(self, finding: Finding) -> str | None:
        """Who accepted an obligation and why; None if nobody did. A rejection cannot be accepted."""
        if finding.severity != Severity.CAVEAT:
            return None
        return self.accepted.get((finding.rule, finding.message))

    def is_known(self, mode: str, position: int) -> bool:
        """Whether a baseline has the finding."""
        return self.known is not None and (mode, position) in self.known

    def open_findings(self, reports: Mapping[str, Report], *, caveats: bool) -> list[Finding]:
        """The rejections, and on demand the obligations, that nobody accepted and no baseline has."""
        least = Severity.CAVEAT if caveats else Severity.REJECT
        return [
            finding
            for mode, report in reports.items()
            for position, finding in enumerate(report.findings)
            if finding.severity >= least
            and self.acceptance(finding) is None
            and not self.is_known(mode, position)
        ]
