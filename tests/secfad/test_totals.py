"""Sums over clients in a simulation: right in every number type, and not slower than they must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.totals import over_clients

S, C = fad.SERVER, fad.CLIENTS
RNG = np.random.default_rng(0)
TYPES = ["float32", "float64", "float16", "bfloat16", "complex64", "int32", "uint8"]


@pytest.mark.sample(quick=12)
@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("shape", [(), (3,), (40, 30), (64, 300)])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_total_is_the_sum_in_the_number_type_of_the_values(dtype, shape):
    values = jnp.asarray(RNG.integers(0, 9, size=(7, *shape)), dtype)
    total = over_clients(values)
    assert total.dtype == values.dtype
    np.testing.assert_array_equal(total, np.sum(np.asarray(values), 0, dtype=values.dtype))


@pytest.mark.parametrize("entries", [500, 20_000], ids=["reduced", "by a product"])
def test_what_is_not_finite_at_one_client_is_not_finite_in_the_total_only_there(entries):
    values = jnp.ones((3, entries)).at[1, 7].set(jnp.nan).at[0, 9].set(jnp.inf)
    total = over_clients(values)
    assert bool(jnp.isnan(total[7]))
    assert bool(jnp.isinf(total[9]))
    assert int(jnp.sum(jnp.isfinite(total))) == entries - 2


def sizes(closed):
    """The shapes of what is added up over the leading axis, by product or by reduction."""
    for equation in closed.jaxpr.eqns:
        if equation.primitive.name == "reduce_sum" and 0 in equation.params["axes"]:
            yield equation.invars[0].aval.shape
        if equation.primitive.name == "dot_general" and len(equation.invars[0].aval.shape) == 1:
            yield equation.invars[1].aval.shape


def test_a_message_times_several_tangents_is_added_up_once():
    """Three tangents of a scale are three multiples of one sum."""

    @fad.computation(scales=S, x=C)
    def computation(scales, x):
        received = fad.broadcast(scales)
        return fad.sum(jnp.prod(received) * jnp.sin(x))

    made = fad.simulate(fad.jacobian(computation, mode="forward"))
    args = jnp.array([0.3, 0.2, 0.5]), jnp.asarray(RNG.normal(size=(4, 500)), jnp.float32)
    whole = jax.make_jaxpr(made)(*args)
    (inner,) = (e.params["jaxpr"] for e in whole.jaxpr.eqns if "jaxpr" in e.params)
    added = [shape for shape in sizes(inner) if 4 in shape]
    assert added
    assert all(np.prod(shape) <= 4 * 500 for shape in added)
    expected = jax.jacfwd(lambda s: jnp.sum(jnp.prod(s) * jnp.sin(args[1]), 0))(args[0])
    np.testing.assert_allclose(made(*args), expected, rtol=1e-5, atol=1e-5)
