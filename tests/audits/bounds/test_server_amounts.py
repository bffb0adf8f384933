"""Magnitudes of server values: exact through wide floats and products, unknown through all else.

Every program clips to one server number and adds noise of another that is made from it. If the
conversion between them is not exact, the stated multiplier would be that of another number.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import audits
import secfad
from audits import Arg

KEY = Arg("key", (), "key<fry>", "server_key")
V = Arg("v", (3,), "float32", "clients")
F = lambda x: x.astype(jnp.float32)

# From the number to the one that scales the noise; all of them can give zero or lose a factor.
FLOATS = {
    "int32": lambda c: F(c.astype(jnp.int32)),
    "int32 of a multiple": lambda c: F((2.0 * c).astype(jnp.int32)) / 2.0,
    "uint8": lambda c: F(c.astype(jnp.uint8)),
    "bool": lambda c: 1e-3 * F(c.astype(bool)),
    "float16": lambda c: F((c * 1e-6).astype(jnp.float16)) * 1e6,
    "bfloat16 product": lambda c: F(c.astype(jnp.bfloat16) * jnp.bfloat16(1e-20)) * 1e20,
    "float8": lambda c: F(c.astype(jnp.float8_e4m3fn)),
    "float4": lambda c: F(c.astype(jnp.float4_e2m1fn)),
    "round": lambda c: jnp.round(c),
    "floor": lambda c: jnp.floor(c),
    "small and back": lambda c: (c * 1e-30) * 1e-30 * 1e30 * 1e30,
    "branch": lambda c: lax.cond(c > 5, lambda: c, lambda: 1e-3 * c),
    "other branch": lambda c: lax.cond(c > 5, lambda: 1e-3 * c, lambda: c),
    "complex": lambda c: jnp.real(c.astype(jnp.complex64) * 1j),
}
INTEGERS = {
    "quotient": lambda i: F(lax.div(i, jnp.int32(2))) * 2.0,
    "product that wraps": lambda i: F(i * jnp.int32(2**30) * jnp.int32(4)) / 2.0**32,
    "byte": lambda i: F((i - 4).astype(jnp.int8)),
    "remainder": lambda i: F(lax.rem(i, jnp.int32(2))),
    "shift": lambda i: F(lax.shift_right_logical(i, jnp.int32(1))) * 2.0,
    "negated byte": lambda i: F(-(i.astype(jnp.uint8))),
}


def multipliers(change, arg):
    """What is stated about noise of the changed number beside a clip to the number."""

    def program(c, key, v):
        bound = secfad.broadcast(F(c))
        total = secfad.sum(secfad.clip(v, bound))
        return total + change(c) * jax.random.normal(key, (3,))

    report = audits.check(
        program, [arg, KEY, V], style="native", profile="secagg+dp", neighbouring="add_remove"
    )
    return report.kind, [m for m in report.facts.noise_multipliers if np.isfinite(m)]


@pytest.mark.parametrize("name", FLOATS)
def test_a_float_made_into_something_else_is_another_number(name):
    kind, stated = multipliers(FLOATS[name], Arg("c", (), "float32", "server"))
    assert kind == "reject"
    assert stated == []


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_have_no_magnitude_that_arithmetic_keeps(name):
    kind, stated = multipliers(INTEGERS[name], Arg("c", (), "int32", "server"))
    assert kind == "reject"
    assert stated == []


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c,
        lambda c: 2.0 * c,
        lambda c: c / 0.5 * 1.5,
        lambda c: jnp.broadcast_to(c, (3,)),
        lambda c: abs(c),
        lambda c: (c * c) / c,
        lambda c: lax.cond(c > 5, lambda: 2.0 * c, lambda: -2.0 * c),
    ],
)
def test_products_of_wide_floats_keep_the_magnitude(change):
    kind, stated = multipliers(change, Arg("c", (), "float32", "server"))
    assert kind != "reject"
    assert len(stated) == 1
    assert 0.99 < stated[0] < 3.01


def test_a_whole_number_may_scale_clip_and_noise_alike():
    kind, stated = multipliers(F, Arg("c", (), "int32", "server"))
    assert kind != "reject"
    assert stated == pytest.approx([1.0])


@pytest.mark.parametrize("bound", [-3.0, -1e-3])
def test_a_negative_constant_bound_takes_nothing_from_another(bound):
    def program(v):
        clipped = secfad.clip(2.0 * v, jnp.float32(1.0) * bound)
        return secfad.sum(secfad.clip(v, 3.0) + clipped)

    report = audits.check(program, [V], style="native", profile="secagg+dp")
    assert report.kind == "reject" or report.facts.sensitivity[0] >= 3.0


H = Arg("v", (3,), "bfloat16", "clients")
ROUNDED = {
    "add": lambda u: u + u[::-1],
    "sub": lambda u: u - u[::-1],
    "mul": lambda u: u * u[::-1],
    "div": lambda u: u / jnp.bfloat16(0.7),
    "reduce_sum": lambda u: lax.reduce_sum(u, (0,)),
    "convert_element_type": lambda u: F(u).astype(jnp.bfloat16),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_of_a_short_dtype_is_said(name):
    # The result is wide again, so that only the rounding before tells.
    entries = lambda v: jnp.clip(jnp.where(jnp.isfinite(v), v, 0), -1, 1)
    check = lambda client: audits.check(
        lambda v: secfad.sum(F(client(entries(v)))), [H], style="native", profile="secagg+dp"
    )
    assert "FAD408" not in {f.rule for f in check(lambda u: u).findings}
    report = check(ROUNDED[name])
    assert "FAD408" in {f.rule for f in report.findings}


def test_magnitude_of_a_finite_complex_number_may_be_infinite():
    z = Arg("z", (), "complex64", "server")
    assert np.isinf(abs(jnp.complex64(3e38 + 3e38j)))
    client = lambda z, v: secfad.clip(v, 1.0) * jnp.tanh(0 * abs(secfad.broadcast(z)))
    report = audits.check(
        lambda z, v: secfad.sum(client(z, v)), [z, V], style="native", profile="secagg+dp"
    )
    assert "FAD407" in {f.rule for f in report.findings}
