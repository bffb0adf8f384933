"""Errors of `privacy`.

Each message states the expected value, the actual value and the remedy. The tree:

    PrivacyError
    +-- InvalidEvent (ValueError)       the description of a release is invalid
    |   +-- UnsupportedEvent            valid, but this accountant cannot price it
    |       +-- SizeNotPublic           noise by clients on cohorts whose size is a secret
    +-- MechanismError (ValueError)     an invalid mechanism, sampling or algorithm
    +-- RunRefused                      a private run was not started; nothing was sent or charged
    |   +-- NonFiniteData               the server's arguments hold NaN or infinity
    |   +-- CohortTooSmall              a cohort below the minimum of secure aggregation
    |   +-- ResumeRefused               a checkpoint that does not belong to this run and ledger
    +-- JournalCorrupt                  a journalled release differs from the written or committed one
    +-- StorageFailed                   a file of a run cannot be written or read, as on a full disk
    +-- BudgetExceeded                  a charge or a plan does not fit; nothing was written
    +-- LedgerError
        +-- LedgerCorrupt               a record, or a total derived from it, was altered
        +-- LedgerUnavailable           the file cannot be used now: full disk, read-only, locked
        +-- ReservationState            e.g. a commit before the noise was drawn
        +-- CohortReused                a closed cohort draw was declared as a fresh one
        +-- NoBoundKnown                it holds charges whose price is not a bound

    PrivacyWarning (UserWarning)
    +-- NoBoundWarning                  such a ledger was opened

>>> issubclass(UnsupportedEvent, ValueError)
True

Sources: docs/ledger-slots.md for what a budget means here.
"""


class PrivacyError(Exception):
    """Root of the errors of this package."""


class InvalidEvent(PrivacyError, ValueError):
    """A release, a slot or an event has numbers that cannot be priced."""


class UnsupportedEvent(InvalidEvent):
    """The event is well formed, but the chosen accountant and relation have no bound for it."""


class SizeNotPublic(UnsupportedEvent):
    """Noise by clients reveals the cohort size, so amplification by a secret size gives no bound."""


class BudgetExceeded(PrivacyError):
    """A charge does not fit into its purpose's budget or the global one. Nothing was written.

    Attributes:
      purpose: The charged purpose, or None for a whole plan.
      needed: Description of the charge.
      left: Description of the remaining budget.
    """

    def __init__(self, message: str, *, purpose: str | None, needed: str, left: str):
        super().__init__(message)
        self.purpose = purpose
        self.needed = needed
        self.left = left


class LedgerError(PrivacyError):
    """Root of the errors of ledger files and their use."""


class LedgerCorrupt(LedgerError):
    """The ledger does not prove its own history.

    Attributes:
      record: Sequence number of the first bad record, or None if the file cannot be read at all.
    """

    def __init__(self, message: str, *, record: int | None = None):
        super().__init__(message)
        self.record = record


class LedgerUnavailable(LedgerError):
    """The file cannot be read or written now; its charges stay and the step was not done."""


class ReservationState(LedgerError):
    """A step of a reservation came in the wrong order."""


class CohortReused(LedgerError):
    """A cohort draw was charged before; a second charge as a fresh draw would under-price it."""


class NoBoundKnown(LedgerError):
    """A ledger holds charges whose price is not a bound; it accepts no further reservations."""


class MechanismError(PrivacyError, ValueError):
    """A clip norm, noise, a purpose, a sampling or a part of an algorithm is invalid."""


class RunRefused(PrivacyError):
    """A private run was not started. Nothing was sent and nothing was charged."""


class NonFiniteData(RunRefused, ValueError):
    """An argument of the server holds NaN or infinity."""


class CohortTooSmall(RunRefused, ValueError):
    """A cohort has fewer clients than secure aggregation may sum."""


class ResumeRefused(RunRefused):
    """A checkpoint is damaged, or belongs to another run, or its ledger forgot charges."""


class JournalCorrupt(PrivacyError):
    """A journalled release differs from the written or committed release."""


class StorageFailed(PrivacyError):
    """A journal, a checkpoint or a metrics file cannot be written or read by this process now."""


class PrivacyWarning(UserWarning):
    """Root of the warnings of this package."""


class NoBoundWarning(PrivacyWarning):
    """An opened ledger holds charges whose price is not a bound."""
