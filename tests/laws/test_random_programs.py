"""Every mode of every random program is placed, closed and exact, whoever drops out."""

import jax
import numpy as np
import pytest
import random_programs
from hypothesis import given, settings, target
from hypothesis import strategies as st

import secfad as fad
from secfad.calls import bodies
from secfad.engines.local import sum_of
from secfad.simulation import fuse

MODES = ("forward", "reverse", "factored", "mixed")
# Values are of order one; programs have up to a few hundred operations.
TOLERANCE = 1e-9
RNG = np.random.default_rng(0)
W, X = RNG.normal(size=3), RNG.normal(size=(4, 3))
SURVIVORS = [0, 2, 3]


def close(got, expected):
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def names(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name, equation.params
        for body in bodies(equation):
            yield from names(body)


def check(steps, executed=MODES):
    made = random_programs.computation(steps)
    spec = jax.ShapeDtypeStruct((3,), np.float64)
    traced = {m: fad.trace(fad.value_and_grad(made, mode=m), spec, spec) for m in MODES}
    # Without compilation: these programs are tiny and each runs a few times only.
    with jax.disable_jit():
        of_survivors = X[np.array(SURVIVORS)]
        expected = jax.value_and_grad(random_programs.oracle(steps, 3))(W, of_survivors)
        for mode, program in traced.items():
            close(fuse(program)(W, of_survivors), expected)
            if mode in executed:
                aggregate = sum_of([SURVIVORS])
                remaining = fad.execute(program, W, X, aggregate=aggregate, public_size=3)
                close(remaining, expected)
    for program in traced.values():
        assert program.out_placements == (fad.SERVER, fad.SERVER)
        for name, params in names(program.jaxpr.jaxpr):
            assert "axis_name" not in params, name
            assert not name.startswith("psum"), name
    assert traced["mixed"].costs.contacts <= fad.trace(made, spec, spec).costs.contacts
    assert traced["factored"].costs.contacts <= traced["reverse"].costs.contacts
    target(float(traced["reverse"].costs.contacts))


@settings(max_examples=50)
@given(random_programs.programs(1, 4), st.sampled_from(MODES))
def test_fifty_random_programs_obey_the_law(steps, mode):
    check(steps, executed=(mode,))


@pytest.mark.slow
@settings(max_examples=500)
@given(random_programs.programs(2, 6))
def test_five_hundred_random_programs_obey_the_law(steps):
    check(steps)
