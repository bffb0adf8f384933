"""Evaluators rebuild every kind of equation that holds others, and reach what is inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kinds_of_equations import PROGRAMS, X

import secfad as fad
from secfad import _jax
from secfad.jaxprs.evaluation import Evaluator
from secfad.jaxprs.inside import communicates


class Everywhere(Evaluator):
    """Looks into everything."""

    def enters(self, equation):
        return True


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_rebuilt_program_means_the_same(name):
    closed = jax.make_jaxpr(PROGRAMS[name][0])(X)
    expected = _jax.eval_jaxpr(closed.jaxpr, closed.consts, X)
    for got, value in zip(jax.jit(lambda x: Everywhere().run(closed, [x]))(X), expected):
        np.testing.assert_allclose(got, value, rtol=1e-6)


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("name", ["scan", "cond", "jit", "remat"])
def test_a_rebuilt_program_has_the_same_derivative(name):
    closed = jax.make_jaxpr(PROGRAMS[name][0])(X)
    total = lambda run: lambda x: sum(jnp.sum(jnp.sin(r)) for r in run(x))
    expected = jax.grad(total(lambda x: _jax.eval_jaxpr(closed.jaxpr, closed.consts, x)))(X)
    got = jax.grad(total(lambda x: Everywhere().run(closed, [x])))(X)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_only_what_communicates_is_looked_into_by_default():
    class Renamed(Evaluator):
        def equation(self, equation, values):
            assert communicates(equation) or equation.primitive.name != "cos"
            if equation.primitive is fad.primitives.sum_p:
                return fad.primitives.sum_p.bind(*values, name="renamed")
            return super().equation(equation, values)

    quiet = jax.jit(jnp.cos)
    fun = lambda x: jax.lax.fori_loop(0, 3, lambda i, c: fad.sum(fad.broadcast(quiet(c))), x)
    closed = jax.make_jaxpr(fun)(X)
    made = jax.make_jaxpr(lambda x: Renamed().run(closed, [x]))(X)
    assert str(made).count("name=renamed") == 1
