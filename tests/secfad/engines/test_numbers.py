"""Numbers of few bits, whole numbers, Python numbers and keys: what is computed, sent and counted."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.errors import TracingError

S, C = fad.SERVER, fad.CLIENTS
SHORT = (jnp.float16, jnp.bfloat16)
ENGINES = {
    "simulate": lambda c, *a: fad.simulate(c)(*a),
    "in chunks": lambda c, *a: fad.simulate(c, chunk_size=999)(*a),
    "execute": lambda c, *a: fad.execute(fad.trace(c, *(x[0] for x in a)), *a),
}


@fad.computation(x=C)
def mean(x):
    return fad.mean(x)


@fad.computation(x=C, n=C)
def weighted(x, n):
    return fad.mean(x, weights=n)


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("run", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize(("clients", "value"), [(1000, 100.0), (70_000, 0.5)])
def test_a_mean_of_many_short_numbers_neither_overflows_nor_stands_still(
    run, dtype, clients, value
):
    x = jnp.full((clients,), value, dtype)
    for got in (run(mean, x), run(weighted, x, jnp.ones(clients, dtype))):
        assert (got.dtype, float(got)) == (dtype, value)


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("mode", ["forward", "reverse", "factored", "mixed", "auto"])
def test_derivatives_of_a_mean_of_short_numbers_have_their_dtype(dtype, mode):
    @fad.computation(w=S, x=C)
    def loss(w, x):
        return fad.mean(fad.broadcast(w) * x)

    w, x = jnp.asarray(1.0, dtype), jnp.full((2000,), 60.0, dtype)
    got = fad.simulate(fad.grad(loss, mode=mode))(w, x)
    assert got.dtype == dtype
    # The sum of the cotangents of a broadcast has its dtype, as in JAX.
    np.testing.assert_allclose(float(got), 60, rtol=5e-2)


def test_costs_of_a_mean_of_short_numbers_are_those_of_what_is_sent():
    model = {"a": jnp.zeros(5, jnp.bfloat16), "b": jnp.zeros(3)}
    # Nobody sends the weights, which are alike.
    assert fad.trace(mean, model).costs.up_bytes == 8 * 4
    assert fad.trace(weighted, model, jnp.bfloat16(1)).costs.up_bytes == 9 * 4
    got = fad.simulate(mean)(jax.tree.map(lambda x: x[None], model))
    assert {name: x.dtype for name, x in got.items()} == {"a": jnp.bfloat16, "b": jnp.float32}


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize(
    ("dtype", "x64"),
    [*itertools.product(["bool", "int8", "uint8", "int32"], [False, True]), ("int64", True)],
)
def test_the_mean_of_whole_numbers_has_the_dtype_of_jax(dtype, x64):
    with jax.enable_x64(x64):
        x = jnp.asarray([0, 1, 1, 1] * 100, dtype)
        got = fad.simulate(mean)(x)
        assert (got, got.dtype) == (0.75, jnp.mean(x).dtype)
        got = fad.simulate(weighted)(x, x)
        assert (got, got.dtype) == (1.0, jnp.mean(x).dtype)


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_a_key_costs_what_its_data_take(kind):
    @fad.computation(key=S, x=C)
    def noisy(key, x):
        return fad.mean(x * jax.random.normal(fad.broadcast(key), ()))

    key = jax.random.key(0, impl=kind)
    costs = fad.trace(noisy, key, 1.0).costs
    assert costs.down_bytes == np.asarray(jax.random.key_data(key)).nbytes


def rounds(rate, w, x):
    step = lambda w, _: (w - rate * fad.mean(jnp.tanh(fad.broadcast(w) * x)), None)
    return jax.lax.scan(step, w, None, length=2)[0]


def central(rate, w, x):
    step = lambda w, _: (w - rate * jnp.mean(jnp.tanh(w * x), 0), None)
    return jax.lax.scan(step, w, None, length=2)[0]


RATES = {
    "a Python number": lambda: 0.1,
    "a whole one": lambda: 1,
    "a weak array": lambda: jnp.asarray(0.1),
    "float32": lambda: jnp.float32(0.1),
    "NumPy's": lambda: np.float64(0.1),
}


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_a_number_takes_the_dtype_of_what_it_meets_as_under_jit(rate, dtype):
    made = fad.computation(rate=S, w=S, x=C)(rounds)
    args = rate(), jnp.ones(3, dtype), jnp.ones((4, 3), dtype)
    try:
        expected = jax.jit(central)(*args)
    except TypeError:
        with pytest.raises(TracingError, match="carry"):
            fad.simulate(made)(*args)
        return
    program = fad.trace(made, args[0], args[1], args[2][0])
    for got in (
        fad.simulate(made)(*args),
        fad.simulate(made, chunk_size=3)(*args),
        jax.jit(fad.simulate(made))(*args),
        fad.execute(program, *args),
    ):
        assert got.dtype == expected.dtype == dtype
        np.testing.assert_allclose(got.astype(float), expected.astype(float), rtol=2e-2)


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
def test_a_derivative_by_a_python_number_beside_a_short_model_exists(mode):
    made = fad.computation(rate=S, w=S, x=C)(lambda rate, w, x: jnp.sum(rounds(rate, w, x)))
    w, x = jnp.ones(3, jnp.bfloat16), jnp.ones((4, 3), jnp.bfloat16)
    expected = jax.grad(lambda *args: jnp.sum(central(*args)))(0.1, w, x)
    got = fad.simulate(fad.grad(made, mode=mode))(0.1, w, x)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=3e-2)
