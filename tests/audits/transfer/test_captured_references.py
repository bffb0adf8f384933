"""A captured reference is refused by name, wherever the program reads or writes it."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import audits
import secfad as fad

CELL, SCALAR = jax.new_ref(jnp.zeros(3)), jax.new_ref(1.0)
KEYS = jax.new_ref(jax.random.key(0))
V = [audits.Arg("v", (3,), "float32", "clients")]
X = [audits.Arg("v", (6, 3), "float32", "clients")]


def writes(v):
    CELL[...] = v
    return fad.sum(v)


PROGRAMS = {
    "writes": writes,
    "reads": lambda v: fad.sum(v + CELL[...]),
    "reads one entry": lambda v: fad.sum(v + CELL[0]),
    "scalar": lambda v: fad.sum(v * SCALAR[...]),
    "key": lambda v: fad.sum(v) * jax.random.normal(KEYS[...]),
    "jit": lambda v: fad.sum(jax.jit(lambda u: u + CELL[...])(v)),
    "checkpoint": lambda v: fad.sum(jax.checkpoint(lambda u: u + CELL[...])(v)),
    "branch": lambda v: fad.sum(lax.cond(v[0] > 0, lambda: v + CELL[...], lambda: v)),
    "loop": lambda v: fad.sum(lax.scan(lambda c, _: (c + CELL[...], None), v, None, 2)[0]),
    "server": lambda v: fad.sum(v) + CELL[...],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_captured_reference_is_refused_by_name(name):
    report = audits.check(PROGRAMS[name], V)
    assert report.kind == "reject"
    assert "FAD004" in {f.rule for f in report.findings}


def test_captured_reference_of_a_stacked_program_is_refused_by_name():
    report = audits.check(lambda v: jnp.sum(v + CELL[...], axis=0), X, style="stacked")
    assert "FAD004" in {f.rule for f in report.findings}
