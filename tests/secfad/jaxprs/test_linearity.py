"""What is called linear is, and what derivatives of loops are made of is recognised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from secfad import _jax
from secfad.jaxprs.linearity import is_linear

MATRIX = np.arange(6.0).reshape(2, 3)

LINEAR = {
    "stacked": lambda v: jnp.stack([v, 2 * v]),
    "unstacked": lambda v: sum(jnp.unstack(jnp.stack([v, v]))),
    "split": lambda v: jnp.split(v, [1])[0],
    "scanned": lambda v: jax.lax.scan(lambda c, row: (c * row, c + v), v, MATRIX),
}
OTHER = {
    "square": lambda v: v * v,
    "shifted": lambda v: jnp.stack([v, jnp.ones(3)]),
    "branch": lambda v: jax.lax.cond(v[0] > 0, lambda v: v, lambda v: -v, v),
}


def traced(fun):
    return _jax.make_jaxpr(fun, (jax.ShapeDtypeStruct((3,), jnp.float32),))[0]


@pytest.mark.parametrize("name", LINEAR)
def test_linear_functions_are_recognised(name):
    assert is_linear(traced(LINEAR[name]))


@pytest.mark.parametrize("name", OTHER)
def test_functions_that_are_not_linear_are_not_called_so(name):
    assert not is_linear(traced(OTHER[name]))
