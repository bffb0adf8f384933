"""Derivatives by complex numbers follow JAX's convention in every mode, or are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.errors import ModeError

pytestmark = pytest.mark.usefixtures("double_precision")
S, C = fad.SERVER, fad.CLIENTS
MODES = ("forward", "reverse", "factored", "mixed", "blockwise", "auto")
RNG = np.random.default_rng(4)
X = RNG.normal(size=(4, 3)) + 1j * RNG.normal(size=(4, 3))
Z = RNG.normal(size=3) + 1j * RNG.normal(size=3)
TREE = {"z": Z, "r": np.array([0.3, -0.7, 1.1]), "n": np.array(0.2 - 0.4j)}


def curve(tree, x):
    """Not holomorphic, of real and complex numbers."""
    z = tree["z"] * jnp.conj(tree["z"]) * x + jnp.exp(1j * tree["r"] * tree["n"])
    return {"size": jnp.abs(z), "angle": jnp.real(z * tree["n"])}


def federated(tree, x):
    return fad.mean(curve(fad.broadcast(tree), x))


def centralised(tree, x):
    return jax.tree.map(lambda a: a.mean(0), jax.vmap(curve, (None, 0))(tree, x))


def total(measured):
    return sum(jnp.sum(v**2) for v in jax.tree.leaves(measured))


def close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("mode", MODES)
def test_a_gradient_by_real_and_complex_numbers_is_that_of_jax(mode):
    loss = fad.computation(t=S, x=C)(lambda t, x: total(federated(t, x)))
    got = fad.simulate(fad.value_and_grad(loss, mode=mode))(TREE, X)
    close(got, jax.value_and_grad(lambda t: total(centralised(t, X)))(TREE))


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("mode", MODES)
def test_a_jacobian_of_real_results_by_complex_numbers_is_that_of_jax(mode):
    made = fad.computation(tree=S, x=C)(federated)
    got = fad.simulate(fad.jacobian(made, mode=mode))(TREE, X)
    close(got, jax.jacrev(lambda t: centralised(t, X))(TREE))


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("has_aux", [True, False])
@pytest.mark.parametrize("argnums", [0, (0, 1), (1, 0)])
def test_forward_mode_takes_some_of_several_arguments(argnums, has_aux):
    def loss(w, v, x):
        value = jnp.sum(fad.mean(jnp.abs(fad.broadcast(w) * x + fad.broadcast(v)) ** 2))
        return (value, jnp.sum(v)) if has_aux else value

    def central(w, v):
        value = jnp.mean(jnp.sum(jnp.abs(w * X + v) ** 2, 1))
        return (value, jnp.sum(v)) if has_aux else value

    made = fad.computation(w=S, v=S, x=C)(loss)
    v = TREE["r"]
    got = fad.simulate(fad.grad(made, argnums, mode="forward", has_aux=has_aux))(Z, v, X)
    close(got, jax.grad(central, argnums, has_aux=has_aux)(Z, v))


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fun", [jnp.sin, jnp.conj], ids=["holomorphic", "not holomorphic"])
def test_complex_results_have_directional_derivatives_and_no_jacobian(fun, mode):
    made = fad.computation(w=S, x=C)(lambda w, x: fad.mean(fun(fad.broadcast(w) * x)))
    central = lambda w: jnp.mean(fun(w * X), 0)
    with pytest.raises(
        ModeError, match=r"only a holomorphic function .*secfad\.jvp or secfad\.vjp"
    ):
        fad.trace(fad.jacobian(made, mode=mode), Z, X[0])
    if mode in ("forward", "mixed"):
        close(
            fad.simulate(fad.jvp(made, mode=mode))(Z, X, 1j * Z), jax.jvp(central, (Z,), (1j * Z,))
        )
    if mode not in ("forward", "auto"):
        value, pull = jax.vjp(central, Z)
        close(fad.simulate(fad.vjp(made, mode=mode))(Z, X, X[1]), (value, *pull(X[1])))


def test_forward_mode_sends_two_tangents_for_a_complex_number():
    made = fad.computation(w=S, x=C)(lambda w, x: fad.mean(jnp.abs(jnp.sum(fad.broadcast(w) * x))))
    value, derived = (fad.trace(c, Z, X[0]) for c in (made, fad.grad(made, mode="forward")))
    assert derived.costs.contacts == value.costs.contacts
    numbers = lambda program: program.costs.up_bytes // 8
    assert numbers(derived) - numbers(value) == 2 * Z.size - 1
