"""Acceptances: bound to the words of an obligation, and no replacement for an acknowledgement."""

import dataclasses
import json

import pytest

from privacy.certificates.acceptances import Acceptance
from privacy.certificates.certificates import (
    Certificate,
    CertificateMalformed,
    CertificateMismatch,
    Obligation,
    specimen,
)
from privacy.certificates.envelopes import SignatureRefused
from privacy.certificates.run_certificates import signed_acceptances
from privacy.certificates.statements import sign, verify_signature
from secagg.crypto.primitives import SigningKey

KEY, OTHER = SigningKey(bytes(32)), SigningKey(bytes([1] * 32))
PLAIN = specimen()
(CONDITION,) = PLAIN.obligations
GOOD = Acceptance(
    CONDITION.rule, CONDITION.text, "phones stay online", "A. Doe", "2026-11-30", "m.py:loss"
)
ACCEPTED = PLAIN.with_acceptances([GOOD])


def test_certificate_carries_acceptances_of_its_obligations_only():
    others = [
        dataclasses.replace(GOOD, rule="FAD705"),
        dataclasses.replace(GOOD, text=GOOD.text + " twice"),
    ]
    assert PLAIN.with_acceptances([GOOD, *others]).acceptances == (GOOD,)
    assert Certificate.from_json(ACCEPTED.to_json()) == ACCEPTED
    assert ACCEPTED.id != PLAIN.id


def test_certificate_without_acceptances_is_written_and_read_as_before():
    body = json.loads(PLAIN.to_json())
    assert "acceptances" not in body
    assert Certificate.from_json(json.dumps(body)).acceptances == ()
    assert Certificate.from_json(json.dumps(body | {"acceptances": []})).id == PLAIN.id


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "FAD705"},
        {"text": "another condition"},
        {"reason": " "},
        {"by": ""},
        {"by": "A. Doe\nB. Roe"},
        {"program": "x" * 3000},
        {"date": "yesterday"},
        {"date": "20261130"},
        {"date": 7},
        {"more": "words"},
    ],
)
def test_other_acceptances_make_a_certificate_malformed(change):
    body = json.loads(ACCEPTED.to_json())
    body["acceptances"][0] |= change
    with pytest.raises(CertificateMalformed):
        Certificate.from_json(json.dumps(body))


def test_acceptance_replaces_no_acknowledgement():
    """The law: what a run refuses without acceptances, it refuses with them."""
    for certificate in (PLAIN, ACCEPTED):
        binding = {"digest": "0" * 64, "environment": certificate.environment}
        with pytest.raises(CertificateMismatch, match="FAD306"):
            certificate.check_binding(**binding)
        assert certificate.check_binding(**binding, acknowledged=("FAD306",)) == "primal"


def test_acceptances_of_a_signed_certificate_can_be_acknowledged():
    signed = sign(ACCEPTED, KEY)
    rules = signed_acceptances(signed, KEY.public)
    assert rules == ("FAD306",)
    binding = {"digest": "0" * 64, "environment": ACCEPTED.environment}
    certificate = verify_signature(signed, KEY.public)
    assert certificate.check_binding(**binding, acknowledged=rules) == "primal"
    assert signed_acceptances(sign(PLAIN, KEY), KEY.public) == ()


def test_rule_counts_as_accepted_only_with_all_its_obligations():
    two = (*PLAIN.obligations, Obligation(CONDITION.rule, "and once more"))
    certificate = dataclasses.replace(PLAIN, obligations=two)
    half = certificate.with_acceptances([GOOD])
    assert signed_acceptances(sign(half, KEY), KEY.public) == ()
    whole = certificate.with_acceptances([GOOD, dataclasses.replace(GOOD, text=two[1].text)])
    assert signed_acceptances(sign(whole, KEY), KEY.public) == ("FAD306",)


def test_acceptances_without_a_trusted_signature_are_refused():
    with pytest.raises(SignatureRefused, match="counts only with the signature"):
        signed_acceptances(ACCEPTED, KEY.public)
    with pytest.raises(SignatureRefused):
        signed_acceptances(sign(ACCEPTED, OTHER), KEY.public)
