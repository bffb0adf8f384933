"""The clip bounds the joint norm of every tree, finite or not, and is differentiable at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import secfad as fad

ANY_FLOAT = st.floats(width=32, allow_nan=True, allow_infinity=True)
VECTORS = arrays(np.float32, 3, elements=ANY_FLOAT)
# Two roundings of a square, a sum of six and a root, in float32.
ROUNDING = 1 + 1e-5
clip = jax.jit(lambda a, b, bound, units: fad.clip((a, b), bound, norms=units), static_argnums=3)


def joint_norm(tree, units=(1.0, 1.0)):
    return np.sqrt(sum(np.sum((np.asarray(x, np.float64) / c) ** 2) for x, c in zip(tree, units)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(VECTORS, VECTORS, st.floats(2**-10, 2**10, width=32))
def test_joint_norm_of_any_tree_is_at_most_the_bound(a, b, bound):
    assert joint_norm(clip(a, b, bound, None)) <= bound * ROUNDING


@settings(max_examples=100, deadline=None, derandomize=True)
@given(VECTORS, VECTORS)
def test_each_leaf_is_measured_in_its_own_unit(a, b):
    units = (0.5, 4.0)
    assert joint_norm(clip(a, b, 1.0, units), units) <= ROUNDING


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_non_finite_entry_makes_the_whole_tree_zero(bad):
    a, b = clip(jnp.array([1.0, bad, 1.0]), jnp.ones(3), 1.0, None)
    assert not a.any()
    assert not b.any()


def test_an_overflowing_square_makes_the_tree_zero_rather_than_unbounded():
    assert not fad.clip(jnp.array([1e30, 1e30]), 1.0).any()


def test_small_trees_pass_unchanged():
    x = jnp.array([0.3, -0.4])
    assert (fad.clip(x, 1.0) == x).all()


def test_large_trees_keep_their_direction():
    np.testing.assert_allclose(fad.clip(jnp.array([3.0, 4.0]), 1.0), [0.6, 0.8], rtol=1e-6)


@pytest.mark.sample(quick=0)
@pytest.mark.parametrize("order", [1, 2])
def test_derivative_at_zero_is_that_of_the_identity(order):
    fun = lambda x: jnp.sum(fad.clip(x, 1.0) ** order)
    expected = jnp.ones(3) if order == 1 else jnp.zeros(3)
    assert (jax.grad(fun)(jnp.zeros(3)) == expected).all()
    assert jnp.isfinite(jax.hessian(fun)(jnp.zeros(3))).all()


@pytest.mark.slow
def test_derivative_outside_is_the_projection_onto_the_sphere():
    x = jnp.array([3.0, 4.0])
    unit = x / 5
    expected = (jnp.eye(2) - jnp.outer(unit, unit)) / 5
    np.testing.assert_allclose(jax.jacrev(lambda v: fad.clip(v, 1.0))(x), expected, atol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(lambda v: fad.clip(v, 1.0))(x), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_kept(dtype):
    assert fad.clip(jnp.ones(3, dtype), 1.0).dtype == dtype


def test_clip_is_one_equation_that_a_checker_can_recognise():
    jaxpr = jax.make_jaxpr(lambda x: fad.clip(x, 1.0))(jnp.ones(3))
    assert [e.primitive.name for e in jaxpr.eqns] == ["federated_clip"]


def test_clip_works_under_vmap_as_for_each_row():
    rows = jnp.array([[3.0, 4.0], [0.1, 0.1], [jnp.nan, 0.0]])
    expected = jnp.stack([fad.clip(row, 1.0) for row in rows])
    np.testing.assert_allclose(jax.vmap(lambda x: fad.clip(x, 1.0))(rows), expected, rtol=1e-6)


ALIKE = {
    "of the server": lambda w, x: fad.clip(fad.mean(x) * w, 1.0),
    "of what was broadcast": lambda w, x: fad.mean(fad.clip(fad.broadcast(w), 0.5) * x),
    "of a tree": lambda w, x: fad.clip({"w": w, "x": fad.sum(x)}, 0.1)["x"],
    "in a loop": lambda w, x: jax.lax.fori_loop(
        0, 2, lambda i, v: fad.clip(v + fad.sum(x), 1.0), w
    ),
}


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("program", ALIKE.values(), ids=ALIKE)
def test_clip_of_a_value_that_all_clients_have_alike_is_simulated(program):
    f = fad.computation(w=fad.SERVER, x=fad.CLIENTS)(program)
    w, x = jnp.array([1.0, 2.0]), jnp.array([[3.0, 4.0], [0.5, 1.0], [2.0, -1.0]])
    expected = fad.execute(fad.trace(f, w, x[0]), w, x)
    np.testing.assert_allclose(fad.simulate(f)(w, x), expected, rtol=1e-6)
    np.testing.assert_allclose(fad.simulate(f, chunk_size=2)(w, x), expected, rtol=1e-6)
    by_parts = jax.jacrev(fad.simulate(f))(w, x)
    derivative = fad.simulate(fad.jacobian(f, mode="forward"))(w, x)
    np.testing.assert_allclose(by_parts, derivative, rtol=1e-5, atol=1e-6)


def test_clip_of_a_value_without_the_named_axis_stays_without_it():
    clipped = lambda row: fad.clip(jax.lax.psum(row, "i"), 1.0)
    found = jax.vmap(clipped, axis_name="i", out_axes=None)(jnp.array([[3.0, 0.0], [0.0, 4.0]]))
    np.testing.assert_allclose(found, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_bound_is_refused(bound):
    with pytest.raises(ValueError, match="bound to be positive and finite"):
        fad.clip(jnp.ones(3), bound)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="floating-point leaves"):
        fad.clip(jnp.ones(3, int), 1.0)


def test_units_of_another_structure_are_refused():
    with pytest.raises(ValueError, match="one number per leaf"):
        fad.clip({"a": jnp.ones(3)}, 1.0, norms=[1.0, 2.0])
    with pytest.raises(ValueError, match="one number per leaf"):
        fad.clip({"a": jnp.ones(3)}, 1.0, norms={"b": 1.0})


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rounding_to_a_narrow_dtype_never_exceeds_the_bound(dtype):
    x = jnp.asarray(10 * np.random.default_rng(0).normal(size=(200, 5)), dtype)
    clipped = np.asarray(jax.vmap(lambda row: fad.clip(row, 1.0))(x), np.float64)
    norms = np.linalg.norm(clipped, axis=1)
    assert norms.max() <= 1.0
    assert norms.min() >= 0.985


@pytest.mark.parametrize("bound", [np.nan, -1.0, 0.0, 2.0**-41])
def test_a_bound_that_means_nothing_when_it_runs_lets_nothing_through(bound):
    x = jnp.full(3, 1e-18)
    assert not jax.jit(fad.clip)(x, bound).any()


@pytest.mark.parametrize("bound", [np.float32(-1), jnp.float32(np.nan), np.inf, 0, 2.0**-41])
def test_a_constant_bound_is_a_positive_number_of_sensible_size(bound):
    with pytest.raises(ValueError, match=r"Expected .*bound .*, got"):
        fad.clip(jnp.ones(2), bound)


def test_a_bound_is_one_number():
    with pytest.raises(ValueError, match=r"one bound .* got shape \(2,\)"):
        fad.clip(jnp.ones(2), jnp.ones(2))
    with pytest.raises(TypeError, match=r"a number or a scalar array .* got a str"):
        fad.clip(jnp.ones(2), "1")
