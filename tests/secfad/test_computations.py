"""What Python shows of computations, and what it says of a decorator that is incomplete."""

import inspect
import pydoc
import re

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
