"""Every error of the package, with the fault in the type.

Whose mistake was it? A `LocalProtocolError` is the caller's, a `RemoteProtocolError` is the
peer's and leaves the state as it was, an `Aborted` ends the state machine for good. Whatever
bytes arrive from a peer, the outcome is a new state, a `RemoteProtocolError` or an `Aborted`.

    SecAggError
    ├── ParameterError          parameters that are unsafe or contradict each other
    ├── EncodingError           a value that cannot become, or cannot have been, a ring element
    ├── CohortRefused           the cohort ledger refuses a round
    ├── LocalProtocolError      a method called in the wrong state or with a wrong argument
    ├── RemoteProtocolError     a message that is refused; nothing has changed
    │   └── MalformedMessage    a message that is not on the wire format
    └── Aborted                 this side is finished without a result; .phase, .reason, .culprits
        ├── BelowThreshold      too few clients, in all or around one of them
        ├── Disconnected        the survivors' graph falls apart
        ├── CohortChanged       the survivors are not the pinned set
        ├── IntegrityError      a secret cannot be rebuilt from the shares that came
        ├── InconsistentView    the server told clients different stories
        └── UnknownIdentity     a key or signature that the roster does not vouch for

>>> issubclass(BelowThreshold, Aborted) and issubclass(MalformedMessage, RemoteProtocolError)
True

Sources: the local/remote split is h11's.
"""


class SecAggError(Exception):
    """Base of every error of `secagg`."""


class ParameterError(SecAggError, ValueError):
    """The parameters are unsafe, contradict each other, or are out of range."""


class EncodingError(SecAggError, ValueError):
    """A value cannot become a ring element, or a ring vector is not what was expected."""


class CohortRefused(SecAggError):
    """The cohort ledger refuses a round: its context or its cohort was used too similarly."""


class LocalProtocolError(SecAggError):
    """The calling code used a method in the wrong state or with a wrong argument."""


class RemoteProtocolError(SecAggError):
    """A message of the peer is refused; the state machine is as it was before."""


class MalformedMessage(RemoteProtocolError):
    """A message of the peer is not on the wire format."""


class Aborted(SecAggError):
    """A state machine has ended without a result and has dropped its secrets.

    Attributes:
      phase: Name of the phase in which it ended.
      reason: What was expected and what came.
      culprits: Indices of the clients known to be at fault, possibly none.
    """

    def __init__(self, phase: str, reason: str, culprits: tuple[int, ...] = ()):
        super().__init__(f"Aborted in phase {phase}: {reason}")
        self.phase = phase
        self.reason = reason
        self.culprits = culprits

    def __reduce__(self):
        return type(self), (self.phase, self.reason, self.culprits)


class BelowThreshold(Aborted):
    """Too few clients are left, in all or in one neighbourhood."""


class Disconnected(Aborted):
    """The survivors' graph is not connected: the server would learn more than one sum."""


class CohortChanged(Aborted):
    """The survivors differ from the set pinned by an earlier pass of the same evaluation."""


class IntegrityError(Aborted):
    """A secret cannot be rebuilt: its shares agree with no committed value."""


class InconsistentView(Aborted):
    """The server's messages contradict each other or what other clients were told."""


class UnknownIdentity(Aborted):
    """A key or a signature is not vouched for by the roster."""
