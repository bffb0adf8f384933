"""The digest is a function of what is computed, of nothing else, and of all of it."""

import dataclasses
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import define_prng_impl, threefry_prng_impl

import secfad as fad
from secfad.errors import TracingError
from secfad.jaxprs import digests
from secfad.jaxprs.origins import is_known_dtype, is_known_type

ROW = jax.ShapeDtypeStruct((3,), jnp.float32)


def program(fun, spec=ROW, places=(fad.SERVER, fad.CLIENTS)):
    names = fun.__code__.co_varnames[:2]
    made = fad.computation(**dict(zip(names, places)))(fun)
    return fad.trace(made, spec, spec)


def scaled_by(constant, name="total"):
    def fun(w, x):
        return fad.sum(fad.broadcast(w) * x * constant, name=name)

    return program(fun)


SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
{blank}
import secfad as fad

@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def fun(w, x):
    scale = np.arange(3, dtype=np.float32)
    inner = jax.jit(lambda v: jax.lax.scan(lambda c, _: (c * v, None), v, None, length=2)[0])
    return fad.mean(inner(fad.broadcast(w)) * x * scale)

spec = jax.ShapeDtypeStruct((3,), jnp.float32)
print(fad.trace(fad.grad(fad.computation(w=fad.SERVER, x=fad.CLIENTS)(
    lambda w, x: jnp.sum(fun(w, x)))), spec, spec).digest)
"""


def test_digest_is_the_same_in_another_process_and_on_another_line():
    digests = set()
    for blank in ("", "# a comment\n\n\n"):
        code = textwrap.dedent(SCRIPT).replace("{blank}", blank)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_constants_count_by_value_though_the_printed_programs_are_equal():
    one, other = (scaled_by(np.arange(3, dtype=np.float32) + k) for k in (0, 1))
    assert str(one.jaxpr.jaxpr) == str(other.jaxpr.jaxpr)
    assert one.digest != other.digest


def test_one_ulp_of_a_constant_counts():
    one = np.ones(3, np.float32)
    assert scaled_by(one).digest != scaled_by(np.nextafter(one, np.float32(2))).digest


def test_equal_programs_have_equal_digests():
    assert scaled_by(np.ones(3, np.float32)).digest == scaled_by(np.ones(3, np.float32)).digest


def test_message_names_count():
    assert scaled_by(2.0).digest != scaled_by(2.0, name="other").digest


def test_placements_count():
    def fun(w, x):
        return x

    one = program(fun, places=(fad.SERVER, fad.CLIENTS))
    other = program(fun, places=(fad.CLIENTS, fad.CLIENTS))
    assert one.digest != other.digest


def test_shapes_and_dtypes_count():
    def fun(w, x):
        return fad.sum(x)

    specs = [((3,), jnp.float32), ((4,), jnp.float32), ((3,), jnp.int32)]
    digests = {program(fun, jax.ShapeDtypeStruct(*spec)).digest for spec in specs}
    assert len(digests) == 3


def test_order_of_operands_counts():
    subtract = [lambda w, x: fad.sum(x - 2.0), lambda w, x: fad.sum(2.0 - x)]
    assert program(subtract[0]).digest != program(subtract[1]).digest


@pytest.mark.parametrize(
    "call",
    [
        lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
        lambda x: jax.experimental.io_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
    ],
    ids=["pure_callback", "io_callback"],
)
def test_host_functions_have_no_digest(call):
    traced = program(lambda w, x: fad.sum(call(x)))
    with pytest.raises(TracingError, match="host functions"):
        traced.digest
    assert repr(traced) == "<Program <lambda>(w, x) without a digest>"


def test_repr_shows_name_arguments_and_digest():
    made = scaled_by(1.0)
    assert repr(made) == f"<Program fun(w, x) {made.digest[:12]}>"


def test_programs_may_make_keys_and_the_generator_counts():
    def digest(generator):
        @fad.computation(x=fad.CLIENTS)
        def noisy(x):
            key = jax.random.key(3, impl=generator)
            return fad.sum(x * jax.random.normal(key, x.shape, x.dtype))

        return fad.trace(noisy, jax.ShapeDtypeStruct((3,), jnp.float32)).digest

    assert digest("threefry2x32") == digest("threefry2x32") != digest("rbg")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int4"])
def test_numbers_of_few_bits_have_digests_of_their_own(dtype):
    def fun(w, x):
        return fad.sum((fad.broadcast(w) * x).astype(dtype).astype(jnp.float32))

    assert program(fun).digest != scaled_by(1.0).digest


def test_a_rule_that_holds_a_value_of_its_function_has_no_digest():
    def fun(w, x):
        scale = jnp.sum(x)
        rule = jax.custom_vjp(jnp.sin)
        rule.defvjp(lambda v: (jnp.sin(v), v), lambda v, g: (g * jnp.cos(v) * scale,))
        return fad.mean(jnp.sum(rule(fad.broadcast(w) * x)))

    slope = fad.grad(fad.computation(w=fad.SERVER, x=fad.CLIENTS)(fun), mode="reverse")
    with pytest.raises(TracingError, match="float32\\[\\] of a trace"):
        assert fad.trace(slope, ROW, ROW).digest


def test_the_digest_is_of_what_runs():
    honest, other = scaled_by(1.0), scaled_by(2.0)
    forged = dataclasses.replace(honest, placed=other.placed)
    assert forged.digest == other.digest
    assert str(forged.jaxpr) == str(other.placed.closed)


class Twin:
    """A function that is equal to another one and does something else."""

    def __init__(self, real):
        self.real = real

    def __call__(self, key, width, shape):
        return jnp.zeros(shape, f"uint{width}")

    def __eq__(self, other):
        return True

    def __hash__(self):
        return hash(self.real)


def test_a_generator_that_is_equal_to_a_known_one_is_another():
    known = jax.eval_shape(lambda: jax.random.key(0)).dtype
    parts = {name: getattr(threefry_prng_impl, name) for name in ("seed", "split", "fold_in")}
    spec = define_prng_impl(
        key_shape=(2,), name="threefry2x32", tag="fry",
        random_bits=Twin(threefry_prng_impl.random_bits), **parts,
    )  # fmt: skip
    other = type(known)(spec._impl)
    assert other == known
    assert hash(other) == hash(known)
    assert is_known_dtype(known)
    assert not is_known_dtype(other)


def test_descriptions_of_keys_are_never_kept_by_equality():
    # JAX keeps one of equal abstract values, whichever was first; the digest looks at it each time.
    before = digests._plain_aval.cache_info()
    [key] = jax.make_jaxpr(lambda: jax.random.key(0))().out_avals
    assert digests._aval(key)[0] == "key<fry>"
    assert digests._plain_aval.cache_info() == before


class Equal(type):
    """A metaclass whose classes are equal to `int`."""

    def __eq__(cls, other):
        return True

    def __hash__(cls):
        return hash(int)


def test_a_class_that_is_equal_to_a_known_one_is_another():
    assert is_known_type(int)
    assert not is_known_type(Equal("Other", (), {}))
