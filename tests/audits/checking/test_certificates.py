"""Certificates: what they bind, and that altered ones are refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

import audits
import secfad as fad
from privacy.certificates.certificates import (
    Certificate,
    CertificateMalformed,
    CertificateMismatch,
    current_environment,
)
from privacy.mechanisms.mechanisms import Gaussian
from privacy.mechanisms.privatization import privatize


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@fad.computation(rate=fad.SERVER, w=fad.SERVER, x=fad.CLIENTS)
def two_rounds(rate, w, x):
    loss = lambda w, x: jnp.mean(jnp.sin(x @ w) ** 2)
    g = fad.mean(jax.grad(loss)(fad.broadcast(w, name="model"), x), name="delta")
    return fad.mean(loss(fad.broadcast(w - rate * g, name="new"), x), name="loss")


SPECS = (spec(), spec(3), spec(5, 3))


@pytest.fixture(scope="module")
def certificate():
    return audits.assert_certified(two_rounds, *SPECS)


@pytest.fixture(scope="module")
def private():
    mechanism = Gaussian(noise_multiplier=1.0, clip_norm={"delta*": 0.5, "*": 2.0})
    return privatize(fad.value_and_grad(two_rounds, 0, mode="mixed"), *SPECS, mechanism=mechanism)


def test_every_mode_of_a_closed_program_is_certified(certificate):
    assert set(certificate.digests) == {"primal", "forward", "reverse", "mixed"}
    assert len(set(certificate.digests.values())) == 4


@pytest.mark.parametrize("mode", ["factored", "blockwise"])
def test_the_modes_that_save_messages_are_certified_on_request(mode):
    made = audits.certify(two_rounds, *SPECS, modes=(mode,))
    cotangent = spec()
    pulled = fad.trace(fad.vjp(two_rounds, (0, 1), mode=mode), *SPECS, cotangent)
    assert made.digests == {mode: pulled.digest}


def test_json_round_trip_keeps_everything(certificate):
    assert Certificate.from_json(certificate.to_json()) == certificate
    assert Certificate.from_json(certificate.to_json()).id == certificate.id


def test_schedule_agrees_with_the_costs_of_the_program():
    for mode in ("forward", "reverse", "mixed"):
        program = fad.trace(fad.value_and_grad(two_rounds, 0, mode=mode), *SPECS)
        facts = audits.certifying.check_modes(program)["primal"][0].facts
        costs = program.costs
        # An engine also waits for the survivors of a sum whose number it divides by.
        assert facts.rounds <= costs.rounds
        assert facts.readdress == costs.readdressed
        assert (facts.up_bytes, facts.down_bytes) == (costs.up_bytes, costs.down_bytes)
        assert (facts.sums, facts.broadcasts) == (costs.sums, costs.broadcasts)


def test_private_program_states_its_bounds(private):
    certificate = audits.certify(private)
    bounds = certificate.bounds["primal"]
    assert {(b.sum, b.norm) for b in bounds} >= {("delta", 0.5), ("loss", 2.0)}
    assert all(b.proof == "clip" for b in bounds)
    assert certificate.profile == "secagg+dp"


def test_private_program_with_a_larger_clip_than_its_mechanism_is_refused(private):
    small = Gaussian(noise_multiplier=1.0, clip_norm={"delta*": 0.25, "*": 2.0})
    altered = dataclasses.replace(private, mechanism=small)
    with pytest.raises(audits.CertificationError, match="FAD406"):
        audits.certify(altered)


def test_private_program_without_its_clips_is_refused(private):
    plain = fad.trace(fad.value_and_grad(two_rounds, 0, mode="mixed"), *SPECS)
    with pytest.raises(audits.CertificationError, match="FAD401"):
        audits.certify(dataclasses.replace(private, program=plain))


def test_another_program_is_refused(certificate):
    with pytest.raises(CertificateMismatch, match="FAD006") as caught:
        certificate.check_binding(digest="0" * 64)
    assert caught.value.rule == "FAD006"


def test_constants_with_the_same_text_give_different_digests():
    def program(value):
        constant = jnp.full((3,), value)

        @fad.computation(v=fad.CLIENTS)
        def f(v):
            return fad.sum(v * constant)

        return audits.certify(f, spec(3)).digests["primal"]

    assert program(1.0) != program(2.0)
    assert program(1.0) == program(1.0)


@pytest.mark.parametrize("field", sorted(current_environment()))
def test_another_environment_is_refused_and_named(certificate, field):
    changed = current_environment() | {field: "other"}
    with pytest.raises(CertificateMismatch, match=f"FAD010: {field}"):
        certificate.check_binding(digest=certificate.digests["primal"], environment=changed)


def test_flags_of_the_compiler_that_change_numbers_are_part_of_the_environment(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_dump_to=/tmp")
    assert current_environment()["xla_flags"] == ""
    flags = ["--xla_cpu_enable_fast_math=true", "--xla_cpu_fast_math_honor_nans=false"]
    for order in (flags, flags[::-1]):
        monkeypatch.setenv("XLA_FLAGS", " ".join(order))
        assert current_environment()["xla_flags"] == " ".join(sorted(flags))


def test_obligation_must_be_acknowledged_and_only_that():
    @fad.computation(w=fad.SERVER, v=fad.CLIENTS)
    def nonlinear(w, v):
        return jnp.sum(jnp.tanh(fad.mean(jnp.sin(fad.broadcast(w) * v))))

    certificate = audits.certify(nonlinear, spec(3), spec(3), modes=("reverse",))
    digest = certificate.digests["reverse"]
    assert [o.rule for o in certificate.obligations] == ["FAD306"]
    with pytest.raises(CertificateMismatch, match="acknowledged"):
        certificate.check_binding(digest=digest)
    with pytest.raises(CertificateMismatch, match="FAD602"):
        certificate.check_binding(digest=digest, acknowledged=("FAD306", "FAD602"))
    assert certificate.check_binding(digest=digest, acknowledged=("FAD306",)) == "reverse"


def test_communication_alone_does_not_license_a_private_run(certificate):
    digest = certificate.digests["primal"]
    with pytest.raises(CertificateMismatch, match=r"secagg\+dp"):
        certificate.check_binding(digest=digest, profile="secagg+dp")


ATTACKS = {
    "another schema": lambda d: d | {"schema": "https://example.com"},
    "a former schema": lambda d: d | {"schema": "https://secfad.dev/certificate"},
    "another version": lambda d: d | {"version": 2},
    "a version that equals one": lambda d: d | {"version": True},
    "an unknown field": lambda d: d | {"signed": True},
    "a missing field": lambda d: {k: v for k, v in d.items() if k != "obligations"},
    "a short digest": lambda d: d | {"digests": {"primal": "ab"}},
    "no digest": lambda d: d | {"digests": {}},
    "a digest in capitals": lambda d: d | {"digests": {"primal": "A" * 64}},
    "an unknown profile": lambda d: d | {"profile": "dp"},
    "an obligation without text": lambda d: d | {"obligations": [{"rule": "FAD306"}]},
    "a schedule that is a list": lambda d: d | {"schedule": []},
    "bytes that are text": lambda d: d | {"schedule": {"primal": [_message(bytes="16")]}},
    "bytes that are a flag": lambda d: d | {"schedule": {"primal": [_message(bytes=True)]}},
    "environment with a number": lambda d: d | {"environment": {"jax": 1}},
}


def _message(**changes):
    made = {"kind": "sum", "name": "s", "shape": [3], "dtype": "float32", "bytes": 12,
            "phase": 1, "count": 1, "line": ""}  # fmt: skip
    return made | changes


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_malformed_certificate_is_refused_with_a_typed_error(certificate, attack):
    altered = ATTACKS[attack](json.loads(certificate.to_json()))
    with pytest.raises(CertificateMalformed, match="Expected"):
        Certificate.from_json(json.dumps(altered))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "1", '"x"', b"\xff\xfe"])
def test_text_that_is_no_certificate_is_refused(text):
    with pytest.raises(CertificateMalformed):
        Certificate.from_json(text)


def test_every_change_of_a_field_changes_the_id(certificate):
    ids = {certificate.id}
    for field, value in (
        ("subject", "other"),
        ("purpose", "training"),
        ("notes", ()),
        ("cohort", {}),
    ):
        ids.add(dataclasses.replace(certificate, **{field: value}).id)
    assert len(ids) == 5


def test_uncertified_program_names_line_and_remedy():
    @fad.computation(w=fad.SERVER, v=fad.CLIENTS)
    def forgets(w, v):
        return fad.mean(v * w)

    with pytest.raises(audits.CertificationError, match="FAD102") as caught:
        audits.certify(forgets, spec(3), spec(3))
    finding = caught.value.findings[0]
    assert "test_certificates.py" in finding.line
    assert "broadcast" in finding.remedy
