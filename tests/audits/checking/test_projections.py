"""Array programs are certified through their projection, whose evidence the verifier re-checks."""

import dataclasses

import drjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import audits
import secfad as fad
from audits.certifying import cohort_range, programs_of
from audits.projections import certify_arrays, project
from audits.proofs.verification import VerificationError, verify
from secfad.errors import TranslationError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DrJAX asks for an old mesh
N = 8
MODES = ("primal", "forward", "reverse")
ROWS = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
MODEL = np.array([0.5, -1.0, 2.0], np.float32)


@drjax.program(placements={"clients": N})
def drjax_round(w, x):
    step = lambda a, b: jnp.tanh(a * b)
    return w - drjax.reduce_mean(drjax.map_fn(step, (drjax.broadcast(w), x)))


def spmd_round(w, x):
    @jax.jit
    def total(v):
        return lax.psum(v, "clients")

    centre = total(x) / N
    return w - lax.psum(jnp.tanh(w * (x - centre)), "clients") / N


@drjax.program(placements={"clients": N})
def looks_at_the_cohort(w, x):
    scaled = drjax.map_fn(lambda a, b: a * b, (drjax.broadcast(w), x))
    return drjax.reduce_sum(scaled) if len(x) > 5 else w


def arguments(style):
    shape = (N, 3) if style == "drjax" else (3,)
    return [
        audits.Arg("w", (3,), "float32", "server"),
        audits.Arg("x", shape, "float32", "clients"),
    ]


PROGRAMS = {"drjax": drjax_round, "spmd": spmd_round}


@pytest.fixture(scope="module", params=PROGRAMS)
def certified(request):
    style = request.param
    fn, args = PROGRAMS[style], arguments(style)
    certificate = certify_arrays(fn, args, style=style, modes=MODES)
    computation, specs = project(fn, args, style=style)
    return certificate, programs_of(computation, *specs, modes=MODES, argnums=0)


def test_evidence_of_every_mode_is_confirmed(certified):
    certificate, programs = certified
    assert set(certificate.digests) == set(MODES)
    for mode, program in programs.items():
        verify(certificate, program, mode)


def test_every_altered_letter_of_the_evidence_is_noticed(certified):
    certificate, programs = certified
    weaker = {("K", "S"), ("K", "B"), ("K", "C"), ("B", "C")}
    letters, refused = dict(certificate.evidence["primal"]), 0
    for path, text in letters.items():
        for position, letter in enumerate(text):
            for other in set("KSBC") - {letter}:
                changed = text[:position] + other + text[position + 1 :]
                altered = {**certificate.evidence, "primal": letters | {path: changed}}
                try:
                    verify(dataclasses.replace(certificate, evidence=altered), programs["primal"])
                except VerificationError:
                    refused += 1
                else:
                    assert (letter, other) in weaker
    assert refused > 10


def test_projection_computes_what_the_program_computes():
    for style, expected in (
        ("drjax", drjax_round(MODEL, ROWS)),
        ("spmd", jax.vmap(spmd_round, (None, 0), axis_name="clients")(MODEL, ROWS)[0]),
    ):
        computation, _ = project(PROGRAMS[style], arguments(style), style=style)
        got = fad.simulate(computation)(MODEL, ROWS)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_only_the_traced_number_of_clients_is_covered(certified):
    certificate, _ = certified
    certificate.check_cohort(N)
    for clients in (N - 1, N + 1):
        with pytest.raises(Exception, match="FAD605"):
            certificate.check_cohort(clients)


def test_program_that_branches_on_the_cohort_has_no_range():
    certificate = certify_arrays(looks_at_the_cohort, arguments("drjax"), style="drjax")
    assert (certificate.cohort.minimum, certificate.cohort.maximum) == (N, N)


def test_native_program_is_covered_for_every_cohort():
    @fad.computation(v=fad.CLIENTS)
    def total(v):
        return fad.sum(v)

    spec = jax.ShapeDtypeStruct((3,), jnp.float32)
    certificate = audits.certify(total, spec)
    assert (certificate.cohort.minimum, certificate.cohort.maximum) == (2, None)
    assert "no axis of clients" in certificate.cohort.reason


def test_integer_sums_are_covered_up_to_their_range():
    held = [audits.Arg("v", (), "int32", "clients")]
    report = audits.check(lambda v: fad.sum(jnp.clip(v, 0, 1000)), held, profile="secagg+dp")
    found = cohort_range([report.facts])
    assert found.maximum == (2**31 - 1) // 1000
    assert "int32" in found.reason
    assert found.fault(found.maximum + 1)


def test_rejected_program_is_not_projected():
    def largest(w, x):
        return w + lax.pmax(x, "clients")

    with pytest.raises(audits.CertificationError, match="FAD105"):
        certify_arrays(largest, arguments("spmd"), style="spmd")


def test_program_without_a_projection_is_refused_at_its_line():
    def in_a_loop(w, x):
        step = lambda v, _: (v - lax.psum(jnp.sin(x), "clients"), None)
        return lax.scan(step, w, None, length=2)[0]

    with pytest.raises((TranslationError, audits.CertificationError), match="psum"):
        certify_arrays(in_a_loop, arguments("spmd"), style="spmd")


def test_stacked_programs_are_checked_only():
    with pytest.raises(ValueError, match="native computation"):
        certify_arrays(lambda w, x: w + jnp.sum(x, axis=0), arguments("drjax"), style="stacked")


def drjax_tree_round(model, batch):
    def error(sent, own):
        return jnp.tanh(own["x"] @ sent["w"] - own["y"])

    return drjax.reduce_mean(drjax.map_fn(error, (drjax.broadcast(model), batch)))


def spmd_tree_round(model, batch):
    return lax.psum(jnp.tanh(batch["x"] @ model["w"] - batch["y"]), "clients") / N


@pytest.mark.parametrize("style", ["drjax", "spmd"])
def test_arguments_may_be_trees(style):
    one = {"x": jax.ShapeDtypeStruct((3,), "float32"), "y": jax.ShapeDtypeStruct((), "float32")}
    many = {name: jax.ShapeDtypeStruct((N, *s.shape), s.dtype) for name, s in one.items()}
    args = [
        audits.Arg.tree("model", {"w": one["x"]}, "server"),
        audits.Arg.tree("batch", many if style == "drjax" else one, "clients"),
    ]
    rounds = drjax.program(placements={"clients": N})(drjax_tree_round)
    fn = rounds if style == "drjax" else spmd_tree_round
    certificate = certify_arrays(fn, args, style=style, modes=MODES)
    assert [(a["shape"], a["placement"]) for a in certificate.arguments] == [
        ([3], "server"),
        ([3], "clients"),
        ([], "clients"),
    ]
    computation, specs = project(fn, args, style=style)
    assert list(computation.placements) == ["model", "batch"]
    model, batch = {"w": MODEL}, {"x": ROWS, "y": ROWS[:, 0]}
    expected = np.mean(np.tanh(ROWS @ MODEL - ROWS[:, 0]))
    np.testing.assert_allclose(fad.simulate(computation)(model, batch), expected, rtol=1e-6)
    for mode, program in programs_of(computation, *specs, modes=MODES, argnums=0).items():
        verify(certificate, program, mode)


def test_argument_with_two_holders_is_refused():
    mixed = {"w": audits.Arg("w", (3,), "float32", "server")}
    mixed["x"] = audits.Arg("x", (3,), "float32", "clients")
    with pytest.raises(ValueError, match="Expected one placement for all of"):
        project(lambda both: lax.psum(both["x"], "clients"), [mixed], style="spmd")
