"""Collectives of an inner `vmap` are a client's own work, also in the projection of SPMD programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import audits
import secfad as fad
from audits.projections import certify_arrays, project
from audits.proofs.verification import verify
from secfad.errors import TranslationError

N = 8
ARGS = [audits.Arg("w", (3,), "float32", "server"), audits.Arg("x", (3, 4), "float32", "clients")]
ROWS = np.random.default_rng(0).normal(size=(N, 3, 4)).astype(np.float32)
MODEL = np.array([0.5, -1.0, 2.0], np.float32)
PROGRAMS = {}


def over_rows(fn):
    return lambda v: jax.vmap(fn, axis_name="rows")(v)


def sends(fn):
    """A client function whose result is summed over the clients."""
    PROGRAMS[fn.__name__] = lambda w, x: lax.psum(fn(w, x), "clients")
    return fn


@sends
def inner_sum(w, x):
    return over_rows(lambda r: r * lax.psum(r, "rows"))(x)


@sends
def inner_mean(w, x):
    return over_rows(lambda r: r - lax.pmean(r, "rows"))(x)


@sends
def inner_sum_of_a_pair(w, x):
    return over_rows(lambda r: sum(lax.psum((r, jnp.sin(r)), "rows")))(x)


@sends
def inner_sum_inside_a_jit(w, x):
    return over_rows(jax.jit(lambda r: r * lax.psum(r, "rows")))(x)


@sends
def inner_sum_inside_a_checkpoint(w, x):
    return over_rows(jax.checkpoint(lambda r: r * lax.psum(r, "rows")))(x)


@sends
def inner_sum_inside_a_loop(w, x):
    step = lambda c, _: (jnp.tanh(lax.psum(c, "rows")), None)
    return over_rows(lambda r: lax.scan(step, r, None, length=2)[0])(x)


@sends
def inner_sum_inside_a_branch(w, x):
    branch = lambda r: lax.cond(True, lambda: lax.psum(r, "rows"), lambda: r)
    return over_rows(branch)(x)


@sends
def two_inner_axes(w, x):
    inner = jax.vmap(lambda e: e * lax.psum(lax.psum(e, "columns"), "rows"), axis_name="columns")
    return over_rows(inner)(x)


@sends
def both_inner_axes_at_once(w, x):
    inner = jax.vmap(lambda e: e * lax.psum(e, ("rows", "columns")), axis_name="columns")
    return over_rows(inner)(x)


@sends
def inner_axis_with_the_name_of_the_clients(w, x):
    return jax.vmap(lambda r: r * lax.psum(r, "clients"), axis_name="clients")(x)


@sends
def inner_sum_of_a_server_value(w, x):
    return over_rows(lambda r: r[0] * lax.psum(jnp.sum(w), "rows"))(x)


@sends
def inner_derivative(w, x):
    loss = lambda r: jnp.sum(jnp.sin(r) * lax.psum(r, "rows"))
    return over_rows(jax.grad(loss))(x)


@sends
def inner_extremum(w, x):
    return over_rows(lambda r: r - lax.pmax(r, "rows"))(x)


@pytest.mark.sample(quick=5)
@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_certified_releases_and_computes_what_the_program_does(name):
    program = PROGRAMS[name]
    report = audits.check(program, ARGS, style="spmd")
    assert report.kind != "reject"
    certificate = certify_arrays(program, ARGS, style="spmd")
    messages = [m for m in certificate.schedule["primal"] if m.kind == "sum"]
    assert len(messages) == 1
    computation, specs = project(program, ARGS, style="spmd")
    verify(certificate, fad.trace(computation, *specs))
    expected = jax.vmap(program, (None, 0), axis_name="clients")(MODEL, ROWS)[0]
    np.testing.assert_allclose(fad.simulate(computation)(MODEL, ROWS), expected, rtol=1e-4)


def test_a_sum_over_clients_and_an_inner_axis_at_once_is_refused():
    def program(w, x):
        return over_rows(lambda r: lax.psum(r, ("rows", "clients")))(x)

    with pytest.raises(audits.CertificationError, match="FAD113"):
        certify_arrays(program, ARGS, style="spmd")


def test_a_projection_with_other_sums_than_the_program_is_not_certified(monkeypatch):
    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def other(w, x):
        return fad.sum(x) * fad.sum(x**2)

    specs = tuple(a.spec for a in ARGS)
    monkeypatch.setattr("audits.projections.project", lambda *_, **__: (other, specs))
    with pytest.raises(TranslationError, match="sums"):
        certify_arrays(PROGRAMS["inner_sum"], ARGS, style="spmd")
