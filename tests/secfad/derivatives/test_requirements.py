"""What a derivative expects is checked before JAX differentiates, and alike in every mode."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.errors import ArgumentError, ModeError

S, C = fad.SERVER, fad.CLIENTS
MODES = ("forward", "reverse", "factored", "mixed", "auto")
BACKWARD = ("reverse", "factored", "mixed", "blockwise")
W, X = jnp.asarray([0.5, -1.0, 2.0]), jnp.arange(15.0).reshape(5, 3) / 10


@fad.computation(w=S, x=C)
def square(w, x):
    return fad.mean(jnp.sum(fad.broadcast(w) * x) ** 2)


def central(w):
    return jnp.mean(jnp.sum(w * X, 1) ** 2)


def close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), got, expected)


def returning(result):
    return fad.computation(w=S, x=C)(result)


@pytest.mark.parametrize("mode", MODES)
def test_integers_are_not_differentiated_and_named(mode):
    tree = returning(lambda w, x: fad.mean(fad.broadcast(w["a"]) * x)[0] * w["count"])
    with pytest.raises(
        ArgumentError, match=r"floating-point .* in `w\['count'\]`, got int32.*astype"
    ):
        fad.simulate(fad.grad(tree, mode=mode))({"a": W, "count": 3}, X)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("result", "described"),
    [
        (lambda w, x: fad.mean(fad.broadcast(w) * x), r"float32\[3\]"),
        (lambda w, x: {"loss": fad.mean(jnp.sum(fad.broadcast(w) * x))}, r"{'loss': float32\[\]}"),
        (lambda w, x: fad.sum(jnp.sum(x > fad.broadcast(w))), r"int32\[\]"),
        (lambda w, x: (), r"\(\)"),
    ],
)
def test_a_gradient_is_of_one_real_number_in_every_mode(mode, result, described):
    words = f"one real floating-point scalar .*, got {described}"
    with pytest.raises(ArgumentError, match=words):
        fad.simulate(fad.grad(returning(result), mode=mode))(W, X)


@pytest.mark.parametrize("mode", MODES)
def test_a_jacobian_is_of_floating_point_results_in_every_mode(mode):
    counts = returning(lambda w, x: (fad.mean(fad.broadcast(w) * x), fad.sum(1)))
    with pytest.raises(ArgumentError, match=r"got \(float32\[3\], int32\[\]\)"):
        fad.simulate(fad.jacobian(counts, mode=mode))(W, X)


@pytest.mark.slow
def test_complex_results_and_messages_have_the_modes_that_exist():
    wave = returning(lambda w, x: fad.sum(jnp.exp(1j * fad.broadcast(w) * x)))
    expected = jax.jacfwd(lambda w: jnp.exp(1j * w * X).sum(0))(W)
    for mode in ("forward", "mixed", "auto"):
        close(fad.simulate(fad.jacobian(wave, mode=mode))(W, X), expected)
    with pytest.raises(ModeError, match=r"results are complex.*mode='forward'"):
        fad.simulate(fad.jacobian(wave, mode="reverse"))(W, X)
    with pytest.raises(ArgumentError, match=r"one real floating-point scalar .* complex64\[\]"):
        fad.simulate(fad.grad(returning(lambda w, x: wave(w, x)[0]), mode="forward"))(W, X)
    power = returning(lambda w, x: jnp.sum(jnp.abs(wave(w, x)) ** 2))
    expected = jax.grad(lambda w: jnp.sum(jnp.abs(jnp.exp(1j * w * X).sum(0)) ** 2))(W)
    for mode in MODES:
        close(fad.simulate(fad.grad(power, mode=mode))(W, X), expected)


@pytest.mark.parametrize("derive", [fad.grad, fad.jacobian])
def test_no_mode_adds_up_over_clients_what_the_user_did_not(derive):
    own = returning(lambda w, x: jnp.sum(fad.broadcast(w) * x))
    for mode in ("forward", "auto"):
        program = fad.trace(derive(own, mode=mode), W, X[0])
        assert program.out_placements == (C,)
        close(fad.execute(program, W, X), X)
    for mode in BACKWARD:
        with pytest.raises(ModeError, match=r"returns a client value.*mode='forward'"):
            fad.trace(derive(own, mode=mode), W, X[0])
    with pytest.raises(ModeError, match="returns a client value"):
        fad.trace(fad.vjp(own), W, X[0], 1.0)


@pytest.mark.parametrize("argnums", ["w", ("w",), 0.0, (), 2, -3, (0, 0), (0, -2)])
def test_positions_are_whole_numbers_within_the_arguments_each_once(argnums):
    for derive in (fad.grad, fad.jvp, fad.vjp):
        with pytest.raises(ArgumentError, match=r"argnums within the 2 .* 0: `w`, 1: `x`"):
            derive(square, argnums)


def test_positions_may_be_numpy_integers_and_count_from_the_end():
    for argnums in (np.int64(0), -2):
        close(fad.simulate(fad.grad(square, argnums))(W, X), jax.grad(central)(W))


@pytest.mark.parametrize("mode", ["forward", "mixed"])
def test_tangents_fit_their_argument(mode):
    derivative = fad.simulate(fad.jvp(square, mode=mode))
    for tangent, came in ((W[:2], r"float32\[2\]"), (jnp.arange(3), r"int32\[3\]"), ([W], r"\[fl")):
        with pytest.raises(ArgumentError, match=rf"`w_tangent` .* `w`, float32\[3\], got {came}"):
            derivative(W, X, tangent)


@pytest.mark.parametrize("mode", BACKWARD)
def test_cotangents_fit_the_result(mode):
    derivative = fad.simulate(fad.vjp(square, mode=mode))
    for cotangent, came in ((W, r"float32\[3\]"), (1, r"int32\[\]"), ([1.0], r"\[float32")):
        with pytest.raises(ArgumentError, match=rf"`cotangent` .* float32\[\], got {came}"):
            derivative(W, X, cotangent)


@pytest.mark.parametrize("derive", [fad.jvp, fad.vjp])
def test_mixed_mode_of_a_client_argument_is_refused_by_its_name(derive):
    with pytest.raises(ModeError, match="Mixed mode expected a server argument, got `x`"):
        derive(square, 1, mode="mixed")


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize(
    ("outer", "inner"), list(itertools.product(["forward", "mixed"], repeat=2))
)
def test_a_jvp_of_a_jvp_has_a_name_for_every_tangent(outer, inner):
    second = fad.jvp(fad.jvp(square, mode=inner), mode=outer)
    assert list(second.placements) == ["w", "x", "w_tangent", "w_tangent_2"]
    u, v = W + 1, W * 2
    expected = jax.jvp(lambda w: jax.jvp(central, (w,), (u,)), (W,), (v,))
    close(fad.simulate(second)(W, X, u, v), expected)


def test_a_vjp_of_a_vjp_has_a_name_for_every_cotangent():
    second = fad.vjp(fad.vjp(square))
    assert list(second.placements) == ["w", "x", "cotangent", "cotangent_2"]
    value = lambda w: (central(w), 2.0 * jax.grad(central)(w))
    result, pull = jax.vjp(value, W)
    given = (jnp.float32(1.0), W)
    close(fad.simulate(second)(W, X, 2.0, given), (result, pull(given)[0]))


def test_an_argument_may_be_called_as_a_derivative_would_call_its_own():
    product = fad.computation(w=S, w_tangent=S, cotangent=S, x=C)(
        lambda w, w_tangent, cotangent, x: square(w * w_tangent * cotangent, x)
    )
    expected = jax.value_and_grad(lambda w: central(w * 3 * W))(W)
    close(fad.simulate(fad.vjp(product))(W, jnp.float32(3), W, X, 1.0), expected)
    got = fad.simulate(fad.jvp(product))(W, jnp.float32(3), W, X, W)
    close(got, (expected[0], expected[1] @ W))


@pytest.mark.parametrize("apply", [fad.grad, fad.jacobian, fad.jvp, fad.vjp, fad.simulate])
def test_a_function_without_its_decorator_is_named(apply):
    with pytest.raises(ArgumentError, match="Expected a Computation, got function"):
        apply(lambda w, x: w)


@jax.custom_vjp
def sine(x):
    return jnp.sin(x)


sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))


@pytest.mark.parametrize("mode", ["forward", "mixed"])
def test_a_tangent_through_a_custom_vjp_is_refused_when_traced(mode):
    # In mixed mode it is the server's custom_vjp: Jacobians of the clients' are taken backwards.
    rule = returning(lambda w, x: sine(fad.mean(jnp.sum(fad.broadcast(w) * x))))
    program = fad.jvp(rule, mode=mode)
    for run in (lambda: fad.trace(program, W, X[0], W), lambda: fad.simulate(program)(W, X, W)):
        with pytest.raises(ModeError, match=r"test_requirements.py:.*custom_vjp.*mode='reverse'"):
            run()


def test_a_tangent_through_a_custom_vjp_that_nobody_reads_is_no_fault():
    @fad.computation(w=S, x=C)
    def value_only(w, x):
        rule = lambda w: fad.mean(jnp.sum(sine(fad.broadcast(w) * x)))
        return jax.jvp(rule, (w,), (w,))[0]

    close(fad.simulate(value_only)(W, X), jnp.mean(jnp.sum(jnp.sin(W * X), 1)))
