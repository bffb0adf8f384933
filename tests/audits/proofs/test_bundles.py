"""A bundle is checked without its source, says what holds, and no damaged one is believed."""

import json
import random

import jax
import jax.numpy as jnp
import pytest
from usual_rounds import ROUNDS

import audits
import privacy
import secfad as fad
from audits.certifying import check_modes, issue
from audits.proofs.bundles import Bundle, is_bundle
from audits.proofs.pages import page
from audits.proofs.statements import Setting, answers, explain_text
from audits.proofs.verification import VerificationError
from privacy.certificates.acceptances import Acceptance
from privacy.certificates.certificates import CertificateError
from secagg.crypto.primitives import SigningKey

KEY = SigningKey(bytes(range(32)))
MECHANISM = privacy.Gaussian(noise_multiplier=1.0, clip_norm=0.5)


def bundle_of(subject, *specs, modes=("primal",), key=None):
    results = check_modes(subject, *specs, modes=modes)
    issued = issue(subject, results)
    made = issued if key is None else audits.sign(issued, key)
    return Bundle.of(made, {m: p for m, (_, p) in results.items()}, issued="2026-12-01")


def private(name):
    round_, specs = ROUNDS[name]
    return privacy.privatize(round_, *specs, mechanism=MECHANISM)


@pytest.fixture(scope="module")
def bundles():
    average, specs = ROUNDS["average"]
    histogram = ROUNDS["histogram_of_labels"]
    return {
        "plain": bundle_of(average, *specs, modes=("primal", "forward", "reverse", "mixed")),
        "signed": bundle_of(average, *specs, key=KEY),
        "loops": bundle_of(private("newton_by_hand")),
        "slots": bundle_of(histogram[0], *histogram[1]),
        "tree": bundle_of(private("low_rank_adapters")),
    }


NAMES = ["plain", "signed", "loops", "slots", "tree"]


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
    import dataclasses

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
    import dataclasses

    evil = dataclasses.replace(bundles[name].certificate, subject="<script>alert(1)</script>")
    text = page(dataclasses.replace(bundles[name], certificate=evil))
    assert "<script" not in text
    assert "http" not in text
    assert "&lt;script&gt;" in text


# Damage.


def damaged(text, rng):
    """A bundle with one value, character or piece changed."""
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        piece = rng.choice(["", "9", "-1", "null", '"', "]", "1e999", "K", "S", "C", "B"])
        return text[:at] + piece + text[at + rng.randrange(3) :]
    found = json.loads(text)
    if rng.random() < 0.5:
        mode = rng.choice(list(found["programs"]))
        form = json.loads(found["programs"][mode])
        _change(form, rng)
        found["programs"][mode] = json.dumps(form, separators=(",", ":"))
    else:
        _change(found["certificate"], rng)
    return json.dumps(found)


def _change(form, rng):
    """Changes one value somewhere inside."""
    while True:
        keys = list(form) if isinstance(form, dict) else list(range(len(form)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(form[key], dict | list) and form[key] and rng.random() < 0.9:
            form = form[key]
            continue
        kind = rng.randrange(4)
        if kind == 0 and isinstance(form, dict):
            del form[key]
        elif kind == 1:
            form[key] = rng.choice(VALUES)
        elif kind == 2 and isinstance(form, list):
            form.insert(key, form[rng.choice(keys)])
        else:
            form[key] = form[rng.choice(keys)]
        return


VALUES = [
    None,
    True,
    0,
    1,
    -1,
    2**70,
    1.5,
    float("inf"),
    "",
    "C",
    "S",
    "KKKK",
    [],
    {},
    [[]],
    "federated_sum",
]


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
