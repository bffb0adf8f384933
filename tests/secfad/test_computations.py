"""What Python shows of computations, and what it says of a decorator that is incomplete."""

import functools
import inspect
import pydoc
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.errors import ArgumentError

S, C = fad.SERVER, fad.CLIENTS


@fad.computation(w=S, x=C)
def loss(w, x):
    """Mean of squares."""
    return fad.mean((fad.broadcast(w) * x) ** 2)


def parameters(fun):
    return list(inspect.signature(fun).parameters)


@pytest.mark.parametrize(
    ("derivative", "title", "names"),
    [
        (fad.grad(loss), "Gradient of `loss` with respect to `w`, in reverse mode.", ["w", "x"]),
        (fad.value_and_grad(loss, mode="auto"), "Value and gradient .* in auto mode.", ["w", "x"]),
        (fad.jacobian(loss, (0, 1)), "Jacobian of `loss` with respect to `w`, `x`", ["w", "x"]),
        (fad.jvp(loss), "Value and directional derivative of", ["w", "x", "w_tangent"]),
        (fad.vjp(loss), "Value and pulled-back cotangent of", ["w", "x", "cotangent"]),
    ],
)
def test_a_derivative_shows_what_it_is_and_its_arguments(derivative, title, names):
    assert parameters(derivative) == parameters(fad.simulate(derivative)) == names
    for shown in (derivative, fad.simulate(derivative)):
        assert re.match(title, shown.__doc__)
        assert shown.__doc__.endswith("Mean of squares.")
    assert derivative.__name__ == derivative.name


def test_help_shows_a_computation_and_its_simulation_not_the_class():
    shown = pydoc.render_doc(fad.simulate(loss), renderer=pydoc.plaintext)
    assert "simulate_loss(w, x)" in shown
    assert "Mean of squares." in shown
    assert parameters(loss) == ["w", "x"]
    assert "Mean of squares." in pydoc.render_doc(loss, renderer=pydoc.plaintext)
    assert fad.computation(w=S, x=C)(lambda w, x: w).__doc__ is None


def test_a_computation_may_have_arguments_that_python_has_no_name_for():
    made = fad.Computation(lambda w, x: loss(w, x), {"args[0]": S, "lambda": C}, "made")
    assert parameters(made) == ["args", "kwargs"]
    np.testing.assert_allclose(fad.simulate(fad.grad(made))(2.0, np.ones(3, np.float32)), 4.0)


def test_a_decorator_without_placements_is_told_what_to_write():
    with pytest.raises(
        ArgumentError, match=r"placement for each parameter, got <function .*model=secfad"
    ):

        @fad.computation
        def bare(w, x):
            return w


def scaled(w, x, rate=0.5):
    return rate * fad.mean(jnp.sum(fad.broadcast(w) * x))


W, X = np.ones(3, np.float32), np.arange(12, dtype=np.float32).reshape(4, 3)
TOTAL = X.sum(1).mean()


def test_a_default_may_be_left_out_wherever_a_computation_is_used():
    made = fad.computation(w=S, x=C, rate=S)(scaled)
    assert str(inspect.signature(made)) == "(w, x, rate=0.5)"
    run = fad.simulate(made)
    assert run(W, X) == run(W, x=X) == 0.5 * TOTAL
    assert run(W, X, 2.0) == run(W, X, rate=2.0) == run(x=X, rate=2.0, w=W) == 2 * TOTAL
    program = fad.trace(made, W, X[0])
    assert fad.execute(program, W, X) == 0.5 * TOTAL
    assert fad.execute(program, W, X, 2.0) == 2 * TOTAL
    assert program.digest == fad.trace(made, W, x=X[0]).digest
    np.testing.assert_allclose(fad.simulate(fad.grad(made))(W, X), 0.5 * X.mean(0))
    np.testing.assert_allclose(fad.simulate(fad.grad(made, 2))(W, X), TOTAL)
    assert fad.plan(made, W, X[0]).mode == fad.plan(made, W, X[0], 0.5).mode
    outer = fad.computation(w=S, x=C)(lambda w, x: made(w, x) + made(w, x, rate=1.0))
    assert fad.simulate(outer)(W, X) == 1.5 * TOTAL


def test_a_missing_unknown_or_doubled_argument_is_named():
    made = fad.computation(w=S, x=C, rate=S)(scaled)
    run = fad.simulate(made)
    for call, words in (
        (lambda: run(W), r"\(w, x, rate=0\.5\), got 1 by position .* missing: 'x'"),
        (lambda: run(W, X, speed=1.0), "unknown: 'speed'"),
        (lambda: run(W, X, w=W), "given twice: 'w'"),
        (lambda: run(W, X, 1.0, 2.0), "got 4 by position"),
        (lambda: fad.trace(made, W), "missing: 'x'"),
        (lambda: fad.trace(made, W, X[0], speed=1.0), "unknown: 'speed'"),
        (lambda: made(W), "missing: 'x'"),
    ):
        with pytest.raises(ArgumentError, match=words):
            call()


class Model:
    """A callable object."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, w, x):
        return scaled(w, x, self.rate)

    def method(self, w, x):
        return scaled(w, x, self.rate)


def by_name(w, *, x, rate=0.5):
    return scaled(w, x, rate)


FUNCTIONS = {
    "a callable object": (Model(0.5), "Model"),
    "a method": (Model(0.5).method, "method"),
    "a partial function": (functools.partial(scaled, rate=0.5), "scaled"),
    "a partial object": (functools.partial(Model(0.5)), "Model"),
    "a bound position": (functools.partial(lambda rate, w, x: scaled(w, x, rate), 0.5), "<lambda>"),
    "a bound name in between": (
        functools.partial(lambda w, rate, x: scaled(w, x, rate), rate=0.5),
        "<lambda>",
    ),
    "a default without a placement": (scaled, "scaled"),
    "parameters by name only": (by_name, "by_name"),
    "a compiled function": (jax.jit(lambda w, x: scaled(w, x)), "<lambda>"),
}


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize("fun", FUNCTIONS)
def test_anything_that_can_be_called_by_names_can_be_a_computation(fun):
    fun, name = FUNCTIONS[fun]
    made = fad.computation(w=S, x=C)(fun)
    assert made.name == name
    assert parameters(made) == ["w", "x"]
    np.testing.assert_allclose(fad.simulate(made)(W, X), 0.5 * TOTAL)
    np.testing.assert_allclose(fad.simulate(fad.grad(made))(W, x=X), 0.5 * X.mean(0))


@pytest.mark.parametrize("fun", [Model(1.0), functools.partial(scaled), lambda w, x: w, by_name])
def test_placements_that_are_not_those_of_the_parameters_are_refused_with_both(fun):
    for placements in ({"w": S, "y": C}, {"w": S}, {"w": S, "x": C, "z": C}):
        with pytest.raises(
            ArgumentError, match=r"has the parameters \(w, x.*got placements for \(w"
        ):
            fad.computation(**placements)(fun)


def test_functions_without_parameters_of_their_own_are_refused():
    for fun in (lambda *args: args, lambda w, x, **more: w):
        with pytest.raises(ArgumentError, match=r"plain parameters, got the signature \(.*wrap"):
            fad.computation(w=S, x=C)(fun)
    with pytest.raises(ArgumentError, match="Wrap it in one"):
        fad.computation(w=S, x=C)(dict)
