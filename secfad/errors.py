"""Errors of secfad. Each message says what was expected, what came, and what to do.

SecfadError
├── PlacementError       a value is used where it does not live; names the user's line
├── TracingError         the function cannot be traced with these arguments; names the user's line
├── TranslationError     another library's program says what ours cannot; names the user's line
├── ModeError            this mode of differentiation does not exist for this program
├── ArgumentError        wrong number, structure, shape or dtype of arguments (also a TypeError)
└── CohortError          the clients of one evaluation do not fit together
"""


class SecfadError(Exception):
    """Base of every error raised by secfad on purpose."""


class PlacementError(SecfadError):
    """A server value is used by clients without `broadcast`, or a client value leaves without `sum`.

    Attributes:
      kind: A stable word for the cause: "implicit-broadcast", "addressed-broadcast",
        "misplaced-operand", "client-branch", "client-control", "hidden-communication" or
        "outside-computation".
      line: The user's source line, `file:line (function)`.
    """

    def __init__(self, message: str, *, kind: str, line: str = ""):
        super().__init__(f"{line}: {message}" if line else message)
        self.kind = kind
        self.line = line


class TracingError(SecfadError):
    """The function cannot be traced with the declared arguments.

    Attributes:
      line: The user's source line, `file:line (function)`, or nothing.
    """

    def __init__(self, message: str, *, line: str = ""):
        super().__init__(f"{line}: {message}" if line else message)
        self.line = line


class TranslationError(SecfadError):
    """A program of another library does something that is not a broadcast, a sum or local work.

    Attributes:
      line: The user's source line, `file:line (function)`.
    """

    def __init__(self, message: str, *, line: str = ""):
        super().__init__(f"{line}: {message}" if line else message)
        self.line = line


class ModeError(SecfadError):
    """A mode of differentiation is not defined for a program; the message names one that is."""


class ArgumentError(SecfadError, TypeError):
    """Arguments that do not fit the computation."""


class CohortError(SecfadError, ValueError):
    """Client arguments that disagree on the number of clients, or an empty cohort."""
