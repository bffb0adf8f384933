"""Signed certificates: an in-toto Statement about a program, in a DSSE envelope.

    certificate --statement--> {subject: digests, predicateType, predicate: certificate} --seal--> envelope

The subjects of the statement are the program's digests, one per certified mode, so tools that do
not know certificates can still find its subject. A digest is the SHA-256 of the canonical form of a
program. An unsigned certificate binds a run to a program; a signature also states who vouches that
the checker ran. A signed certificate is an envelope, untrusted until its signature is verified.

>>> from privacy.certificates.certificates import specimen
>>> key = SigningKey(bytes(32))
>>> verify_signature(sign(specimen(), key), key.public) == specimen()
True

Sources: in-toto attestation framework, Statement v1; DSSE 1.0; docs/decisions/0040-signed-certificates.md.
"""

import functools
import json
from collections.abc import Sequence
from typing import Any

from privacy.certificates.certificates import (
    Certificate,
    CertificateError,
    CertificateMalformed,
    malformed,
    parsed,
)
from privacy.certificates.envelopes import Envelope, SignatureRefused, seal
from privacy.checking import expect
from secagg.crypto.primitives import SigningKey

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:secfad:certificate:v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


def sign(certificate: Certificate, key: SigningKey) -> Envelope:
    """Signs a certificate as an in-toto Statement, with a key of `keys.read_signing_key`.

    Raises:
      CertificateError: One of the two is something else.
    """
    advice = "Call audits.certify(program)."
    expect(certificate, Certificate, "certificate", "a certificate", advice, CertificateError)
    advice = "Call privacy.certificates.keys.read_signing_key(path)."
    expect(key, SigningKey, "key", "a signing key", advice, CertificateError)
    payload = json.dumps(statement_of(certificate), sort_keys=True, separators=(",", ":"))
    return seal(payload.encode(), PAYLOAD_TYPE, key)


def verify_signature(
    signed: Envelope | str | bytes, trusted_key: bytes | Sequence[bytes]
) -> Certificate:
    """The certificate of an envelope that a trusted key signed.

    Guarantees:
      The holder of a trusted key signed the returned certificate, byte for byte, as a statement
      about exactly its digests.

    Args:
      signed: The envelope, or its text.
      trusted_key: Ed25519 public key of 32 bytes, or several of which one suffices.

    Raises:
      EnvelopeMalformed: The text is not an envelope.
      SignatureRefused: No trusted key signed it, or it is signed as something else.
      CertificateMalformed: The signed statement is not about a program.
    """
    if not isinstance(signed, Envelope):
        signed = Envelope.from_json(signed)
    trusted = [trusted_key] if isinstance(trusted_key, bytes) else list(trusted_key)
    return certificate_of(signed.open(trusted, payload_type=PAYLOAD_TYPE))


def read_certificate(text: str | bytes, trusted_key: bytes | None = None) -> Certificate:
    """Reads a certificate, signed or unsigned.

    Args:
      text: A certificate, or an envelope with one.
      trusted_key: If given, only an envelope with a signature of this key is accepted.

    Raises:
      SignatureRefused: A key was given for an unsigned text, or no key for a signed one.
      CertificateError: The text is neither, or the signature does not verify.
    """
    signed = _looks_signed(text)
    if trusted_key is not None:
        if not signed:
            raise SignatureRefused(
                "Expected a certificate signed by the trusted key, got one without a signature. "
                "Issue it with secfad certify --sign, or leave the key out."
            )
        return verify_signature(text, trusted_key)
    if signed:
        raise SignatureRefused(
            "Expected a trusted key for a signed certificate, got none: an envelope is untrusted "
            "before its signature is verified. Pass the public key of its issuer."
        )
    return Certificate.from_json(text)


def statement_of(certificate: Certificate) -> dict[str, Any]:
    """The certificate as the predicate of a statement about its digests."""
    return {
        "_type": STATEMENT,
        "subject": _subjects(certificate),
        "predicateType": PREDICATE,
        "predicate": certificate.to_dict(),
    }


def certificate_of(payload: str | bytes) -> Certificate:
    """Reads a statement. Ignores fields that are unknown to the statement layer, as in-toto
    requires.

    Raises:
      CertificateMalformed: Another statement or predicate type, a predicate that is not a
        certificate, or subjects that are not its digests.
    """
    found = parsed(payload, _malformed)
    for name, expected in (("_type", STATEMENT), ("predicateType", PREDICATE)):
        if found.get(name) != expected:
            raise _malformed(f"`{name}` {expected}", repr(found.get(name))[:80])
    certificate = Certificate.from_json(json.dumps(found.get("predicate")))
    if found.get("subject") != _subjects(certificate):
        raise _malformed("the digests of its certificate as subjects", "others")
    return certificate


def _subjects(certificate: Certificate) -> list[dict[str, Any]]:
    return [
        {"name": f"{certificate.subject}#{mode}", "digest": {"sha256": digest}}
        for mode, digest in sorted(certificate.digests.items())
    ]


def _looks_signed(text: str | bytes) -> bool:
    try:
        return "payloadType" in parsed(text, malformed)
    except CertificateMalformed:
        return False


_malformed = functools.partial(
    malformed, where="an in-toto statement", command="secfad certify --sign"
)
