"""The clip under `vmap`: seen row by row, so that stacked programs can use it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import audits
import secfad as fad

N = 6
X = audits.Arg("x", (N, 3), "float32", "clients")
EXAMPLES = audits.Arg("x", (N, 5, 3), "float32", "clients")


def answered(fn, *args, style="stacked"):
    return audits.check(fn, args, style=style, profile="secagg+dp")


def clip(v):
    return fad.clip(v, 0.5)


def test_clip_of_each_client_bounds_the_sum():
    report = answered(lambda x: jnp.sum(jax.vmap(clip)(x), axis=0), X)
    assert (report.kind, report.facts.sensitivity) == ("accept", (0.5,))


def test_leaves_that_are_clipped_together_have_one_joint_bound():
    report = answered(
        lambda x: [jnp.sum(a, axis=0) for a in jax.vmap(lambda v: fad.clip([v, v**2], 0.5))(x)], X
    )
    assert (report.kind, report.facts.joint_sensitivity) == ("accept", 0.5)


def test_clip_of_each_example_counts_the_examples():
    client = lambda x: jnp.sum(jax.vmap(clip)(x), axis=0)
    report = answered(lambda x: jnp.sum(jax.vmap(client)(x), axis=0), EXAMPLES)
    assert (report.kind, report.facts.sensitivity) == ("accept", (2.5,))
    assert report.facts.bounds[0].fact.part is None  # no joint clip of the client
    own = audits.Arg("x", (5, 3), "float32", "clients")
    assert answered(lambda x: fad.sum(client(x)), own, style="native").facts.sensitivity == (2.5,)


@pytest.mark.parametrize(
    "wrong", [lambda x: fad.clip(x, 0.5), lambda x: jax.vmap(clip, in_axes=1, out_axes=1)(x)]
)
def test_clip_of_all_clients_together_is_rejected_and_the_remedy_works(wrong):
    report = answered(lambda x: jnp.sum(wrong(x), axis=0), X)
    assert [f.rule for f in report.findings] == ["FAD109"]
    assert "jax.vmap(fad.clip)(x)" in report.findings[0].remedy
    assert answered(lambda x: jnp.sum(jax.vmap(fad.clip)(x), axis=0), X).kind == "accept"


def test_bound_of_the_clients_own_making_is_no_bound():
    client = lambda v: fad.clip(v, jnp.abs(v[0]))
    report = answered(lambda x: jnp.sum(jax.vmap(client)(x), axis=0), X)
    assert "FAD401" in {f.rule for f in report.findings}


@pytest.mark.slow
def test_rows_are_clipped_as_they_are_alone():
    rows = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    rows[1, 2, 0], rows[2, 0, 1] = np.nan, np.inf
    mapped = jax.jit(jax.vmap(jax.vmap(clip)))(rows)
    alone = np.stack([[clip(jnp.asarray(v)) for v in client] for client in rows])
    np.testing.assert_allclose(mapped, alone, rtol=1e-6)
    slope = lambda f: jax.grad(lambda x: jnp.sum(f(x) ** 3))(jnp.asarray(rows[0]))
    single = jnp.stack([jax.grad(lambda v: jnp.sum(clip(v) ** 3))(v) for v in jnp.asarray(rows[0])])
    np.testing.assert_allclose(slope(jax.vmap(clip)), single, rtol=1e-5)


def _row_clip(x):
    return x / jnp.maximum(1.0, jnp.sqrt(jnp.sum(x**2, axis=1, keepdims=True)))


def _finite(x):
    return jnp.where(jnp.isfinite(x), x, 0.0)


PRODUCTS = {
    "guarded": (lambda x: _row_clip(_finite(x)), ""),
    "not guarded": (_row_clip, "FAD407"),
    "finite": (_finite, "FAD401"),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_sum_of_products_over_clients_has_the_product_of_the_bounds(name):
    client, rule = PRODUCTS[name]
    report = audits.check(
        lambda x: jnp.einsum("nd,ne->de", client(x), client(x)),
        [X],
        style="stacked",
        profile="secagg+dp",
    )
    # A sum inside a product is worth a hint, FAD112.
    assert {f.rule for f in report.findings} == {"FAD112"} | ({rule} if rule else set())
    if not rule:
        assert report.facts.sensitivity == pytest.approx((1.0,))
