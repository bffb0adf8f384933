"""Every field of a certificate is altered: the run, the verifier or a signature refuses it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import audits
import privacy
import secfad as fad
from audits.proofs.verification import VerificationError, verify
from privacy.certificates.acceptances import Acceptance
from privacy.certificates.certificates import Certificate, CertificateError, Obligation
from privacy.certificates.cohort_ranges import CohortRange
from privacy.certificates.envelopes import Envelope
from privacy.certificates.run_certificates import signed_acceptances
from privacy.certificates.statements import sign, verify_signature
from secagg.crypto.primitives import SigningKey

CLIENTS = 6
SPEC = jax.ShapeDtypeStruct((4,), jnp.float32)
MECHANISM = privacy.Gaussian(noise_multiplier=2.0, clip_norm=1.5)
EVERYONE = privacy.FullParticipation(population=CLIENTS)
KEY, OTHER = SigningKey(bytes(range(32))), SigningKey(bytes(32))


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def mean_step(model, x):
    return model + fad.mean(x - fad.broadcast(model, name="model"), name="delta")


@pytest.fixture(scope="module")
def private():
    return privacy.privatize(mean_step, SPEC, SPEC, mechanism=MECHANISM)


@pytest.fixture(scope="module")
def certificate(private):
    return audits.certify(private)


@pytest.fixture
def evaluate(private, tmp_path):
    """Runs the program under a certificate; gives the ledger's records too."""
    slots = [privacy.Slot("training", 1.0, 1.9, 5)]
    data = np.random.default_rng(0).normal(size=(CLIENTS, 4)).astype(np.float32) / 8
    budget = privacy.Budget(50.0, 1e-5)
    with privacy.Ledger.create(
        tmp_path / "ledger.db", budget, population=CLIENTS, slots=slots
    ) as ledger:

        def run(certificate, **options):
            return privacy.run(
                private, (np.zeros(4, np.float32), data), certificate=certificate, ledger=ledger,
                cohort=EVERYONE.draw(), run_id="attack", round=0, fidelity="ideal", **options,
            )  # fmt: skip

        run.ledger = ledger
        yield run


def message(certificate, **changes):
    first, *rest = certificate.schedule["primal"]
    return {"primal": (dataclasses.replace(first, **changes), *rest)}


def bound(certificate, **changes):
    first, *rest = certificate.bounds["primal"]
    return {"primal": (dataclasses.replace(first, **changes), *rest)}


# Field: how it is altered, and who notices without a signature. What nobody notices is information for
# people, which only a signature protects.
ALTERED = {
    "digests": (lambda c: {"primal": "1" * 64}, "both"),
    "profile": (lambda c: "secagg", "run"),
    "environment": (lambda c: {**c.environment, "jax": "0.0.1"}, "run"),
    "mechanism": (lambda c: {**c.mechanism, "noise_multiplier": 9.0}, "run"),
    "purpose": (lambda c: "evaluation", "run"),
    "cohort": (lambda c: CohortRange(2, CLIENTS - 1, "altered"), "run"),
    "arguments": (lambda c: c.arguments[1:], "verifier"),
    "schedule": (lambda c: message(c, shape=(5,)), "verifier"),
    "bounds": (lambda c: bound(c, norm=0.1), "verifier"),
    "evidence": (lambda c: {"primal": {"": "S" * len(c.evidence["primal"][""])}}, "verifier"),
    "obligations": (lambda c: (*c.obligations, Obligation("FAD306", "altered")), "run"),
    "subject": (lambda c: "another", "signature"),
    "clients": (lambda c: {**c.clients, "readdress": True}, "signature"),
    "notes": (lambda c: (), "signature"),
    "assumptions": (lambda c: (), "verifier"),
}


def altered(certificate, field):
    return dataclasses.replace(certificate, **{field: ALTERED[field][0](certificate)})


def test_the_table_names_every_field():
    # Acceptances are about obligations, which this certificate does not have: see the last tests.
    assert {*ALTERED, "acceptances"} == {f.name for f in dataclasses.fields(Certificate)}


@pytest.mark.parametrize("field", [f for f in ALTERED if ALTERED[f][1] in ("run", "both")])
def test_run_refuses_the_altered_field_before_anything_is_charged(certificate, evaluate, field):
    with pytest.raises(CertificateError):
        evaluate(altered(certificate, field))
    assert not list(evaluate.ledger.find("attack"))


@pytest.mark.parametrize("field", [f for f in ALTERED if ALTERED[f][1] in ("verifier", "both")])
def test_verifier_refuses_the_altered_field(certificate, private, field):
    verify(certificate, private.program)
    with pytest.raises(VerificationError):
        verify(altered(certificate, field), private.program)


@pytest.mark.parametrize("field", ALTERED)
def test_signature_does_not_fit_the_altered_field(certificate, field):
    envelope = sign(certificate, KEY)
    forged = sign(altered(certificate, field), OTHER)
    assert forged.payload != envelope.payload
    mixed = dataclasses.replace(envelope, payload=forged.payload)
    for attack in (forged, mixed):
        with pytest.raises(CertificateError, match="do not verify"):
            verify_signature(attack, KEY.public)


def test_run_with_a_trusted_key_asks_for_its_signature(certificate, evaluate):
    for refused in (certificate, certificate.to_json(), sign(certificate, OTHER)):
        with pytest.raises((privacy.RunRefused, CertificateError)):
            evaluate(refused, trusted_key=KEY.public)
    with pytest.raises(privacy.RunRefused, match="trusted_key"):
        evaluate(sign(certificate, KEY))
    assert not list(evaluate.ledger.find("attack"))
    assert evaluate(sign(certificate, KEY), trusted_key=KEY.public).seq > 0


def test_run_under_a_certificate_that_travelled_as_text(certificate, evaluate):
    text = sign(certificate, KEY).to_json()
    signed = Envelope.from_json(json.dumps(json.loads(text), indent=2))
    assert evaluate(signed, trusted_key=KEY.public).seq > 0


def test_certificate_of_another_program_is_refused_although_its_signature_is_good(evaluate):
    other = privacy.privatize(fad.grad(square, 0, mode="forward"), SPEC, SPEC, mechanism=MECHANISM)
    with pytest.raises(CertificateError, match="FAD006"):
        evaluate(sign(audits.certify(other), KEY), trusted_key=KEY.public)


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def square(model, x):
    return fad.mean(jnp.sum((x - fad.broadcast(model)) ** 2), name="loss")


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def asks_twice(model, x):
    return jnp.sum(jnp.tanh(fad.mean(jnp.sin(fad.broadcast(model) * x), name="delta")))


@pytest.fixture(scope="module")
def conditional():
    """A program whose certificate has obligations, and that certificate with all of them accepted."""
    mechanism = privacy.Gaussian(noise_multiplier=2.0, clip_norm=1.0)
    program = privacy.privatize(
        fad.grad(asks_twice, 0, mode="reverse"), SPEC, SPEC, mechanism=mechanism
    )
    issued = audits.certify(program)
    who = ("they stay online", "A. Doe", "2026-11-30", "test:asks_twice")
    accepted = [Acceptance(o.rule, o.text, *who) for o in issued.obligations]
    assert "FAD306" in [a.rule for a in accepted]
    return program, issued, issued.with_acceptances(accepted)


@pytest.fixture
def evaluate_conditional(conditional, tmp_path):
    program = conditional[0]
    slots = [privacy.Slot("training", 1.0, 1.4, 5)]  # two releases each
    data = np.random.default_rng(0).normal(size=(CLIENTS, 4)).astype(np.float32) / 8
    with privacy.Ledger.create(
        tmp_path / "ledger.db", privacy.Budget(50.0, 1e-5), population=CLIENTS, slots=slots
    ) as ledger:
        yield lambda certificate, **options: privacy.run(
            program, (np.ones(4, np.float32), data), certificate=certificate, ledger=ledger,
            cohort=EVERYONE.draw(), run_id="attack", round=0, fidelity="ideal", **options,
        )  # fmt: skip


def test_run_asks_for_acknowledgements_whatever_was_accepted(conditional, evaluate_conditional):
    _, _, accepted = conditional
    with pytest.raises(CertificateError, match=accepted.obligations[0].rule):
        evaluate_conditional(accepted)
    with pytest.raises(CertificateError, match=accepted.obligations[0].rule):
        evaluate_conditional(sign(accepted, KEY), trusted_key=KEY.public)


def test_run_takes_over_what_the_trusted_signer_had_accepted(conditional, evaluate_conditional):
    program, issued, accepted = conditional
    signed = sign(accepted, KEY)
    verify(accepted, program.program)
    rules = signed_acceptances(signed, KEY.public)
    assert evaluate_conditional(signed, trusted_key=KEY.public, acknowledge=rules).seq > 0
    assert signed_acceptances(sign(issued, KEY), KEY.public) == ()


def test_verifier_asks_for_an_obligation_that_was_accepted(conditional):
    program, _, accepted = conditional
    hidden = dataclasses.replace(accepted, obligations=(), acceptances=())
    with pytest.raises(VerificationError):
        verify(hidden, program.program)
    with pytest.raises(CertificateError, match="acceptances of its own obligations"):
        dataclasses.replace(accepted, obligations=())
