"""Bundles: a certificate with the programs that it is about, in one file that anyone can check.

    loss.secfad = {certificate or signed envelope, programs in canonical form, date}

The programs are data: to check a bundle nothing of them runs, and neither their source nor JAX is
needed. They show shapes and operations, and numbers that stand in the program; of captured arrays
there are only hashes.

>>> from privacy.certificates.certificates import specimen
>>> text = Bundle.of(specimen(), {"primal": "{}"}, issued="2026-12-01").to_json()
>>> Bundle.from_json(text).certificate == specimen()
True

Source: SLSA and in-toto bundles, in which an attestation travels with what verifies it.
"""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from audits.proofs.verification import verify
from privacy.certificates.certificates import Certificate, CertificateMalformed
from privacy.certificates.envelopes import Envelope
from privacy.certificates.statements import PAYLOAD_TYPE, certificate_of, verify_signature

SCHEMA, VERSION = "urn:secfad:bundle", 1
MOST_BYTES = 512_000_000


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A certificate with the programs that it is about.

    Attributes:
      certificate: The statement and its evidence.
      programs: Mode to canonical form, one for every digest of the certificate.
      signed: The envelope of the certificate, if somebody signed it.
      issued: The day of issue; a bundle says so by itself.
      trusted: Whether the signature was verified with a trusted key.
    """

    certificate: Certificate
    programs: Mapping[str, str]
    signed: Envelope | None = None
    issued: str = ""
    trusted: bool = False

    @classmethod
    def of(
        cls,
        certificate: Certificate | Envelope,
        programs: Mapping[str, Any],
        *,
        issued: str | None = None,
    ) -> Self:
        """Puts a certificate and its programs together.

        Args:
          certificate: As `certify` or `sign` gives it.
          programs: Mode to traced program, or to its canonical form.
          issued: The day, as YYYY-MM-DD; today by default.

        Raises:
          CertificateMalformed: A mode of the certificate has no program.
        """
        signed = certificate if isinstance(certificate, Envelope) else None
        plain = _read(signed) if signed is not None else certificate
        assert isinstance(plain, Certificate)
        forms = {m: p if isinstance(p, str) else p.canonical for m, p in programs.items()}
        _require_modes(plain, forms)
        day = datetime.date.today().isoformat() if issued is None else issued
        return cls(plain, MappingProxyType(forms), signed, day)

    def verify(self) -> None:
        """Checks the proof of every mode.

        Guarantees:
          Every statement of the certificate that a program decides is true of the program in the
          bundle, as `audits.verify` says it. The signature is not checked: `from_json` does, given a
          key.

        Raises:
          VerificationError: At the first claim that does not hold.
        """
        for mode in self.certificate.digests:
            verify(self.certificate, self.programs[mode], mode)

    def to_json(self) -> str:
        """The text of the file."""
        statement = self.certificate if self.signed is None else self.signed
        body = {
            "schema": SCHEMA,
            "version": VERSION,
            "issued": self.issued,
            "certificate": json.loads(statement.to_json()),
            "programs": dict(self.programs),
        }
        return json.dumps(body, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, trusted_key: bytes | None = None) -> Self:
        """Reads a bundle; its proofs are checked by `verify`.

        Args:
          text: The text of the file.
          trusted_key: If given, the certificate must be signed with the private key of this one.

        Raises:
          CertificateMalformed: It is no bundle.
          SignatureRefused: A key was given, and it did not sign.
        """
        found = _parsed(text)
        statement, programs = found.get("certificate"), found.get("programs")
        if not isinstance(statement, dict) or not isinstance(programs, dict):
            raise _malformed("a certificate and programs", "others")
        if not all(isinstance(form, str) for form in programs.values()):
            raise _malformed("programs as text", "others")
        issued = found.get("issued")
        if not isinstance(issued, str):
            raise _malformed("a day of issue", repr(issued)[:40])
        raw = json.dumps(statement)
        signed = Envelope.from_json(raw) if "payloadType" in statement else None
        if trusted_key is not None:
            certificate = verify_signature(raw, trusted_key)
        else:
            certificate = Certificate.from_json(raw) if signed is None else _read(signed)
        _require_modes(certificate, programs)
        return cls(certificate, MappingProxyType(programs), signed, issued, trusted_key is not None)


def is_bundle(text: bytes) -> bool:
    """Whether a file says that it is a bundle."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("schema") == SCHEMA


def _read(signed: Envelope) -> Certificate:
    """The certificate of an envelope whose signature nobody has checked."""
    if signed.payload_type != PAYLOAD_TYPE:
        raise _malformed(f"a payload of type {PAYLOAD_TYPE}", signed.payload_type[:80])
    return certificate_of(signed.payload)


def _parsed(text: str | bytes) -> dict[str, Any]:
    if len(text) > MOST_BYTES:
        raise _malformed(f"at most {MOST_BYTES} bytes", str(len(text)))
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise _malformed("JSON", f"text that does not parse ({error})") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise _malformed(f"the schema {SCHEMA}", "another")
    if found.get("version") != VERSION or type(found["version"]) is not int:
        raise _malformed(f"version {VERSION}", repr(found.get("version"))[:40])
    names = {"schema", "version", "issued", "certificate", "programs"}
    if set(found) != names:
        raise _malformed(f"the fields {sorted(names)}", str(sorted(found))[:200])
    return found


def _require_modes(certificate: Certificate, programs: Mapping[str, str]) -> None:
    if set(certificate.digests) != set(programs):
        raise _malformed(
            f"a program for each mode {sorted(certificate.digests)}", str(sorted(programs))[:200]
        )


def _malformed(expected: str, got: str) -> CertificateMalformed:
    return CertificateMalformed(
        f"Expected {expected} in a bundle, got {got}. "
        "Issue it again with secfad certify FILE.py:NAME --bundle FILE.secfad."
    )
