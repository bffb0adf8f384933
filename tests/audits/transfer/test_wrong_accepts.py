"""Programs that were once accepted wrongly. Each must stay rejected, for its reason.

They were found by reading the rules as an adversary does, and by mutation. Every one has a witness:
two clients that exchange data, a contribution above the stated bound, or noise that hides nothing.
"""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import audits
import secfad as fad

N = 6
X = ("x", (N, 3), "float32", "clients")
V = ("v", (3,), "float32", "clients")
KEY = ("key", (), "key<fry>", "server_key")
C = ("c", (), "float32", "server")
CASES = []


def rejected(*rules, args, style="stacked", profile="secagg+dp", mode="primal", wrt=()):
    def add(fn):
        CASES.append(
            pytest.param(fn, rules, args, style, profile, mode, wrt, id=fn.__name__)
        )  # fmt: skip
        return fn

    return add


def clipped(v, c=1.0):
    n = jnp.sqrt(jnp.sum(v**2))
    ok = jnp.isfinite(n)
    factor = jnp.where(ok, jnp.minimum(1.0, c / jnp.maximum(n, 1e-9)), 0.0)
    return jnp.where(ok, v * factor, 0.0)


def total(x, c=1.0):
    return jnp.sum(jax.vmap(lambda v: clipped(v, c))(x), axis=0)


def finite(x):
    return jnp.where(jnp.isfinite(x), x, 0.0)


def normal(key, shape=(3,)):
    return jax.random.normal(key, shape)


# Clients would receive each other's values.


@rejected("FAD109", args=[X, ("s", (N, N), "float32", "client_state")], profile="secagg")
def state_of_other_clients(x, s):
    return jnp.sum(x, axis=0), s.T


@jax.custom_vjp
def turned(x):
    return x


turned.defvjp(lambda x: (x, None), lambda _, g: (g.T,))


@rejected(
    "FAD109", args=[("x", (N, N), "float32", "clients")], profile="secagg", mode="vjp", wrt=(0,)
)
def cotangents_of_other_clients(x):
    return jnp.sum(jnp.sin(turned(x)), axis=0)


KEYS = jax.random.wrap_key_data(jnp.arange(12, dtype=jnp.uint32).reshape(6, 2))


@rejected("FAD005", args=[("w", (3,), "float32", "server")], profile="secagg")
def data_inside_captured_keys(w):
    return w, jax.random.key_data(KEYS)


# Contributions above the stated bound.


@rejected("FAD401", args=[X])
def factor_raised_by_a_clamp(x):
    def client(v):
        n = jnp.sqrt(jnp.sum(v**2))
        return jnp.where(jnp.isfinite(n), v * lax.clamp(-5.0, 1 / jnp.maximum(n, 1e-3), -3.0), 0.0)

    return jnp.sum(jax.vmap(client)(x), axis=0)


@rejected("FAD401", args=[("x", (N, 3), "complex64", "clients")])
def complex_squares_cancel(x):
    return jnp.sum(jax.vmap(lambda v: v / jnp.sqrt(jnp.sum(v * v)))(x), axis=0)


@rejected("FAD401", args=[X])
def rounded_to_few_bits(x):
    return jnp.sum(lax.reduce_precision(jax.vmap(clipped)(x), 8, 0), axis=0)


@rejected("FAD401", args=[X])
def divided_by_a_truncated_integer(x):
    k = jnp.clip(jnp.where(jnp.isnan(x), 0.1, x), 0.1, 0.5).astype(jnp.int32)
    return jnp.sum(jnp.tanh(finite(x)) / k.astype(jnp.float32), axis=0)


@rejected("FAD401", args=[X])
def minimum_of_an_overflow(x):
    return jnp.sum(jnp.minimum(jnp.clip(finite(x), -3e38, 3e38) * 2.0, 1.0), axis=0)


@rejected("FAD401", args=[X])
def divided_by_an_underflow(x):
    small = jnp.clip(finite(x), 1e-30, 1.0)
    return jnp.sum(1e-30 * jnp.tanh(finite(x)) / (small * small), axis=0)


@rejected("FAD401", args=[X])
def hidden_contraction_without_a_bound(x):
    return jnp.einsum("ca,cb->ab", x, x)


# Noise that hides nothing.


@rejected("FAD415", args=[KEY, X])
def exact_sum_counted_by_a_loop(key, x):
    s = total(x)
    count = lax.while_loop(lambda c: c < s[0] * 1000, lambda c: c + 1, 0.0)
    return (s + normal(key)) / N, count


@rejected("FAD415", args=[KEY, V], style="native")
def exact_sum_through_a_server_clip(key, v):
    s = fad.sum(fad.clip(v, 1.0))
    return (s + normal(key)) * 0.5, fad.clip(s, 100.0)


@rejected("FAD415", args=[KEY, X])
def exact_contraction(key, x):
    u = jax.vmap(clipped)(x)
    return (total(x) + normal(key)) / N, jnp.einsum("ca,cb->ab", u, u)


@rejected("FAD411", args=[KEY, X])
def noise_scaled_by_the_sum_itself(key, x):
    s = total(x)
    t = jnp.abs(s[0])
    return (s * t + t * normal(key)) / N


@rejected("FAD406", args=[KEY, X])
def noise_only_if_the_sum_says_so(key, x):
    s = total(x)
    return (s + lax.cond(s[0] > 0, lambda: normal(key), lambda: jnp.zeros(3))) / N


@rejected("FAD406", args=[KEY, ("x", (N,), "float32", "clients")])
def one_sum_noised_a_thousand_times(key, x):
    s = jnp.sum(jnp.tanh(finite(x)))
    return (jnp.broadcast_to(s, (1000,)) + normal(key, (1000,))) / N


@rejected("FAD406", args=[KEY, X])
def rounded_sum(key, x):
    s = total(x, 0.001).astype(jnp.int32).astype(jnp.float32)
    return (s + 0.001 * normal(key)) / N


@rejected("FAD406", args=[KEY, X])
def scalar_noise_times_ones(key, x):
    return (total(x) + lax.mul(normal(key, ()), jnp.ones(3))) / N


@rejected("FAD406", args=[KEY, X])
def one_key_broadcast_over_entries(key, x):
    z = jax.vmap(lambda k: normal(k, ()))(jnp.broadcast_to(key, (3,)))
    return (total(x) + z) / N


@rejected("FAD406", args=[KEY, X])
def one_key_stacked_over_entries(key, x):
    z = jax.vmap(lambda k: normal(k, ()))(jnp.stack([key, key, key]))
    return (total(x) + z) / N


@rejected("FAD406", args=[C, C, X, KEY])
def two_arguments_of_one_name(c, d, x, key):
    return (total(x, c) + d * normal(key)) / N


@rejected("FAD504", args=[KEY, X])
def noise_returned_through_a_solve(key, x):
    z = normal(key)
    return (total(x) + z) / N, jnp.linalg.solve(jnp.eye(3), z)


SAME_KEY = {
    "rewrapped": lambda k: jax.random.wrap_key_data(jax.random.key_data(k)),
    "cloned": jax.random.clone,
    "reshaped": lambda k: k[None][0],
    "stacked": lambda k: jnp.stack([k, jax.random.split(k)[0]])[0],
    "chosen": lambda k: jnp.where(True, k, jax.random.split(k)[0]),
}


@rejected("FAD415", args=[("x", (N,), "float32", "clients"), KEY])
def exact_sum_handed_through_more_carries_than_passes(x, key):
    total = jnp.sum(jnp.where(x > 0, 1.0, 0.0), axis=0)
    shift = lambda carry, _: ((total, *carry[:-1]), None)
    carry = lax.scan(shift, (jnp.zeros(()),) * 10, None, length=20)[0]
    return total + 2.0 * jax.random.normal(key, ()), carry[-1]


@pytest.mark.parametrize("copy", SAME_KEY)
def test_a_copy_of_a_key_is_the_same_key(copy):
    def program(key, x):
        other = SAME_KEY[copy](key)
        return (total(x) + normal(key)) / N, (total(0.5 * x) + normal(other)) / N

    report = answered(program, [KEY, X])
    assert report.kind == "reject"
    assert "FAD501" in {f.rule for f in report.findings}


def test_two_halves_of_a_split_are_two_keys():
    def program(key, x):
        keys = jax.random.split(key)
        return (total(x) + normal(keys[0])) / N, (total(0.5 * x) + normal(keys[1])) / N

    assert answered(program, [KEY, X]).kind == "accept"


BOUNDS = {
    "bool": (lambda v: clipped(v).astype(bool).astype(jnp.float32), 3**0.5),
    "unsigned": (lambda v: clipped(v).astype(jnp.uint8).astype(jnp.float32), 255 * 3**0.5),
    "two guards": (
        lambda v: jnp.where(jnp.sqrt(jnp.sum(v**2)) <= 100.0, v, 0.0)
        * jnp.minimum(1.0, 1 / jnp.maximum(jnp.linalg.norm(
            jnp.where(jnp.sqrt(jnp.sum(v**2)) + 99.0 <= 100.0, v, 0.0)), 1e-3)),
        100.0,
    ),
    "entries mixed by a mask": (
        lambda v: jnp.where((jnp.sqrt(jnp.sum(v**2)) <= 1.0) & (v > 0), clipped(v),
                            clipped(jnp.flip(finite(v)))),
        2**0.5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDS)
def test_stated_bound_is_large_enough(name):
    client, least = BOUNDS[name]
    report = answered(lambda x: jnp.sum(jax.vmap(client)(x), axis=0), [X])
    stated: Any = report.facts.sensitivity[0]
    assert stated is None or stated >= least * (1 - 1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e5m2"])
def test_low_precision_is_said(dtype):
    report = answered(
        lambda v: fad.sum((jnp.tanh(finite(v)) * jnp.asarray(0.7, dtype)).astype(jnp.float32)),
        [("v", (3,), dtype, "clients")],
        style="native",
    )
    assert report.kind != "accept"
    assert report.kind == "reject" or "FAD408" in {f.rule for f in report.findings}


def answered(fn, args, style="stacked", profile="secagg+dp", mode="primal", wrt=()):
    args = [audits.Arg(*a) for a in args]
    return audits.check(fn, args, style=style, profile=profile, mode=mode, wrt=wrt)


@pytest.mark.parametrize(("fn", "rules", "args", "style", "profile", "mode", "wrt"), CASES)
def test_program_stays_rejected(fn, rules, args, style, profile, mode, wrt):
    report = answered(fn, args, style, profile, mode, wrt)
    found = {f.rule for f in report.findings}
    assert report.kind == "reject", (report.kind, found)
    assert found & set(rules), found
