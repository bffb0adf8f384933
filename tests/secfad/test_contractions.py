"""A sum over clients of products is one product in the fused simulation, with the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad

S, C = fad.SERVER, fad.CLIENTS
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
X = jnp.asarray(RNG.normal(size=(5, 4, 3)), jnp.float32)


def mean_loss(clip):
    @fad.computation(w=S, x=C)
    def fun(w, x):
        gradient = jax.grad(lambda v: jnp.mean(jnp.sin(x @ v)))(fad.broadcast(w))
        return fad.mean(fad.clip(gradient, 0.01) if clip else gradient, name="gradient")

    return fun


def contracts_clients(computation):
    """True if some product in the fused program contracts two axes: examples and clients."""
    jaxpr = jax.make_jaxpr(fad.simulate(computation))(W, X).jaxpr.eqns[0].params["jaxpr"].jaxpr
    dots = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    return any(len(e.params["dimension_numbers"][0][0]) == 2 for e in dots)


def test_sum_of_products_contracts_the_axis_of_clients():
    assert contracts_clients(mean_loss(clip=False))


def test_a_clip_between_product_and_sum_keeps_the_products_apart():
    assert not contracts_clients(mean_loss(clip=True))


def test_contracted_gradient_equals_the_sum_of_gradients():
    got = fad.simulate(mean_loss(clip=False))(W, X)
    rows = jax.vmap(lambda x: jax.grad(lambda v: jnp.mean(jnp.sin(x @ v)))(W))(X)
    np.testing.assert_allclose(got, rows.mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("both", [True, False])
def test_product_with_a_shared_operand_is_summed_right(both):
    @fad.computation(w=S, x=C)
    def fun(w, x):
        received = fad.broadcast(w)
        return fad.sum(x @ received if both else received.T @ received, name="product")

    expected = (X @ W).sum(0) if both else 5 * W.T @ W
    np.testing.assert_allclose(fad.simulate(fun)(W, X), expected, rtol=1e-5)


def test_simulation_with_contractions_is_differentiable_and_mappable():
    run = fad.simulate(mean_loss(clip=False))
    expected = jax.jacrev(
        lambda w: jax.vmap(lambda x: jax.grad(lambda v: jnp.mean(jnp.sin(x @ v)))(w))(X).mean(0)
    )(W)
    np.testing.assert_allclose(jax.jacrev(run)(W, X), expected, rtol=1e-4, atol=1e-6)
    two = jnp.stack([W, 2 * W])
    mapped = jax.vmap(run, in_axes=(0, None))(two, X)
    np.testing.assert_allclose(mapped[1], run(2 * W, X), rtol=1e-5, atol=1e-7)
