"""Messages: what clients and server say to each other, as frozen values.

The bytes are in `codec`. Lists are sorted by client index, so a message has one encoding.
Contents of the two share types: a *seed* share is of the owner's self-mask seed, a *key* share
of its mask private key. A client sends at most one of them per owner.

>>> Survivors(members=(0, 2, 5)).kind
<Kind.SURVIVORS: 19>

Sources: Bonawitz et al. (2017), figure 4; docs/secagg-spec.md, section "Messages".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from secagg.protocol.rounds import Kind


@dataclass(frozen=True)
class Advertisement:
    """Phase 0, client to server: fresh public keys and a commitment.

    Attributes:
      channel_key: X25519 public key for the encryption of shares.
      mask_key: X25519 public key for pair masks; its private half is shared.
      commitment: Commitment to the self-mask seed.
      signature: Ed25519 signature on all of these in the active model, else empty.
    """

    kind: ClassVar[Kind] = Kind.ADVERTISEMENT
    channel_key: bytes
    mask_key: bytes
    commitment: bytes
    signature: bytes = b""


@dataclass(frozen=True)
class KeyList:
    """Phase 1, server to all: everybody's advertisement, by client index."""

    kind: ClassVar[Kind] = Kind.KEY_LIST
    keys: Mapping[int, Advertisement]


@dataclass(frozen=True)
class Shares:
    """Phase 1, client to server: a sealed pair of shares for each holder."""

    kind: ClassVar[Kind] = Kind.SHARES
    sealed: Mapping[int, bytes]


@dataclass(frozen=True)
class Inbox:
    """Phase 2, server to one client: who shared, and the sealed shares addressed to it."""

    kind: ClassVar[Kind] = Kind.INBOX
    sharers: tuple[int, ...]
    sealed: Mapping[int, bytes]


@dataclass(frozen=True)
class MaskedInput:
    """Phase 2, client to server: the masked vector of ring elements."""

    kind: ClassVar[Kind] = Kind.MASKED_INPUT
    vector: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Survivors:
    """Phase 3, server to all: whose masked vectors are in the sum."""

    kind: ClassVar[Kind] = Kind.SURVIVORS
    members: tuple[int, ...]


@dataclass(frozen=True)
class Confirmation:
    """Phase 3, client to server, active model: a signature on the survivors it was told."""

    kind: ClassVar[Kind] = Kind.CONFIRMATION
    signature: bytes


@dataclass(frozen=True)
class Confirmations:
    """Phase 4, server to all, active model: the signatures of the others."""

    kind: ClassVar[Kind] = Kind.CONFIRMATIONS
    signatures: Mapping[int, bytes]


@dataclass(frozen=True)
class Disclosure:
    """Phase 4, client to server: seed shares of survivors and key shares of the dropped.

    Attributes:
      seeds: Share bytes by owner.
      keys: Share bytes by owner; no owner is in both.
    """

    kind: ClassVar[Kind] = Kind.DISCLOSURE
    seeds: Mapping[int, bytes] = field(repr=False)
    keys: Mapping[int, bytes] = field(repr=False)


Message = (
    Advertisement
    | KeyList
    | Shares
    | Inbox
    | MaskedInput
    | Survivors
    | Confirmation
    | Confirmations
    | Disclosure
)
