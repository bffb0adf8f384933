"""The certificate of a run: its signer, and its binding to the program that will run.

Sources: docs/certificates.md; docs/decisions/0040-signed-certificates.md.
"""

from collections.abc import Collection, Sequence

from privacy.certificates.certificates import Certificate, CertificateMismatch
from privacy.certificates.envelopes import Envelope, SignatureRefused
from privacy.certificates.statements import verify_signature
from privacy.errors import RunRefused
from privacy.mechanisms.privatization import PrivateProgram


def believed(
    private_program: PrivateProgram,
    certificate: Certificate | Envelope,
    trusted_key: bytes | None,
) -> Certificate:
    """The certificate, after its signature is verified if there is a trusted key."""
    if trusted_key is None and isinstance(certificate, Certificate):
        return certificate
    if trusted_key is not None and isinstance(certificate, Envelope):
        return verify_signature(certificate, trusted_key)
    expected = "a certificate" if trusted_key is None else "a signed certificate"
    got = "a signed one" if isinstance(certificate, Envelope) else type(certificate).__name__
    raise RunRefused(
        f"Expected {expected} of `{private_program.name}`, got {got}. Call "
        "audits.certify(private_program) first; pass a signed certificate with its trusted_key."
    )


def signed_acceptances(
    certificate: Envelope, trusted_key: bytes | Sequence[bytes]
) -> tuple[str, ...]:
    """The rules whose obligations a signed certificate says were accepted, for `acknowledge` of a run.

    A rule is left out if one of its obligations was not accepted.

    Guarantees:
      The holder of a trusted key signed the acceptances together with the obligations and the digests,
      so they are about this program.

    Raises:
      SignatureRefused: No trusted key signed it.
    """
    if not isinstance(certificate, Envelope):
        raise SignatureRefused(
            f"Expected a signed certificate, got {type(certificate).__name__}: an acceptance counts "
            "only with the signature of somebody the run trusts. Sign it with audits.sign."
        )
    found = verify_signature(certificate, trusted_key)
    accepted = {(a.rule, a.text) for a in found.acceptances}
    left = {o.rule for o in found.obligations if (o.rule, o.text) not in accepted}
    return tuple(dict.fromkeys(a.rule for a in found.acceptances if a.rule not in left))


def check_certificate(
    private_program: PrivateProgram, certificate: Certificate, acknowledge: Collection[str]
) -> None:
    """Refuses a run without a certificate of this program, mechanism, purpose and environment."""
    certificate.check_binding(
        digest=private_program.program.digest, acknowledged=acknowledge, profile="secagg+dp"
    )
    for what, certified, now in (
        ("mechanism", dict(certificate.mechanism), private_program.mechanism.record()),
        ("purpose", certificate.purpose, private_program.purpose),
    ):
        if certified != now:
            raise CertificateMismatch(
                f"FAD006: expected the certified {what} {certified}, got {now}. "
                "Certify the program with the mechanism and purpose that will run.",
                rule="FAD006",
            )
