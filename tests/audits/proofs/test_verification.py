"""The verifier accepts what the checker proved, and nothing that was altered since."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import pytest

import audits
import secfad as fad
from audits.proofs.clips import ClippedSum, fault_of_bounds
from audits.proofs.verification import VerificationError, verify
from audits.transfer import interpreter
from privacy.certificates.certificates import Certificate
from privacy.mechanisms.mechanisms import Gaussian
from privacy.mechanisms.privatization import privatize


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def rounds(w, x):
    def step(w, _):
        local = jax.lax.while_loop(
            lambda v: jnp.sum(v) > 1, lambda v: 0.5 * v, fad.broadcast(w) * x
        )
        return w - 0.1 * fad.mean(jnp.sin(local), name="step"), None

    w = jax.lax.scan(step, w, None, length=3)[0]
    best = jax.lax.cond(jnp.sum(w) > 0, lambda a: a, lambda a: -a, w)
    return fad.mean(jnp.sum(jax.nn.relu(fad.broadcast(best, name="last") * x)), name="loss")


@pytest.fixture(scope="module")
def plain():
    return audits.certify(rounds, spec(3), spec(3)), fad.trace(rounds, spec(3), spec(3))


@pytest.fixture(scope="module")
def private():
    made = privatize(
        rounds, spec(3), spec(3), mechanism=Gaussian(noise_multiplier=1.0, clip_norm=0.5)
    )
    return audits.certify(made), made.program


def test_certificates_are_confirmed_also_after_a_journey_through_json(plain, private):
    for certificate, program in (plain, private):
        verify(certificate, program)
        verify(Certificate.from_json(certificate.to_json()), program)


def test_every_derivative_mode_is_confirmed():
    modes = ("primal", "forward", "mixed")

    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def two(w, x):
        g = fad.mean(jnp.sin(fad.broadcast(w) * x))
        return fad.mean(jnp.sum(fad.broadcast(w - g) * x))

    results = audits.certifying.check_modes(two, spec(3), spec(3), modes=modes)
    certificate = audits.certifying.issue(two, results)
    for mode in modes:
        verify(certificate, results[mode][1], mode)


def test_another_program_is_not_confirmed(plain, private):
    with pytest.raises(VerificationError, match="FAD006"):
        verify(plain[0], private[1])


def altered(certificate, **changes):
    return dataclasses.replace(certificate, **changes)


def test_evidence_that_calls_a_client_value_the_servers_is_refused(plain):
    certificate, program = plain
    refused = 0
    letters = dict(certificate.evidence["primal"])
    for path, text in letters.items():
        for position, letter in enumerate(text):
            for other in set("KSBC") - {letter}:
                changed = text[:position] + other + text[position + 1 :]
                evidence = {"primal": letters | {path: changed}}
                try:
                    verify(altered(certificate, evidence=evidence), program)
                except VerificationError:
                    refused += 1
                else:
                    # Saying "a client's own" of a public value or a copy is weaker, not wrong.
                    assert (letter, other) in {("K", "S"), ("K", "B"), ("K", "C"), ("B", "C")}
    assert refused > 50


@pytest.mark.parametrize("part", ["name", "shape", "count", "kind", "dtype", "bytes"])
def test_altered_schedule_is_refused(plain, part):
    certificate, program = plain
    first, *rest = certificate.schedule["primal"]
    value = {"name": "x", "shape": (7,), "count": 99, "kind": "sum", "dtype": "int8", "bytes": 1}[
        part
    ]
    schedule = {"primal": (dataclasses.replace(first, **{part: value}), *rest)}
    with pytest.raises(VerificationError, match="messages"):
        verify(altered(certificate, schedule=schedule), program)


def test_altered_arguments_are_refused(plain):
    certificate, program = plain
    first, *rest = certificate.arguments
    for changed in (
        ({**first, "placement": "clients"}, *rest),
        ({**first, "shape": [4]}, *rest),
        tuple(rest),
    ):
        with pytest.raises(VerificationError, match="arguments"):
            verify(altered(certificate, arguments=changed), program)


def test_truncated_schedule_and_missing_evidence_are_refused(plain):
    certificate, program = plain
    schedule = {"primal": certificate.schedule["primal"][:-1]}
    with pytest.raises(VerificationError, match="messages"):
        verify(altered(certificate, schedule=schedule), program)
    with pytest.raises(VerificationError, match="no evidence"):
        verify(altered(certificate, evidence={}), program)


def test_smaller_bound_than_the_clip_is_refused(private):
    certificate, program = private
    bounds = tuple(dataclasses.replace(b, norm=0.25) for b in certificate.bounds["primal"])
    with pytest.raises(VerificationError, match=r"clipped to 0\.5"):
        verify(altered(certificate, bounds={"primal": bounds}), program)


@fad.computation(x=fad.CLIENTS, y=fad.CLIENTS)
def two_sums(x, y):
    return fad.sum(x, name="a"), fad.sum(y.astype(jnp.bfloat16), name="b")


EDITS = {
    "a group of two clips": ({"bounds": {"group": "clip0"}}, "not clipped jointly"),
    "a unit": ({"bounds": {"unit": 1000.0}}, "has the unit"),
    "no slack": ({"bounds": {"slack": 1.0}}, "may exceed its norm"),
    "another proof": ({"bounds": {"proof": "audited by a person"}}, "is bounded by a clip"),
    "a smaller clip norm": ({"mechanism": {"clip_norm": 0.001}}, "its mechanism to"),
    "one joint clip": ({"mechanism": {"joint": True}}, "clipped apart"),
    "another mechanism": ({"mechanism": {"mechanism": "laplace"}}, "not one of secfad"),
    "no mechanism of a kind": ({"mechanism": {"grid": "fine"}}, "not one of secfad"),
    "communication only": ({"profile": "secagg"}, "proves communication only"),
    "no assumptions": ({"assumptions": []}, "assumption of every proof"),
    "one client": ({"cohort": {"minimum": 1, "maximum": None, "reason": "any"}}, "fewer than 2"),
    "another mode": ({"schedule": {"reverse": []}}, "Modes without a digest"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_that_the_clips_contradict_are_refused(edit):
    mechanism = Gaussian(noise_multiplier=1.0, clip_norm=1.0, joint=False)
    private = privatize(two_sums, spec(3), spec(3), mechanism=mechanism)
    certificate = audits.certify(private)
    verify(certificate, private.program)
    body = json.loads(certificate.to_json())
    changes, message = EDITS[edit]
    for field, change in changes.items():
        match field:
            case "bounds":
                for bound in body["bounds"]["primal"]:
                    bound.update(change)
            case "mechanism" | "schedule":
                body[field].update(change)
            case _:
                body[field] = change
    with pytest.raises(VerificationError, match=message):
        verify(Certificate.from_json(json.dumps(body)), private.program)


def test_rounds_without_a_number_prove_no_joint_clip():
    mechanism = Gaussian(noise_multiplier=1.0, clip_norm=1.0, joint=False)
    certificate = audits.certify(privatize(two_sums, spec(3), spec(3), mechanism=mechanism))
    found = [
        ClippedSum(name, 1, at, 0, 1.0, 1.0, dtype)
        for at, name, dtype in ((0, "a", "float32"), (1, "b", "bfloat16"))
    ]
    jointly = altered(certificate, mechanism={**certificate.mechanism, "joint": True})
    assert fault_of_bounds(certificate, "primal", found, math.inf) is None
    assert "clipped apart" in fault_of_bounds(jointly, "primal", found, math.inf)


def test_one_clipped_value_in_two_sums_is_refused():
    mechanism = Gaussian(noise_multiplier=1.0, clip_norm=1.0)

    @fad.computation(x=fad.CLIENTS)
    def once(x):
        return fad.sum(x, name="a")

    @fad.computation(x=fad.CLIENTS)
    def twice(x):
        clipped = fad.clip(x, 1.0)
        return fad.sum(clipped, name="a"), fad.sum(clipped, name="b")

    program = fad.trace(twice, spec(3))
    report = audits.checking.checking.check_program(program, profile="secagg+dp")
    [first, second] = report.facts.bounds
    assert first.fact.part.group == second.fact.part.group
    one = audits.certify(privatize(once, spec(3), mechanism=mechanism))
    plain = audits.certify(program)
    bounds = tuple(dataclasses.replace(one.bounds["primal"][0], sum=name) for name in "ab")
    forged = altered(plain, profile="secagg+dp", bounds={"primal": bounds}, mechanism=one.mechanism)
    with pytest.raises(VerificationError, match="another sum has added"):
        verify(forged, program)


def test_a_certificate_that_denies_a_second_contact_is_refused():
    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def nonlinear(w, x):
        return jnp.sum(jnp.tanh(fad.mean(jnp.sin(fad.broadcast(w) * x))))

    reports = audits.certifying.check_modes(nonlinear, spec(3), spec(3), modes=("reverse",))
    certificate, program = audits.certifying.issue(nonlinear, reports), reports["reverse"][1]
    verify(certificate, program, "reverse")
    for changes in (
        {"clients": {**certificate.clients, "readdress": False}},
        {"obligations": ()},
    ):
        with pytest.raises(VerificationError, match="same clients"):
            verify(altered(certificate, **changes), program, "reverse")


def test_a_certificate_that_hides_the_rounding_of_a_short_dtype_is_refused():
    @fad.computation(x=fad.CLIENTS)
    def short(x):
        return fad.sum(x, name="a")

    mechanism = Gaussian(noise_multiplier=1.0, clip_norm=1.0)
    made = privatize(short, jax.ShapeDtypeStruct((3,), jnp.bfloat16), mechanism=mechanism)
    certificate = audits.certify(made)
    verify(certificate, made.program)
    with pytest.raises(VerificationError, match="FAD408: sum 'a' is of bfloat16"):
        verify(altered(certificate, obligations=()), made.program)


def test_unclipped_program_cannot_borrow_the_profile(plain):
    certificate, program = plain
    with pytest.raises(VerificationError, match="not clipped"):
        verify(altered(certificate, profile="secagg+dp"), program)


def test_evidence_is_part_of_the_certificates_id(plain):
    certificate, _ = plain
    body = json.loads(certificate.to_json())
    body["evidence"]["primal"][""] = "K" * len(body["evidence"]["primal"][""])
    assert Certificate.from_json(json.dumps(body)).id != certificate.id


def test_loops_in_loops_are_walked_once_per_level_and_not_exponentially_often():
    def nested(level, v, x):
        if not level:
            return v - 0.1 * jnp.tanh(v * x)
        step = lambda c, _: (0.5 * nested(level - 1, c, x), None)
        return jax.lax.scan(step, v, None, length=2)[0]

    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def deep(w, x):
        return fad.mean(nested(8, fad.broadcast(w), x))

    program = fad.trace(deep, spec(3), spec(3))
    walked = []
    original = interpreter.Checker.jaxpr

    def counted(self, *arguments):
        walked.append(arguments)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.Checker, "jaxpr", counted)
        audits.certify(program)
    # Two walks of a program, each with a few passes over each of eight bodies.
    assert len(walked) < 100
