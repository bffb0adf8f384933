"""Round context: the one digest that every key, mask, ciphertext and signature is bound to.

Two digests, because the keys are only known after the first phase. The *setup* digest covers the
protocol version, the parameters, the roster and the caller's bytes (round id, model digest, DP
specification); clients sign it together with their keys. The *round* digest adds the list of
keys that the server announced; everything secret is derived under it. Parties who disagree on
any of these derive different keys, so they fail to understand each other and cannot be made to
mix two rounds.

`label` is the only place where the text of a key derivation or signature is made.

>>> setup = setup_digest(b"parameters", roster=b"", extra=b"round 7")
>>> label(Purpose.PAIR_MASK, setup, 1, 2) == label(Purpose.PAIR_MASK, setup, 12)
False

Sources: docs/secagg-spec.md, section "Binding"; the VDAF draft's domain separation tags.
"""

import enum
import hashlib
import struct
from functools import lru_cache

PROTOCOL = b"secfad secagg"
VERSION = 1
DIGEST_BYTES = 32


class Purpose(enum.Enum):
    """What a derived key, a digest or a signature is for."""

    SETUP = b"setup"
    ROUND = b"round"
    ROSTER = b"roster"
    GRAPH = b"graph"
    CHANNEL = b"channel key"
    PAIR_MASK = b"pair mask"
    SELF_MASK = b"self mask"
    SHARES = b"share polynomial"
    SEED_COMMITMENT = b"seed commitment"
    ADVERTISEMENT = b"advertisement signature"
    VIEW = b"survivor view signature"
    STREAM = b"stream"
    IDEAL = b"ideal mask"
    TRANSCRIPT = b"transcript"


def framed(*fields: bytes) -> bytes:
    """Joins fields so that no two different lists of fields give the same bytes."""
    return b"".join(len(field).to_bytes(8, "little") + field for field in fields)


def label(purpose: Purpose, context: bytes, *parties: int) -> bytes:
    """Names one derivation: protocol, version, purpose, context and parties, unambiguously."""
    ids = struct.pack(f"<Q{len(parties)}I", 4 * len(parties), *parties)
    return _label_head(purpose, context) + ids


@lru_cache(maxsize=64)
def _label_head(purpose: Purpose, context: bytes) -> bytes:
    """The fields of a label before the parties; contexts are digests, so nothing secret stays."""
    return framed(PROTOCOL, bytes([VERSION]), purpose.value, context)


def digest(purpose: Purpose, *fields: bytes) -> bytes:
    """SHA-256 of the framed fields, separated by purpose."""
    return hashlib.sha256(label(purpose, b"") + framed(*fields)).digest()


def setup_digest(parameters: bytes, *, roster: bytes, extra: bytes) -> bytes:
    """Digest of what is agreed before the first message.

    Args:
      parameters: Canonical bytes of the parameters, `Parameters.canonical()`.
      roster: Digest of the roster of identities, empty in the semi-honest model.
      extra: The caller's bytes; must differ from round to round.
    """
    return digest(Purpose.SETUP, parameters, roster, extra)


def round_digest(setup: bytes, announced_keys: bytes) -> bytes:
    """Digest of the setup and of the key list that the server announced."""
    return digest(Purpose.ROUND, setup, announced_keys)


def view_digest(context: bytes, sharers: bytes, survivors: bytes) -> bytes:
    """What clients sign in the consistency phase: who shared, and whose input counts."""
    return label(Purpose.VIEW, context) + framed(sharers, survivors)
