"""Messages with Jacobians: complex values, and what 16-bit numbers can hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.derivatives.jacobians import LargeJacobianWarning
from secfad.errors import ModeError

S, C = fad.SERVER, fad.CLIENTS
RNG = np.random.default_rng(0)
REAL = RNG.normal(size=3)
COMPLEX = RNG.normal(size=3) + 1j * RNG.normal(size=3)
DATA = RNG.normal(size=(5, 3)) + 1j * RNG.normal(size=(5, 3))


def bent(w, x):
    """Not holomorphic, and complex also for real arguments."""
    return w * jnp.conj(w) ** 2 * x + jnp.exp(1j * w) * jnp.real(x)


def length(w, x):
    return jnp.abs(w * x) ** 2


def tall(w, x):
    return jnp.outer(bent(w, x), x)


def wide(w, x):
    return jnp.sum(bent(w, x))


def loss(local):
    """A real loss of a complex message, and of the argument itself."""

    @fad.computation(w=S, x=C)
    def computation(w, x):
        message = fad.mean(local(fad.broadcast(w, name="model"), x), name="message")
        return measured(message, w)

    return computation


def measured(message, w):
    return jnp.sum(jnp.abs(message) ** 2) + jnp.real(jnp.sum(message) * (2 - 1j) * jnp.sum(w))


def central(local):
    return lambda w: measured(jnp.mean(jax.vmap(local, (None, 0))(w, DATA), axis=0), w)


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.sample(quick=1)
@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("argument", [REAL, COMPLEX], ids=["real", "complex"])
@pytest.mark.parametrize("local", [bent, length, tall, wide])
def test_mixed_gradient_through_complex_messages_is_the_centralised_one(local, argument):
    gradient = fad.grad(loss(local), mode="mixed")
    expected = jax.grad(central(local))(argument)
    close(fad.simulate(gradient)(argument, DATA), expected)
    close(fad.execute(fad.trace(gradient, argument, DATA[0]), argument, DATA), expected)


@pytest.mark.sample(quick=0)
@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    "outer",
    [
        "reverse",
        pytest.param("forward", marks=pytest.mark.slow),
        pytest.param("mixed", marks=pytest.mark.slow),
    ],
)
def test_second_derivatives_through_complex_messages(outer):
    hessian = fad.jacobian(fad.grad(loss(bent), mode="mixed"), mode=outer)
    close(fad.simulate(hessian)(REAL, DATA), jax.hessian(central(bent))(REAL))


@pytest.mark.usefixtures("double_precision")
def test_a_complex_jacobian_is_sent_as_that_of_its_parts():
    def up_bytes(argument, local=bent):
        return fad.trace(fad.grad(loss(local), mode="mixed"), argument, DATA[0]).costs.up_bytes

    entry = 8
    assert up_bytes(REAL) == 2 * 3 * entry + (2 * 3) * 3 * entry
    assert up_bytes(COMPLEX) == 2 * 3 * entry + (2 * 3) * (2 * 3) * entry
    assert up_bytes(COMPLEX, length) == 3 * entry + 3 * (2 * 3) * entry


@pytest.mark.usefixtures("double_precision")
def test_a_warning_counts_the_parts_of_complex_values(monkeypatch):
    monkeypatch.setattr("secfad.derivatives.jacobians.LARGE_JACOBIAN", 35)
    with pytest.warns(LargeJacobianWarning, match="6 x 6 = 36 numbers"):
        fad.trace(fad.grad(loss(bent), mode="mixed"), COMPLEX, DATA[0])


@pytest.mark.usefixtures("double_precision")
def test_complex_results_have_jacobians_by_real_arguments():
    @fad.computation(w=S, x=C)
    def total(w, x):
        return fad.sum(bent(fad.broadcast(w), x))

    expected = jax.jacfwd(lambda w: jnp.sum(jax.vmap(bent, (None, 0))(w, DATA), axis=0))(REAL)
    for mode in ("forward", "mixed"):
        close(fad.simulate(fad.jacobian(total, mode=mode))(REAL, DATA), expected)
    with pytest.raises(ModeError, match=r"only a holomorphic function has a complex Jacobian"):
        fad.simulate(fad.jacobian(total, mode="mixed"))(COMPLEX, DATA)


def scaled(inside, outside):
    """A small loss in float16; scales multiply it at the clients and at the server."""

    @fad.computation(w=S, x=C)
    def computation(w, x):
        own = jnp.sum((fad.broadcast(w, name="model") * x).astype(jnp.float32) ** 2)
        return outside * fad.mean(1e-6 * inside * own, name="loss")

    return fad.grad(computation, mode="mixed")


def test_a_scale_at_the_clients_keeps_16_bit_jacobians_from_underflow():
    """Unit cotangents enter the clients' code, whatever the server does with the loss afterwards."""
    w, x = REAL.astype(np.float16), np.real(DATA).astype(np.float16)
    expected = 2e-6 * np.mean(np.square(x, dtype=np.float32), axis=0) * w
    inside = np.asarray(fad.simulate(scaled(1e6, 1.0))(w, x), np.float32) / 1e6
    outside = np.asarray(fad.simulate(scaled(1.0, 1e6))(w, x), np.float32) / 1e6
    np.testing.assert_allclose(inside, expected, rtol=4e-3)
    assert np.max(np.abs(outside / expected - 1)) > 0.01


def test_jacobians_of_16_bit_code_are_summed_in_float32():
    w, x = REAL.astype(np.float16), np.real(DATA[0]).astype(np.float16)
    costs = fad.trace(scaled(1.0, 1.0), w, x).costs
    assert costs.up_bytes == 2 * w.nbytes
