"""Scalar cotangents are applied by the server wherever clients only multiply by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.derivatives.jacobians import NonlinearRuleWarning
from secfad.engines.local import plain_sum

S, C = fad.SERVER, fad.CLIENTS
W = jnp.asarray([0.3, -1.2, 0.7])
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), W.dtype)
SPECS = (jax.ShapeDtypeStruct((3,), W.dtype),) * 2


def local_loss(w, x):
    return jnp.sum(jnp.tanh(w * x) ** 2)


def of_mean(outer, weights=None):
    """A program of one contact: a function of the mean of the clients' losses."""

    @fad.computation(w=S, x=C)
    def loss(w, x):
        losses = local_loss(fad.broadcast(w, name="w"), x)
        return outer(fad.mean(losses, weights=None if weights is None else weights(x), name="loss"))

    def oracle(w):
        scale = jnp.ones(5) if weights is None else jax.vmap(weights)(X)
        losses = jax.vmap(local_loss, (None, 0))(w, X)
        return outer(jnp.sum(scale * losses) / jnp.sum(scale))

    return loss, oracle


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize(
    "weights", [None, lambda x: jnp.exp(x[0])], ids=["plain mean", "weighted mean"]
)
@pytest.mark.parametrize("outer", [lambda v: v, jnp.log, lambda v: 3 - v**2])
def test_reverse_mode_of_a_scalar_loss_needs_one_contact_and_downloads_the_model(outer, weights):
    loss, oracle = of_mean(outer, weights)
    derivative = fad.value_and_grad(loss)
    costs = fad.trace(derivative, *SPECS).costs
    assert (costs.contacts, costs.readdressed, costs.state_bytes) == (1, False, 0)
    assert costs.down_bytes == 3 * 4
    for a, b in zip(fad.simulate(derivative)(W, X), jax.value_and_grad(oracle)(W)):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_what_a_client_sends_does_not_depend_on_the_cotangent():
    sent = []
    for scale in (1.0, 1e6):
        loss, _ = of_mean(lambda v, scale=scale: scale * v)
        fad.execute(fad.trace(fad.grad(loss), *SPECS), W, X, aggregate=record(sent))
    np.testing.assert_array_equal(sent[0], sent[1])


def test_a_loss_that_looks_numbers_up_needs_one_contact_without_a_cotangent():
    @fad.computation(table=S, rows=C)
    def loss(table, rows):
        return jnp.log(fad.mean(jnp.sum(fad.broadcast(table, name="table")[rows] ** 2)))

    table, rows = jnp.arange(1.0, 7.0), jnp.array([[0, 2], [5, 5], [1, 0]])
    derivative = fad.grad(loss)
    costs = fad.trace(derivative, table, jax.ShapeDtypeStruct((2,), rows.dtype)).costs
    assert (costs.contacts, costs.down_bytes) == (1, 6 * table.dtype.itemsize)
    oracle = jax.grad(lambda t: jnp.log(jnp.mean(jnp.sum(t[rows] ** 2, axis=1))))(table)
    np.testing.assert_allclose(fad.simulate(derivative)(table, rows), oracle, rtol=1e-5)


def record(sent):
    def aggregate(upload):
        sent.append(np.asarray(upload.values[0]))
        return plain_sum(upload)

    return aggregate


def test_vjp_is_linear_in_a_cotangent_that_no_client_sees():
    loss, oracle = of_mean(jnp.sin)
    pulled = fad.vjp(loss)
    program = fad.trace(pulled, *SPECS, jax.ShapeDtypeStruct((), W.dtype))
    assert program.costs.down_bytes == 3 * 4
    value, derivative = fad.simulate(pulled)(W, X, jnp.float32(-2.5))
    np.testing.assert_allclose(value, oracle(W), rtol=1e-6)
    np.testing.assert_allclose(derivative, -2.5 * jax.grad(oracle)(W), rtol=1e-5)


@fad.computation(w=S, x=C)
def two_losses(w, x):
    """Clients add up two cotangents, so that neither is a factor."""
    received = fad.broadcast(w)
    first, second = fad.sum((local_loss(received, x), jnp.sum(jnp.cos(received * x))))
    return first * second


@fad.computation(w=S, x=C)
def clipped_gradient(w, x):
    """A rule for the derivative that is not linear in the cotangent."""

    @jax.custom_vjp
    def identity(v):
        return v

    identity.defvjp(lambda v: (v, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))
    return 2 * fad.mean(local_loss(identity(fad.broadcast(w)), x))


@pytest.mark.parametrize("computation", [two_losses, clipped_gradient])
def test_a_cotangent_that_is_no_factor_is_still_sent(computation):
    program = fad.trace(fad.grad(computation), *SPECS)
    assert program.costs.down_bytes > 3 * 4
    unfactored = fad.computation(w=S, x=C)(lambda w, x: jax.grad(computation.fun)(w, x))
    np.testing.assert_allclose(
        fad.simulate(fad.grad(computation))(W, X), fad.simulate(unfactored)(W, X), rtol=1e-6
    )


def test_the_gradient_that_stays_at_a_client_needs_the_cotangent():
    loss, _ = of_mean(jnp.log)
    program = fad.trace(fad.grad(loss, argnums=1), *SPECS)
    assert program.costs.contacts == 2
    assert program.out_placements == (C,)


@fad.computation(rate=S, w=S, x=C)
def two_rounds(rate, w, x):
    delta = fad.mean(jax.grad(local_loss)(fad.broadcast(w, name="model"), x), name="delta")
    return fad.mean(local_loss(fad.broadcast(w - rate * delta, name="new_model"), x), name="loss")


def test_with_several_rounds_reverse_is_the_papers_and_factored_saves_a_contact():
    specs = (jax.ShapeDtypeStruct((), W.dtype), *SPECS)
    costs = {
        mode: fad.trace(fad.value_and_grad(two_rounds, mode=mode), *specs).costs
        for mode in ("reverse", "factored")
    }
    assert (costs["reverse"].contacts, costs["reverse"].readdressed) == (3, True)
    assert (costs["factored"].contacts, costs["factored"].readdressed) == (2, False)
    assert costs["factored"].state_bytes == 0


def test_scalars_are_factored_out_inside_loops():
    @fad.computation(w=S, x=C)
    def descent(w, x):
        def body(w, _):
            value = jnp.log(fad.mean(local_loss(fad.broadcast(w), x)))
            return w * jnp.tanh(value), value

        return jnp.sum(jax.lax.scan(body, w, length=3)[1])

    plain = fad.trace(fad.grad(descent), *SPECS)
    factored = fad.trace(fad.grad(descent, mode="factored"), *SPECS)
    assert plain.costs.down_bytes == factored.costs.down_bytes + 3 * 4
    np.testing.assert_allclose(
        fad.simulate(fad.grad(descent, mode="factored"))(W, X),
        fad.simulate(fad.grad(descent))(W, X),
        rtol=1e-5,
    )


@pytest.mark.slow
def test_a_second_derivative_of_a_factored_gradient():
    loss, oracle = of_mean(lambda v: v**2)
    hessian = fad.jacobian(fad.grad(loss), mode="forward")
    np.testing.assert_allclose(fad.simulate(hessian)(W, X), jax.hessian(oracle)(W), rtol=1e-4)


def executed(loss, w, x):
    """Value and gradient message by message, as clients compute them."""
    derivative = fad.value_and_grad(loss)
    program = fad.trace(derivative, w, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    return program.costs.contacts, fad.execute(program, w, x)


def test_a_complex_cotangent_is_no_factor_of_a_real_part():
    @fad.computation(w=S, x=C)
    def loss(w, x):
        return jnp.real(fad.sum(jnp.sum(jnp.exp(1j * fad.broadcast(w) * x))) ** 2)

    contacts, got = executed(loss, W, X)
    want = jax.value_and_grad(lambda w: jnp.real(jnp.sum(jnp.exp(1j * w * X)) ** 2))(W)
    assert contacts == 2
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize("parameters", [jnp.float16, jnp.float32])
def test_the_scale_of_a_loss_in_float16_reaches_the_clients(parameters):
    w, x = W.astype(parameters), X.astype(jnp.float16)

    def local(w, x):
        return 1e-6 * jnp.sum((w.astype(jnp.float16) * x).astype(jnp.float32) ** 2)

    @fad.computation(w=S, x=C)
    def loss(w, x):
        return 1e6 * fad.mean(local(fad.broadcast(w), x))

    _, got = executed(loss, w, x)
    want = jax.value_and_grad(lambda w: 1e6 * jnp.mean(jax.vmap(local, (None, 0))(w, x)))(w)
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, rtol=4e-3)


def truncated(cotangent):
    return (3 * cotangent).astype(jnp.int32).astype(cotangent.dtype) + jnp.zeros(3, W.dtype)


def filled(cotangent):
    rows = jnp.broadcast_to(cotangent, (3,))
    return rows.at[jnp.array([0, 5, 1])].get(mode="fill", fill_value=7.0)


@pytest.mark.parametrize("backward", [truncated, filled])
def test_what_only_looks_linear_in_a_cotangent_gets_the_cotangent(backward):
    @jax.custom_vjp
    def total(x):
        return jnp.sum(x)

    total.defvjp(lambda x: (jnp.sum(x), None), lambda _, cotangent: (backward(cotangent),))

    @fad.computation(w=S, x=C)
    def loss(w, x):
        return 2.6 * fad.sum(total(fad.broadcast(w) * x))

    _, got = executed(loss, W, X)
    want = jax.value_and_grad(lambda w: 2.6 * jnp.sum(jax.vmap(lambda x: total(w * x))(X)))(W)
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    with pytest.warns(NonlinearRuleWarning):
        fad.trace(fad.grad(loss, mode="mixed"), *SPECS)
