"""A bundle is checked without its source, says what holds, and no damaged one is believed."""

import dataclasses
import random

import jax
import jax.numpy as jnp
import pytest
from damaged_bundles import KEY, NAMES, damaged

import privacy
import secfad as fad
from audits.proofs.bundles import Bundle, is_bundle
from audits.proofs.pages import page
from audits.proofs.statements import Setting, answers, explain_text
from audits.proofs.verification import VerificationError
from privacy.certificates.acceptances import Acceptance
from privacy.certificates.certificates import CertificateError
from secagg.crypto.primitives import SigningKey


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_survives_its_file_and_is_verified(bundles, name):
    text = bundles[name].to_json()
    assert is_bundle(text.encode())
    again = Bundle.from_json(text, KEY.public if name == "signed" else None)
    again.verify()
    assert again.certificate == bundles[name].certificate
    assert again.trusted == (name == "signed")


def test_a_key_that_did_not_sign_is_refused(bundles):
    with pytest.raises(CertificateError):
        Bundle.from_json(bundles["signed"].to_json(), SigningKey(bytes(32)).public)
    with pytest.raises(CertificateError):
        Bundle.from_json(bundles["plain"].to_json(), KEY.public)


def test_a_bundle_has_a_program_for_every_mode(bundles):
    with pytest.raises(CertificateError, match="a program for each mode"):
        Bundle.of(bundles["plain"].certificate, {"primal": bundles["plain"].programs["primal"]})


def test_a_bundle_shows_no_captured_data():
    secret = jnp.arange(7.0) + 0.123

    @fad.computation(x=fad.CLIENTS)
    def shifted(x):
        return fad.sum(x - secret)

    program = fad.trace(shifted, jax.ShapeDtypeStruct((7,), jnp.float32))
    assert "0.123" not in program.canonical
    assert "1.123" not in program.canonical
    assert "sha256:" in program.canonical


def test_answers_are_given_to_every_question(bundles):
    for bundle in bundles.values():
        found = {a.question: a.verdict for a in answers(bundle.certificate)}
        assert list(found) == ["Communication", "Bounds", "Derivative", "Reveals", "To accept"]
        is_private = bundle.certificate.profile == "secagg+dp"
        assert ("not a privacy claim" in found["Bounds"]) != is_private
    assert "stand out" in answers(bundles["slots"].certificate)[3].verdict
    assert "FAD602" in answers(bundles["slots"].certificate)[4].sentences[0]


def test_who_accepted_what_is_said(bundles):
    bundle = bundles["slots"]
    [obligation] = [o for o in bundle.certificate.obligations if o.rule == "FAD602"][:1]
    accepted = Acceptance(
        "FAD602", obligation.text, "labels are public", "N. N.", "2026-12-01", "h"
    )
    certificate = bundle.certificate.with_acceptances([accepted])
    text = explain_text(dataclasses.replace(bundle, certificate=certificate))
    assert "FAD602 was accepted by N. N. on 2026-12-01: labels are public" in text


def test_the_stated_epsilon_is_that_of_the_schedule(bundles):
    text = explain_text(bundles["loops"], Setting(steps=3, sampling_rate=0.5))
    gaussian = {"type": "gaussian", "noise_multiplier": 1.0}
    once = {
        "type": "poisson",
        "q": 0.5,
        "event": {"type": "self_composed", "event": gaussian, "count": 4},
    }
    price = privacy.epsilon({"type": "self_composed", "event": once, "count": 3}, 1e-5)
    assert f"epsilon {price:.3g} at delta 1e-05" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_page_escapes_and_needs_no_network(bundles, name):
    evil = dataclasses.replace(bundles[name].certificate, subject="<script>alert(1)</script>")
    text = page(dataclasses.replace(bundles[name], certificate=evil))
    assert "<script" not in text
    assert "http" not in text
    assert "&lt;script&gt;" in text


# Damage.


def said(certificate):
    """What a proof decides, apart from limits that may be stated larger."""
    schedule = {
        mode: [(m.kind, m.name, m.shape, m.dtype, m.bytes, m.count, m.phase) for m in messages]
        for mode, messages in certificate.schedule.items()
    }
    return dict(certificate.digests), schedule


@pytest.mark.parametrize(
    "count",
    [pytest.param(300, id="short"), pytest.param(10_000, id="long", marks=pytest.mark.slow)],
)
def test_damaged_bundles_are_refused_or_say_nothing_else(bundles, count):
    rng, believed = random.Random(count), 0
    texts = {name: bundles[name].to_json() for name in NAMES}
    for number in range(count):
        name = NAMES[number % len(NAMES)]
        text = damaged(texts[name], rng)
        try:
            found = Bundle.from_json(text)
            found.verify()
        except (CertificateError, VerificationError):
            continue
        believed += 1
        assert said(found.certificate) == said(bundles[name].certificate)
        assert {**found.programs} == {**bundles[name].programs}
        for mode, bounds in bundles[name].certificate.bounds.items():
            pairs = zip(found.certificate.bounds[mode], bounds, strict=True)
            assert all(a.norm >= b.norm * (1 - 1e-8) for a, b in pairs)
        explain_text(found)
        page(found)
    assert believed < count / 2


def test_bounds_without_noise_are_no_privacy_claim(bundles):
    certificate = dataclasses.replace(bundles["loops"].certificate, mechanism={})
    found = {a.question: a for a in answers(certificate)}
    assert "not a privacy claim" in found["Bounds"].sentences[0]
    assert "Noise" not in found["Reveals"].verdict


@pytest.mark.parametrize(
    "setting", [Setting(sampling_rate=2.0), Setting(steps=0), Setting(delta=0)]
)
def test_a_setting_without_a_price_is_said(bundles, setting):
    assert "No epsilon:" in explain_text(bundles["loops"], setting)
