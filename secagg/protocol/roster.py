"""Roster: the long-term identities that an active server cannot invent.

In the active model every client has an Ed25519 identity key whose public half every other
client knows from somewhere the server does not control. The roster lists these halves by client
index. A weak key is refused when the roster is made, not when it is used.

>>> identities = [primitives.SigningKey(bytes([i]) * 32) for i in range(3)]
>>> len(Roster(tuple(identity.public for identity in identities)).digest)
32

Sources: Bonawitz et al. (2017), section 6.2 (the public-key infrastructure); RFC 8032.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from secagg.crypto import primitives
from secagg.crypto.context import Purpose, digest
from secagg.errors import LocalProtocolError, ParameterError
from secagg.protocol.parameters import Parameters


@dataclass(frozen=True)
class Roster:
    """Public identity keys, one per client index.

    Attributes:
      keys: Ed25519 public keys of 32 bytes; entry i is client i's.
    """

    keys: tuple[bytes, ...]

    def __post_init__(self):
        for index, key in enumerate(self.keys):
            fault = primitives.identity_key_fault(key)
            if fault:
                raise ParameterError(
                    f"Expected a sound Ed25519 public key for client {index}, got {fault}. "
                    "Ask the client to register a fresh identity."
                )
        if len(set(self.keys)) != len(self.keys):
            raise ParameterError(
                "Expected a different identity key for every client, got the same key twice. "
                "Ask the clients to register fresh identities."
            )

    @property
    def digest(self) -> bytes:
        """Digest of all identities in order."""
        return digest(Purpose.ROSTER, *self.keys)


def check_identities(parameters: Parameters, roster: Roster | None) -> None:
    """Refuses a missing roster in the active model, one of another size, or one out of place."""
    if not parameters.active:
        if roster is not None:
            raise LocalProtocolError(
                "Expected no roster in the semi-honest model, got one. "
                'Use Parameters(adversary="active") to have it checked.'
            )
    elif roster is None or len(roster.keys) != parameters.clients:
        count = 0 if roster is None else len(roster.keys)
        raise LocalProtocolError(
            f"Expected a roster of {parameters.clients} identities, got {count}. "
            "Pass roster=Roster((key of client 0, ...))."
        )


def lasting_names(members: Iterable[int], roster: Roster | None) -> list[Hashable]:
    """What a cohort ledger remembers clients by: identity keys, or indices without a roster."""
    return [roster.keys[member] if roster else member for member in members]
