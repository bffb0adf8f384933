"""`CohortRange`: the numbers of clients for which a certificate holds.

A native program has no axis of clients, so its trace, its messages and its bounds are the same for
every cohort. Only integer sums, which wrap, set an upper limit. A program over stacked arrays can
read the number of its rows. Its range is open only if it was traced with a *symbolic* number of
clients, because Python code that branches on a symbolic number cannot be traced.

>>> CohortRange(2, 50, "integer sums").fault(51)
'at most 50 clients (integer sums)'

Source: docs/decisions/0041-cohort-ranges.md.
"""

import dataclasses

SMALLEST = 2


@dataclasses.dataclass(frozen=True)
class CohortRange:
    """An interval of cohort sizes.

    Attributes:
      minimum: Fewest clients.
      maximum: Most clients; None if there is no limit.
      reason: Why the certificate holds in the range and, if there is a limit, not beyond.
    """

    minimum: int
    maximum: int | None
    reason: str

    def fault(self, clients: int) -> str | None:
        """The condition that a cohort of this size violates; None if it is in the range."""
        if clients < self.minimum:
            return f"at least {self.minimum} clients ({self.reason})"
        if self.maximum is not None and clients > self.maximum:
            return f"at most {self.maximum} clients ({self.reason})"
        return None

    def up_to(self, limit: int, reason: str) -> "CohortRange":
        """The range up to a limit."""
        if self.maximum is not None and self.maximum <= limit:
            return self
        return CohortRange(self.minimum, limit, reason)

    def __str__(self) -> str:
        if self.maximum is None:
            return f"{self.minimum} or more clients: {self.reason}"
        if self.minimum == self.maximum:
            return f"{self.minimum} clients: {self.reason}"
        return f"{self.minimum} to {self.maximum} clients: {self.reason}"


NONE_STATED = CohortRange(0, 0, "no range is stated")
