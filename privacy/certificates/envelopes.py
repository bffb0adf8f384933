"""DSSE envelopes: bytes of a stated type, with Ed25519 signatures over both.

The signature covers the pre-authentication encoding of type and payload, so a payload signed as one
type cannot be used as another. The key id in an envelope only helps to find a key and is never
trusted.

>>> pae("http://example.com/HelloWorld", b"hello world")
b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'

Source: DSSE protocol and envelope, version 1.0 (secure-systems-lab/dsse).
"""

import base64
import binascii
import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from privacy.certificates.certificates import (
    CertificateError,
    CertificateMalformed,
    malformed,
    parsed,
)
from secagg.crypto.primitives import SIGNATURE_BYTES, SigningKey, identity_key_fault, verify

MAXIMUM_BYTES = 256 << 20


class EnvelopeMalformed(CertificateMalformed):
    """The text is not a DSSE envelope."""


class SignatureRefused(CertificateError):
    """No signature of an envelope is by a trusted key, or the type is not the expected one."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """A signature of 64 bytes; the key id is a hint, the SHA-256 of the key if this package signed."""

    keyid: str
    sig: bytes


@dataclasses.dataclass(frozen=True)
class Envelope:
    """A payload with its type and signatures; untrusted until it is opened with a trusted key."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    def open(self, trusted: Sequence[bytes], *, payload_type: str) -> bytes:
        """The payload, if a trusted key signed it as this type.

        Guarantees:
          Returns only bytes that the holder of one of the trusted keys signed under `payload_type`.

        Args:
          trusted: Ed25519 public keys of 32 bytes, any of which suffices.
          payload_type: The type that the caller expects.

        Raises:
          SignatureRefused: No key verifies, or the envelope is of another type.
          ValueError: A trusted key is not an Ed25519 key, or anyone can sign for it.
        """
        for key in trusted:
            fault = identity_key_fault(key)
            if fault is not None:
                raise ValueError(f"Expected Ed25519 public keys to trust, got {fault}.")
        message = pae(self.payload_type, self.payload)
        good = any(verify(key, s.sig, message) for key in trusted for s in self.signatures)
        if not good:
            ids = ", ".join(key_id(key)[:16] + "…" for key in trusted) or "no trusted key"
            raise SignatureRefused(
                f"Expected a signature by {ids}, got {len(self.signatures)} that do not verify: the "
                "envelope was altered, or somebody else signed it. Ask its issuer for the public key."
            )
        if self.payload_type != payload_type:
            raise SignatureRefused(
                f"Expected an envelope of type {payload_type}, got {self.payload_type!r}. The "
                "signature is valid, but for another type."
            )
        return self.payload

    def to_json(self) -> str:
        """The JSON form, in standard base64."""
        return json.dumps(
            {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": self.payload_type,
                "signatures": [
                    {"keyid": s.keyid, "sig": base64.b64encode(s.sig).decode()}
                    for s in self.signatures
                ],
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> "Envelope":
        """Reads an envelope without verifying it.

        Raises:
          EnvelopeMalformed: Not JSON of this form, or base64 that does not decode.
        """
        if len(text) > MAXIMUM_BYTES:
            raise _malformed(f"at most {MAXIMUM_BYTES} bytes", f"{len(text)}")
        found = parsed(text, _malformed)
        payload_type, signatures = found.get("payloadType"), found.get("signatures")
        if not isinstance(payload_type, str):
            raise _malformed("text as `payloadType`", type(payload_type).__name__)
        if not isinstance(signatures, list) or not signatures:
            raise _malformed("at least one signature", "none")
        payload = _decoded(found.get("payload", ""), "payload")
        return cls(payload, payload_type, tuple(_signature(s) for s in signatures))


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: injective in type and payload; lengths count bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, payload_type: str, key: SigningKey) -> Envelope:
    """Signs a payload as a type."""
    signature = Signature(key_id(key.public), key.sign(pae(payload_type, payload)))
    return Envelope(payload, payload_type, (signature,))


def key_id(public: bytes) -> str:
    """The SHA-256 of a public key, as hexadecimal digits."""
    return hashlib.sha256(public).hexdigest()


def _signature(value: Any) -> Signature:
    if not isinstance(value, dict):
        raise _malformed("objects as signatures", type(value).__name__)
    sig, hint = _decoded(value.get("sig"), "sig"), value.get("keyid", "")
    if len(sig) != SIGNATURE_BYTES or not isinstance(hint, str):
        raise _malformed(f"an Ed25519 signature of {SIGNATURE_BYTES} bytes", f"{len(sig)} bytes")
    return Signature(hint, sig)


def _decoded(value: Any, name: str) -> bytes:
    """Decodes standard or URL-safe base64, as the specification requires of verifiers."""
    if not isinstance(value, str):
        raise _malformed(f"base64 text as `{name}`", type(value).__name__)
    try:
        plain = value.encode("ascii").translate(bytes.maketrans(b"-_", b"+/"))
        return base64.b64decode(plain, validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise _malformed(f"base64 text as `{name}`", "other text") from error


_malformed = functools.partial(
    malformed,
    where="a DSSE envelope",
    command="secfad certify --sign",
    error=EnvelopeMalformed,
)
