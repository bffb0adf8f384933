"""Signed certificates: the published vectors of DSSE, and that nothing unsigned or altered is believed."""

import base64
import dataclasses
import json
from pathlib import Path

import pytest

from privacy.certificates import keys
from privacy.certificates.certificates import Certificate, CertificateMalformed, specimen
from privacy.certificates.cohort_ranges import CohortRange
from privacy.certificates.envelopes import Envelope, EnvelopeMalformed, SignatureRefused, pae, seal
from privacy.certificates.statements import (
    PAYLOAD_TYPE,
    PREDICATE,
    STATEMENT,
    read_certificate,
    sign,
    statement_of,
    verify_signature,
)
from secagg.crypto.primitives import SigningKey

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "dsse.json").read_text())
KEY, OTHER = SigningKey(bytes(range(32))), SigningKey(bytes(32))


@pytest.mark.parametrize("vector", VECTORS["pae"], ids=lambda v: v["type"] or "empty")
def test_encoding_equals_the_published_one(vector):
    assert pae(vector["type"], bytes.fromhex(vector["payload_hex"])).hex() == vector["pae_hex"]


@pytest.mark.parametrize("vector", VECTORS["signatures"], ids=lambda v: v["id"])
def test_published_envelopes_are_judged_as_published(vector):
    envelope = Envelope.from_json(json.dumps(vector["envelope"]))
    trusted = [bytes.fromhex(VECTORS["keys"]["A"]["public"])]
    if vector["expect"] == "accept":
        assert envelope.open(trusted, payload_type=vector["type"]) == envelope.payload
    else:
        with pytest.raises(SignatureRefused):
            envelope.open(trusted, payload_type=vector["type"])


def test_own_signature_equals_the_published_one():
    vector = VECTORS["signatures"][0]
    key = SigningKey(bytes.fromhex(VECTORS["keys"]["A"]["seed"]))
    payload = base64.b64decode(vector["envelope"]["payload"])
    made = seal(payload, vector["type"], key).signatures[0].sig
    assert base64.b64encode(made).decode() == vector["envelope"]["signatures"][0]["sig"]


def test_statement_names_the_digests_as_subjects():
    made = statement_of(specimen())
    assert made["_type"] == STATEMENT
    assert made["predicateType"] == PREDICATE
    assert made["subject"] == [{"name": "specimen#primal", "digest": {"sha256": "0" * 64}}]


def test_signed_certificate_returns_from_its_text():
    text = sign(specimen(), KEY).to_json()
    assert verify_signature(text, KEY.public) == specimen()
    assert verify_signature(Envelope.from_json(text), [OTHER.public, KEY.public])


def test_other_key_is_refused():
    with pytest.raises(SignatureRefused, match="do not verify"):
        verify_signature(sign(specimen(), KEY), OTHER.public)
    with pytest.raises(SignatureRefused, match="no trusted key"):
        verify_signature(sign(specimen(), KEY), [])


def test_key_that_anybody_can_sign_for_is_not_trusted():
    with pytest.raises(ValueError, match="small order"):
        verify_signature(sign(specimen(), KEY), bytes(32))


def altered_payload(envelope, change):
    body = json.loads(base64.b64decode(envelope["payload"]))
    change(body)
    return envelope | {"payload": base64.b64encode(json.dumps(body).encode()).decode()}


FORGERIES = {
    "another digest": lambda e: altered_payload(
        e, lambda b: b["predicate"]["digests"].update(primal="1" * 64)
    ),
    "no obligations": lambda e: altered_payload(e, lambda b: b["predicate"].update(obligations=[])),
    "another type": lambda e: e | {"payloadType": "application/json"},
    "signature of nothing": lambda e: (
        e | {"signatures": [{"sig": base64.b64encode(bytes(64)).decode()}]}
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_envelope_is_refused(forgery):
    envelope = FORGERIES[forgery](json.loads(sign(specimen(), KEY).to_json()))
    with pytest.raises(SignatureRefused, match="altered"):
        verify_signature(json.dumps(envelope), KEY.public)


def test_every_altered_byte_of_a_payload_is_refused():
    envelope = sign(specimen(), KEY)
    for position in range(len(envelope.payload)):
        flipped = bytearray(envelope.payload)
        flipped[position] ^= 1
        with pytest.raises(SignatureRefused):
            dataclasses.replace(envelope, payload=bytes(flipped)).open(
                [KEY.public], payload_type=PAYLOAD_TYPE
            )


def test_payload_signed_as_something_else_is_refused():
    body = json.dumps(statement_of(specimen())).encode()
    envelope = seal(body, "application/vnd.example+json", KEY)
    with pytest.raises(SignatureRefused, match="for another type"):
        verify_signature(envelope, KEY.public)


TEXTS = {
    "nothing": "",
    "a list": "[]",
    "no signatures": '{"payload": "", "payloadType": "t", "signatures": []}',
    "a signature that is text": '{"payload": "", "payloadType": "t", "signatures": ["x"]}',
    "a short signature": '{"payload": "", "payloadType": "t", "signatures": [{"sig": "AAAA"}]}',
    "payload that is no base64": '{"payload": "§", "payloadType": "t", "signatures": [{"sig": ""}]}',
    "type that is a number": '{"payload": "", "payloadType": 1, "signatures": [{"sig": ""}]}',
}


@pytest.mark.parametrize("what", TEXTS)
def test_text_that_is_no_envelope_is_refused(what):
    with pytest.raises(EnvelopeMalformed, match="Expected"):
        verify_signature(TEXTS[what], KEY.public)


def test_every_truncation_is_refused():
    text = sign(specimen(), KEY).to_json()
    for length in range(0, len(text), 7):
        with pytest.raises(EnvelopeMalformed):
            verify_signature(text[:length], KEY.public)


STATEMENTS = {
    "another statement type": lambda s: s | {"_type": "https://in-toto.io/Statement/v0.1"},
    "another predicate": lambda s: s | {"predicateType": "https://slsa.dev/provenance/v1"},
    "a former predicate": lambda s: s | {"predicateType": "https://secfad.dev/certificate/v1"},
    "subjects of another program": lambda s: (
        s | {"subject": [{"name": "specimen#primal", "digest": {"sha256": "1" * 64}}]}
    ),
    "no subject": lambda s: s | {"subject": []},
    "no predicate": lambda s: {k: v for k, v in s.items() if k != "predicate"},
    "no object": lambda s: [s],
}


@pytest.mark.parametrize("what", STATEMENTS)
def test_signed_statement_about_something_else_is_refused(what):
    body = json.dumps(STATEMENTS[what](statement_of(specimen()))).encode()
    with pytest.raises(CertificateMalformed, match="Expected"):
        verify_signature(seal(body, PAYLOAD_TYPE, KEY), KEY.public)


def test_unknown_field_of_a_statement_is_ignored_as_the_layer_demands():
    body = json.dumps(statement_of(specimen()) | {"later": 1}).encode()
    signed = seal(body, PAYLOAD_TYPE, KEY)
    assert verify_signature(signed, KEY.public) == specimen()


def test_file_is_believed_only_in_the_form_that_was_asked_for():
    plain, signed = specimen().to_json(), sign(specimen(), KEY).to_json()
    assert read_certificate(plain) == read_certificate(signed, KEY.public) == specimen()
    with pytest.raises(SignatureRefused, match="without a signature"):
        read_certificate(plain, KEY.public)
    with pytest.raises(SignatureRefused, match="trusted key"):
        read_certificate(signed)


def test_key_files_return_the_key_and_are_never_overwritten(tmp_path):
    private, public = keys.new_key_files(tmp_path / "ci.pem", entropy=lambda n: bytes(range(n)))
    assert private.stat().st_mode & 0o077 == 0
    assert keys.read_signing_key(private).public == keys.read_public_key(public) == KEY.public
    with pytest.raises(FileExistsError):
        keys.new_key_files(tmp_path / "ci.pem")
    public.unlink()
    with pytest.raises(FileExistsError):
        keys.new_key_files(tmp_path / "ci.pem")


def test_key_file_of_rfc_8410_is_read(tmp_path):
    path = tmp_path / "rfc.pem"
    path.write_text(VECTORS["rfc8410"]["private"])
    public = keys.public_from_pem(VECTORS["rfc8410"]["public"])
    assert keys.read_signing_key(path).public == public


@pytest.mark.parametrize(
    "text",
    ["", "text", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
     "-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n",
     "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"],
)  # fmt: skip
def test_other_key_file_is_refused_without_showing_it(tmp_path, text):
    path = tmp_path / "k.pem"
    path.write_text(text)
    with pytest.raises(keys.KeyMalformed, match="Expected") as caught:
        keys.read_signing_key(path)
    assert "AAAA" not in str(caught.value)


def test_key_of_another_algorithm_is_refused(tmp_path):
    x25519 = bytes.fromhex("302e020100300506032b656e04220420") + bytes(range(32))
    body = base64.b64encode(x25519).decode()
    path = tmp_path / "k.pem"
    path.write_text(f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    with pytest.raises(keys.KeyMalformed, match="another algorithm"):
        keys.read_signing_key(path)


def test_public_key_is_not_taken_for_a_private_one(tmp_path):
    private, public = keys.new_key_files(tmp_path / "k")
    for read, path in ((keys.read_signing_key, public), (keys.read_public_key, private)):
        with pytest.raises(keys.KeyMalformed, match="Expected"):
            read(path)


@pytest.mark.parametrize("clients", [1, 11])
def test_cohort_outside_the_certified_range_is_refused(clients):
    certificate = dataclasses.replace(specimen(), cohort=CohortRange(2, 10, "sums can wrap"))
    certificate.check_cohort(2)
    certificate.check_cohort(10)
    with pytest.raises(Exception, match=r"FAD605.*sums can wrap") as caught:
        certificate.check_cohort(clients)
    assert caught.value.rule == "FAD605"


def test_certificate_without_a_range_covers_no_cohort():
    bare = Certificate(subject="s", digests={"primal": "0" * 64}, profile="secagg", environment={})
    with pytest.raises(Exception, match="no range is stated"):
        bare.check_cohort(100)
