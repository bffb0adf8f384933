"""Every certificate that is issued is confirmed by the verifier, and an edited one is not."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from corpus_programs import CASES
from jax import lax
from verdicts import arguments

import audits
import privacy
import secfad as fad
from audits.certifying import programs_of
from audits.proofs.verification import VerificationError, verify

SPECS = (jax.ShapeDtypeStruct((3,), "float32"),) * 2
NATIVE = [c for c in CASES if c.style == "native" and c.kind != "reject" and c.mode == "primal"]
PROGRAMS = {}


def program(fn):
    """A computation of a server value `w` and clients' values `x`."""
    PROGRAMS[fn.__name__] = fad.computation(w=fad.SERVER, x=fad.CLIENTS)(fn)
    return fn


def gradient(w, x):
    return fad.sum(x * fad.broadcast(w))


@program
def barrier_of_a_server_value_and_a_constant(w, x):
    return fad.sum(x) + lax.optimization_barrier((w, jnp.ones(3)))[1]


@program
def barrier_of_a_client_value_and_a_constant(w, x):
    mine, one = lax.optimization_barrier((x, jnp.ones(3)))
    return w + fad.sum(one * mine)


@program
def device_put_of_a_sum_and_a_constant(w, x):
    return jax.device_put((fad.sum(x), jnp.zeros(3)))[1] + w


@program
def conjugate_gradients(w, x):
    return jax.scipy.sparse.linalg.cg(lambda v: 2 * v, w + fad.sum(x), maxiter=3)[0]


@program
def bounded_loop_of_rounds(w, x):
    go = lambda c: (c[0] < 5) & (jnp.sum(c[1]) > 0)
    return lax.while_loop(go, lambda c: (c[0] + 1, c[1] - gradient(c[1], x)), (0, w))[1]


@program
def bounded_loop_by_le(w, x):
    go = lambda c: (c[0] <= 4) & jnp.any(c[1] > 0)
    return lax.while_loop(go, lambda c: (c[0] + 2, c[1] - gradient(c[1], x)), (0, w))[1]


@program
def loop_with_a_flag(w, x):
    step = lambda c: (c[0] + 1, c[1] - gradient(c[1], x), jnp.sum(c[1]) > 0)
    return lax.while_loop(lambda c: (c[0] < 5) & c[2], step, (0, w, True))[1]


@program
def counted_loop(w, x):
    return lax.while_loop(
        lambda c: c[0] < 4, lambda c: (c[0] + 1, c[1] - gradient(c[1], x)), (0, w)
    )[1]


@program
def bounded_loop_inside_a_loop(w, x):
    go = lambda c: (c[0] < 3) & (jnp.sum(c[1]) > 0)
    inner = lambda v: lax.while_loop(go, lambda c: (c[0] + 1, c[1] - gradient(c[1], x)), (0, v))[1]
    return lax.scan(lambda v, _: (inner(v), None), w, None, length=2)[0]


@program
def branch_with_one_more_sum(w, x):
    return lax.cond(fad.sum(x)[0] > 0, lambda: gradient(w, x), lambda: w)


@program
def branches_with_other_names(w, x):
    left = lambda: fad.sum(x, name="left")
    return lax.cond(w[0] > 0, left, lambda: fad.sum(2 * x, name="right"))


@program
def branches_with_other_order(w, x):
    def one():
        return fad.sum(x, name="a") + fad.sum(x[0], name="b")

    def two():
        return fad.sum(x[0], name="b") + fad.sum(x, name="a")

    return lax.cond(w[0] > 0, one, two)


@program
def switch_of_three_sizes(w, x):
    sizes = [lambda: w, lambda: gradient(w, x), lambda: w + fad.sum(x) * fad.sum(x[0])]
    return lax.switch(jnp.argmax(w), sizes)


@program
def branch_inside_a_bounded_loop(w, x):
    go = lambda c: (c[0] < 3) & (jnp.sum(c[1]) > 0)
    step = lambda v: lax.cond(v[0] > 0, lambda: gradient(v, x), lambda: v)
    return lax.while_loop(go, lambda c: (c[0] + 1, step(c[1])), (0, w))[1]


@program
def loop_of_a_client_with_its_own_end(w, x):
    return w + fad.sum(lax.while_loop(lambda v: jnp.sum(v) > 1, lambda v: 0.5 * v, x))


@pytest.mark.parametrize("name", PROGRAMS)
def test_issued_certificate_of_an_odd_program_is_confirmed(name):
    certificate = audits.certify(PROGRAMS[name], *SPECS)
    verify(certificate, fad.trace(PROGRAMS[name], *SPECS))


@pytest.mark.sample(quick=12)
@pytest.mark.parametrize("case", NATIVE, ids=lambda c: c.name)
def test_issued_certificate_of_the_corpus_is_confirmed(case):
    words = {"server": fad.SERVER, "server_key": fad.SERVER}
    args = arguments(case)
    placements = {a.name: words.get(a.placement, fad.CLIENTS) for a in args}
    computation = fad.computation(**placements)(getattr(case.fn, "fun", case.fn))
    certificate = audits.certify(computation, *(a.spec for a in args))
    verify(certificate, fad.trace(computation, *(a.spec for a in args)))


def test_a_private_program_with_a_sum_in_each_branch_is_confirmed():
    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def chosen(w, x):
        return lax.cond(w[0] > 0, lambda: fad.sum(x), lambda: fad.sum(2 * x))

    mechanism = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
    private = privacy.privatize(chosen, *SPECS, mechanism=mechanism)
    verify(audits.certify(private), private.program)


@pytest.mark.parametrize("name", ["bounded_loop_of_rounds", "branch_with_one_more_sum"])
def test_a_limit_is_not_confirmed_without_its_obligation(name):
    certificate = audits.certify(PROGRAMS[name], *SPECS)
    kept = tuple(o for o in certificate.obligations if o.rule not in ("FAD204", "FAD205"))
    assert len(kept) < len(certificate.obligations)
    with pytest.raises(VerificationError, match="FAD20"):
        verify(
            dataclasses.replace(certificate, obligations=kept),
            fad.trace(PROGRAMS[name], *SPECS),
        )


def test_the_stated_number_of_iterations_is_confirmed():
    certificate = audits.certify(PROGRAMS["bounded_loop_of_rounds"], *SPECS)
    messages = certificate.schedule["primal"]
    assert {m.count for m in messages} == {5}
    fewer = tuple(dataclasses.replace(m, count=4) for m in messages)
    traced = fad.trace(PROGRAMS["bounded_loop_of_rounds"], *SPECS)
    with pytest.raises(VerificationError, match="messages"):
        verify(dataclasses.replace(certificate, schedule={"primal": fewer}), traced)


def rules(fn):
    computation = fad.computation(w=fad.SERVER, x=fad.CLIENTS)(fn)
    try:
        return {o.rule for o in audits.certify(computation, *SPECS).obligations}
    except audits.CertificationError as error:
        return {f.rule for f in error.findings}


def test_a_loop_that_a_flag_may_end_is_not_counted_exactly():
    assert "FAD204" in rules(PROGRAMS["loop_with_a_flag"].fun)
    assert "FAD204" not in rules(PROGRAMS["counted_loop"].fun)


def test_a_counter_that_wraps_around_has_no_limit():
    def wraps(w, x):
        step = lambda c: (c[0] + jnp.int8(100), c[1] - gradient(c[1], x))
        return lax.while_loop(lambda c: c[0] < jnp.int8(120), step, (jnp.int8(0), w))[1]

    assert "FAD203" in rules(wraps)


@pytest.mark.parametrize("mode", ["reverse", "mixed", "factored", "forward"])
@pytest.mark.parametrize("result", ["int32", "bool", "int8", "key"])
def test_results_without_a_cotangent_do_not_hinder_a_derivative(mode, result):
    @fad.computation(w=fad.SERVER, n=fad.SERVER, x=fad.CLIENTS)
    def step(w, n, x):
        other = jax.random.split(n)[0] if result == "key" else n
        return w - gradient(w, x), other

    key = jax.eval_shape(lambda: jax.random.key(0)).dtype
    spec = jax.ShapeDtypeStruct((), key if result == "key" else result)
    specs = SPECS[0], spec, SPECS[1]
    certificate = audits.certify(step, *specs, modes=(mode,))
    verify(certificate, programs_of(step, *specs, modes=(mode,))[mode], mode)
