"""A program keeps the constants that it was traced with, whatever becomes of the arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad

SPEC = jax.ShapeDtypeStruct((3,), jnp.float32)


def plain(captured, x):
    return x * captured


def inside_jit(captured, x):
    return jax.jit(lambda y: y * captured)(x)


def inside_scan(captured, x):
    return jax.lax.scan(lambda carry, _: (carry * captured, None), x, None, length=1)[0]


def inside_branch(captured, x):
    return jax.lax.cond(jnp.sum(x) > 0, lambda y: y * captured, lambda y: y, x)


def of_a_rule(captured, x):
    rule = jax.custom_vjp(lambda y: y * captured)
    rule.defvjp(lambda y: (rule(y), None), lambda _, g: (g * captured,))
    return rule(x)


@pytest.mark.parametrize("use", [plain, inside_jit, inside_scan, inside_branch, of_a_rule])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_writing_to_a_captured_array_changes_nothing(use, shape):
    captured = np.ones(shape, np.float32)

    @fad.computation(x=fad.CLIENTS)
    def total(x):
        return fad.sum(use(captured, x))

    program = fad.trace(total, SPEC)
    captured[...] = 5
    np.testing.assert_array_equal(fad.execute(program, np.ones((2, 3), np.float32)), 2 * np.ones(3))
    assert program.digest != fad.trace(total, SPEC).digest
