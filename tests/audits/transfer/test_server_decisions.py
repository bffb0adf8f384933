"""Branches and loops of the server that decide what clients send.

The predicate counts as received by the clients. A predicate made of sums without noise is then a
release without noise: one client moves the noised sum by more than the stated sensitivity.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import audits
import secfad as fad

N = 6
DEVIATION = 1.8
X = audits.Arg("x", (N, 3), "float32", "clients")
V = audits.Arg("x", (3,), "float32", "clients")
KEY = audits.Arg("key", (), "key<fry>", "server_key")
PROGRAMS = {}


def decides(fn):
    """A function from a sum and finite data to what every client sends."""
    PROGRAMS[fn.__name__] = fn
    return fn


def finite(x):
    return jnp.where(jnp.isfinite(x), x, 0.0)


def total(x):
    return jnp.sum(jax.vmap(lambda v: fad.clip(v, 1.0))(20 * x), axis=0)


def noised(key, u):
    return (jnp.sum(jnp.clip(u, -1, 1), 0) + DEVIATION * jax.random.normal(key, (3,))) / N


@decides
def branch(s, x):
    return lax.cond(s[0] > 0, lambda: 0 * x + 1, lambda: 0 * x - 1)


@decides
def branch_on_the_largest_entry(s, x):
    return lax.cond(jnp.argmax(s) == 0, lambda: 0 * x + 1, lambda: 0 * x - 1)


@decides
def switch_by_a_rounded_sum(s, x):
    return lax.switch(1 + jnp.sign(s[0]).astype(int), [lambda: 0 * x - 1] * 2 + [lambda: 0 * x + 1])


@decides
def switch_by_an_argmax(s, x):
    return lax.switch(jnp.argmax(s), [lambda: 0 * x + 1, lambda: 0 * x - 1, lambda: 0 * x - 1])


@decides
def branch_inside_a_jit(s, x):
    return jax.jit(lambda s, x: lax.cond(s[0] > 0, lambda: 0 * x + 1, lambda: 0 * x - 1))(s, x)


@decides
def branch_inside_a_checkpoint(s, x):
    return jax.checkpoint(lambda s, x: lax.cond(s[0] > 0, lambda: 0 * x + 1, lambda: 0 * x - 1))(
        s, x
    )


@decides
def branch_inside_a_loop(s, x):
    step = lambda u, _: (lax.cond(s[0] > 0, lambda: u + 1, lambda: u - 1), None)
    return lax.scan(step, 0 * x, None, length=2)[0]


@decides
def branch_inside_a_branch(s, x):
    inner = lambda: lax.cond(s[0] > 0, lambda: 0 * x + 1, lambda: 0 * x - 1)
    return lax.cond(s[0] > -100, inner, lambda: 0 * x)


@decides
def loop_while_the_sum_is_positive(s, x):
    return lax.while_loop(lambda c: c[0] > 0, lambda c: (c[0] - 1, c[1] + 2), (s[0], 0 * x - 1))[1]


@decides
def number_of_local_steps(s, x):
    steps = jnp.where(s[0] > 0, 2, 0)
    return lax.fori_loop(0, steps, lambda _, u: u + 1, 0 * x - 1)


@decides
def loop_that_counts_to_a_limit(s, x):
    go = lambda c: (c[0] < 2) & (s[0] > 0)
    return lax.while_loop(go, lambda c: (c[0] + 1, c[1] + 1), (0, 0 * x - 1))[1]


@decides
def index_into_what_a_client_holds(s, x):
    both = jnp.stack([0 * x + 1, 0 * x - 1], axis=1)
    return lax.dynamic_index_in_dim(both, jnp.where(s[0] > 0, 0, 1), 1, keepdims=False)


@decides
def selection(s, x):
    return jnp.where(s[0] > 0, 0 * x + 1, 0 * x - 1)


@decides
def branch_with_the_sum_inside(s, x):
    bounded = lambda u: jnp.broadcast_to(jnp.sum(jnp.clip(u, -1, 1), 0) / N, x.shape)
    return lax.cond(s[0] > 0, lambda: bounded(0 * x + 1), lambda: bounded(0 * x - 1))


def moved(fn, *rest):
    """How far one client moves the noised sum."""
    x = jnp.zeros((N, 3)).at[0, 0].set(0.1)
    return float(np.linalg.norm(fn(x, *rest) - fn(x.at[0, 0].set(-0.1), *rest))) * N


@pytest.mark.sample(quick=7)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_decision_on_an_exact_sum_is_a_release_of_it(name):
    def program(x, key):
        return noised(key, PROGRAMS[name](total(x), finite(x)))

    report = audits.check(program, [X, KEY], style="stacked", profile="secagg+dp")
    assert report.kind == "reject"
    assert "FAD415" in {f.rule for f in report.findings}
    assert moved(program, jax.random.key(0)) > 2 * 3**0.5 * (1 + 1e-3)


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize("name", [n for n in PROGRAMS if n != "branch_with_the_sum_inside"])
def test_a_decision_on_a_noised_sum_is_none(name):
    def program(x, key):
        first, second = jax.random.split(key)
        s = total(x) + DEVIATION * jax.random.normal(first, (3,))
        return noised(second, PROGRAMS[name](s, finite(x)))

    report = audits.check(program, [X, KEY], style="stacked", profile="secagg+dp")
    assert "FAD415" not in {f.rule for f in report.findings}


def test_native_branches_with_a_sum_each_release_their_predicate():
    def program(x, key):
        s = fad.sum(fad.clip(20 * x, 1.0))
        u = lax.cond(
            s[0] > 0,
            lambda: fad.sum(fad.clip(finite(x), 1.0)),
            lambda: fad.sum(fad.clip(-finite(x), 1.0)),
        )
        return u + DEVIATION * jax.random.normal(key, (3,))

    report = audits.check(program, [V, KEY], profile="secagg+dp", neighbouring="add_remove")
    assert report.kind == "reject"
    assert "FAD415" in {f.rule for f in report.findings}
