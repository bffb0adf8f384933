"""Client functions that bound, or seem to bound, what they send: families of spellings.

Every entry is `(client, arguments)`. Those of `UNSOUND` let something through for some input; those
of `HONEST` are the usual spellings of a clip and must stay accepted.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import secfad
from audits import Arg

ok = jnp.isfinite
TINY = float(np.finfo(np.float32).tiny)


def client(name, shape=(3,), dtype="float32"):
    return Arg(name, shape, dtype, "clients")


V, A, B, W = client("v"), client("a"), client("b", (2,)), client("w", ())
HALF, LONG_HALF = client("v", (3,), "float16"), client("v", (20000,), "float16")
BRAIN, LONG_BRAIN = client("v", (3,), "bfloat16"), client("v", (4096,), "bfloat16")
Z, INT = client("z", (3,), "complex64"), client("i", (3,), "int32")


def norm(v):
    return jnp.sqrt(jnp.sum(v**2))


def factor(n, c=1.0, e=1e-6):
    return jnp.minimum(1.0, c / jnp.maximum(n, e))


def joint(a, b):
    return jnp.sqrt(jnp.sum(a**2) + jnp.sum(b**2))


def guarded(test, value):
    return jnp.where(test, value, 0).astype(value.dtype)


def real_parts(u):
    """No NaN is left in either part of a complex number."""
    return jnp.where(u != u, 0, u)


# A guard that does not test everything in the norm, or that forgets the NaN of another value.
NAN = {
    "entries of a scaled value": (lambda v: guarded(ok(v), v * factor(norm(v))), [V]),
    "entries of a quotient": (lambda v: guarded(ok(v), v / jnp.maximum(1.0, norm(v))), [V]),
    "entries, product first": (lambda v: guarded(ok(v), factor(norm(v)) * (2.0 * v)), [V]),
    "leaf by leaf": (
        lambda a, b: (
            guarded(ok(a), a * factor(joint(a, b))),
            guarded(ok(b), b * factor(joint(a, b))),
        ),
        [A, B],
    ),
    "norm of one leaf": (lambda a, b: guarded(ok(norm(a)), a * factor(joint(a, b))), [A, B]),
    "all entries of one leaf": (
        lambda a, b: guarded(jnp.all(ok(a)), a * factor(joint(a, b))),
        [A, B],
    ),
    "half of the entries": (lambda v: guarded(ok(norm(v[:2])), v * factor(norm(v))), [V]),
    "maximum with another": (
        lambda v, w: guarded(ok(norm(v)), v / jnp.maximum(jnp.maximum(norm(v), w), 1e-6)),
        [V, W],
    ),
    "minimum with another": (
        lambda v, w: guarded(ok(norm(v)), v * jnp.minimum(1 / jnp.maximum(norm(v), 1e-6), abs(w))),
        [V, W],
    ),
    "sum with another": (
        lambda v, w: guarded(ok(norm(v)), v / jnp.maximum(norm(v) + w * w, 1e-6)),
        [V, W],
    ),
    "limits of another": (
        lambda v, w: guarded(
            ok(v), lax.clamp(-jnp.minimum(abs(w), 1.0), v, jnp.minimum(abs(w), 1.0))
        ),
        [V, W],
    ),
    "cap of another": (
        lambda v, w: guarded(ok(norm(v)), v * lax.clamp(0.0, 1 / jnp.maximum(norm(v), 1e-6), w)),
        [V, W],
    ),
    "quotient by a norm with another": (
        lambda v, w: (lambda u, n: lax.select(n <= 1, u, u / n))(
            guarded(jnp.all(ok(v)), v), jnp.sqrt(jnp.sum(guarded(ok(norm(v)), v) ** 2) + w * w)
        ),
        [V, W],
    ),
    "quotient by a joint norm": (
        lambda v, w: (
            lambda u: (lambda n: lax.select(n <= 1, u, u / n))(jnp.sqrt(jnp.sum(u**2) + w * w))
        )(guarded(ok(norm(v)), v)),
        [V, W],
    ),
    "norm in eight bits": (
        lambda v: guarded(
            ok(norm(v)), v / jnp.maximum(norm(v).astype(jnp.float8_e4m3fn).astype(v.dtype), 1e-2)
        ),
        [V],
    ),
    "factor in sixteen bits": (
        lambda v: guarded(
            ok(norm(v)), v * (1 / jnp.maximum(norm(v), 1e-6)).astype(jnp.float16).astype(v.dtype)
        ),
        [V],
    ),
    "multiple that overflows": (lambda v: guarded(ok(v), 1e30 * v), [V]),
    "quotient that overflows": (lambda v: guarded(ok(v), jnp.tanh(v / 1e-30) * v), [V]),
    "sum of opposite infinities": (
        lambda v: jnp.clip(jnp.sum(jnp.where(v != v, 0.0, v) * jnp.ones(3)), -1, 1),
        [V],
    ),
    "infinite multiple": (lambda v: jnp.clip(guarded(ok(v), np.float32(np.inf) * v), -1, 1), [V]),
    "norm with an upper limit": (
        lambda v: guarded(ok(norm(v)), v / (lax.clamp(0.0, norm(v), 1.0) + 1e-6)),
        [V],
    ),
    "tangent of an infinity": (
        lambda v: jnp.tanh(jnp.where(norm(v) <= 1e-30, v / norm(v), secfad.clip(v, 1e-3))),
        [V],
    ),
}

# Functions that are bounded on the reals alone.
COMPLEX = {
    "tanh": (lambda z: jnp.tanh(real_parts(z)), [Z]),
    "sin": (lambda z: real_parts(jnp.sin(real_parts(z))), [Z]),
    "cos": (lambda z: real_parts(jnp.cos(real_parts(z))), [Z]),
    "magnitude of tanh": (lambda z: abs(jnp.tanh(real_parts(z))), [Z]),
    "magnitude of sin": (lambda z: abs(real_parts(jnp.sin(real_parts(z)))), [Z]),
    "magnitude of cos": (lambda z: abs(real_parts(jnp.cos(real_parts(z)))), [Z]),
    "real part of tanh": (lambda z: jnp.real(jnp.tanh(real_parts(z))), [Z]),
    "logistic": (lambda z: real_parts(jax.nn.sigmoid(real_parts(z))), [Z]),
    "root of negatives": (
        lambda v: jnp.sqrt(jnp.clip(guarded(ok(v), v), -4.0, 0.0).astype(jnp.complex64)),
        [V],
    ),
    "magnitude of a root": (
        lambda v: abs(jnp.sqrt(jnp.clip(guarded(ok(v), v), -4.0, 0.0).astype(jnp.complex64))),
        [V],
    ),
    "exponential": (
        lambda v: real_parts(jnp.exp(jnp.clip(guarded(ok(v), v), -4.0, 0.0) * (1 + 40j))),
        [V],
    ),
    "square": (
        lambda v: (jnp.clip(guarded(ok(v), v), 0.0, 2.0) * (0 + 1j)) ** 2 + 4,
        [V],
    ),
    "reciprocal": (
        lambda v: 1 / (2j - 2 + jnp.clip(guarded(ok(v), v), 0.0, 2.0)),
        [V],
    ),
    "sign of a product": (lambda z: jnp.sign(real_parts(z)) * 2, [Z]),
    "pole of tanh": (lambda v: jnp.tanh(secfad.clip(v, 1.0) * np.complex64(1.57j)), [V]),
    "magnitude that overflows": (
        lambda z: jnp.tanh(0.0 * abs(jnp.where(ok(z), z, jnp.zeros_like(z)))),
        [Z],
    ),
}

# Norms of values whose squares vanish, and short dtypes that lose part of a sum.
UNDERFLOW = {
    "small constant": (lambda v: guarded(ok(norm(v)), v / (norm(v) + 1e-30)), [V]),
    "smallest normal": (lambda v: guarded(ok(norm(v)), v / jnp.maximum(norm(v), 4 * TINY)), [V]),
    "reciprocal": (lambda v: guarded(ok(norm(v)), v * (1 / jnp.maximum(norm(v), 1e-25))), [V]),
    "root of a small sum": (
        lambda v: guarded(ok(norm(v)), v * lax.rsqrt(jnp.sum(v * v) + 4 * TINY)),
        [V],
    ),
    "positive norms": (lambda v: jnp.where(norm(v) > 0, v / norm(v), 0.0), [V]),
    "above a small norm": (lambda v: jnp.where(norm(v) > 1e-30, v / norm(v), 0.0), [V]),
    "scaled norm": (lambda v: guarded(ok(norm(v)), v / jnp.maximum(norm(1e-8 * v), 1e-15)), [V]),
    "norm in a small unit": (
        lambda v: guarded(ok(norm(v)), v / jnp.maximum(norm(v) * 1e-30, 1e-25)),
        [V],
    ),
    "half precision": (lambda v: guarded(ok(norm(v)), v / (norm(v) + jnp.float16(1e-6))), [HALF]),
    "long half precision": (
        lambda v: guarded(
            ok(norm(v)),
            v * jnp.minimum(1, jnp.float16(0.01) / jnp.maximum(norm(v), jnp.float16(1e-4))),
        ),
        [LONG_HALF],
    ),
    "long half precision, compared": (
        lambda v: jnp.where(norm(v) <= jnp.float16(0.01), v, jnp.zeros_like(v)),
        [LONG_HALF],
    ),
    "norm rounded to half": (
        lambda v: guarded(
            ok(norm(v)), v / jnp.maximum(norm(v).astype(jnp.float16).astype(v.dtype), 1e-9)
        ),
        [V],
    ),
    "sum in brain floats": (
        lambda v: guarded(
            ok(lax.reduce_sum(v * v, (0,))),
            v * factor(jnp.sqrt(lax.reduce_sum(v * v, (0,))), 1.0, 1e-3).astype(v.dtype),
        ),
        [LONG_BRAIN],
    ),
    "sum of clipped brain floats": (
        lambda v: 1.0 / (lax.reduce_sum(jnp.clip(guarded(ok(v), v), 1, 1.01), (0,)) - 4000),
        [LONG_BRAIN],
    ),
    "large constant between": (
        lambda v: (jnp.clip(guarded(ok(v), v), 32.99, 33.01) + 1e9) - 1e9 - 33.0,
        [V],
    ),
    "eight bits": (
        lambda v: 16.0 - jnp.clip(guarded(ok(v), v), 9, 10).astype(jnp.float8_e5m2).astype(v.dtype),
        [V],
    ),
    "four bits": (
        lambda v: 10.0 - jnp.clip(guarded(ok(v), v), 9, 10).astype(jnp.int4).astype(v.dtype),
        [V],
    ),
    "one over a zero with a sign": (
        lambda v: jnp.minimum(1.0, 1.0 / jnp.clip(guarded(ok(v), v), 0.0, 4.0)),
        [V],
    ),
}

# Integers wrap, saturate and cut.
INTEGERS = {
    "negated": (lambda v: -(jnp.clip(guarded(ok(v), v), 0, 3).astype(jnp.uint8)), [V]),
    "difference": (
        lambda v: jnp.clip(guarded(ok(v), v), 0, 3).astype(jnp.uint8) - jnp.uint8(2),
        [V],
    ),
    "small bytes": (lambda i: (i - 4).astype(jnp.uint8), [INT]),
    "clipped bytes": (lambda i: (jnp.clip(i, 0, 3) - 4).astype(jnp.uint8), [INT]),
    "wrapped sum": (lambda i: 200.0 - (jnp.clip(i, 0, 100).astype(jnp.int8) * jnp.int8(2)), [INT]),
    "wrapped square": (lambda i: (i * i).astype(jnp.float32) / (1 + abs(i)), [INT]),
    "norm of integers": (
        lambda i: i.astype(jnp.float32) / jnp.maximum(jnp.sqrt(jnp.sum(i * i)), 1.0),
        [INT],
    ),
    "truth": (lambda v: 10.0 * jnp.clip(guarded(ok(v), v), 0, 0.01).astype(bool), [V]),
    "whole norm": (
        lambda v: guarded(
            ok(norm(v)), v / jnp.maximum(norm(v).astype(jnp.int32).astype(v.dtype), 1.0)
        ),
        [V],
    ),
    "rounded factor": (lambda v: v * jnp.ceil(factor(norm(v))).astype(jnp.int32), [V]),
    "power": (lambda i: 1.0 / (jnp.clip(i, 0, 3) ** 2 * 64 * 1024 * 1024 * 16 + 1), [INT]),
    "shifted": (lambda i: (jnp.clip(i, 0, 3) << 30).astype(jnp.float32), [INT]),
}


SQUARE = client("v", (4, 4))


def rows(v):
    """A matrix without NaN, and the norms of its rows."""
    v = guarded(jnp.all(ok(v)), v)
    return v, jnp.sqrt(jnp.sum(v**2, axis=1))


def by_rows(fn):
    return lambda v: fn(*rows(v)), [SQUARE]


# The norm of one row is tested, that of another is the divisor.
CROSSED = {
    "across": by_rows(lambda u, n: jnp.where((n > 0.5)[None, :], u / n[:, None], 0.0)),
    "transposed": by_rows(lambda u, n: jnp.where((n > 0.5)[:, None], (u / n[:, None]).T, 0.0)),
    "reversed": by_rows(lambda u, n: jnp.where((n > 0.5)[:, None], (u / n[:, None])[::-1], 0.0)),
    "rolled": by_rows(
        lambda u, n: jnp.where((n > 0.5)[:, None], jnp.roll(u / n[:, None], 1, 0), 0.0)
    ),
    "test reversed": by_rows(lambda u, n: jnp.where((n > 0.5)[::-1, None], u / n[:, None], 0.0)),
    "test sorted": by_rows(lambda u, n: jnp.where(jnp.sort(n)[:, None] > 0.5, u / n[:, None], 0.0)),
    "one row tested": by_rows(lambda u, n: jnp.where(n[0] > 0.5, u / n[:, None], 0.0)),
    "within, across": by_rows(lambda u, n: jnp.where((n <= 0.5)[None, :], u, u / n[:, None])),
    "factor alone": by_rows(
        lambda u, n: jnp.where(
            jnp.tile(n > 0.5, (4, 1)), 0.5 / jnp.broadcast_to(n[:, None], (4, 4)), 0.0
        )
    ),
    "factor": by_rows(
        lambda u, n: u * jnp.where(jnp.tile(n > 0.5, (4, 1)), 0.5 / jnp.tile(n, (4, 1)).T, 1.0)
    ),
    "factor reversed": by_rows(lambda u, n: u * jnp.where(n > 0.5, 0.5 / n[::-1], 1.0)[:, None]),
    "factor of columns": by_rows(lambda u, n: u * jnp.where(n > 0.5, 0.5 / n, 1.0)[None, :]),
}

# A factor that a comparison chooses, on the wrong side or beside a limit that is too small.
CHOSEN = {
    "the other side": by_rows(lambda u, n: u * jnp.where(n > 0.5, 1.0, 0.5 / n)[:, None]),
    "negated": by_rows(lambda u, n: u * jnp.where(~(n > 0.5), 0.5 / n, 1.0)[:, None]),
    "large number": by_rows(lambda u, n: u * jnp.where(n > 0.5, 0.5 / n, -50.0)[:, None]),
    "tiny limit": by_rows(lambda u, n: u * jnp.where(n > 1e-25, 0.5 / n, 1.0)[:, None]),
    "no limit": by_rows(lambda u, n: u * jnp.where(n > 0, 0.5 / n, 1.0)[:, None]),
    "another condition": by_rows(
        lambda u, n: u * jnp.where((n > 0.5)[:, None] & (u > 0), 0.5 / n[:, None], 1.0)
    ),
    "two conditions of which one is another's": (
        lambda v, a: jnp.where((norm(v) <= 1) & (v > 0) & (norm(v) <= 1), v, secfad.clip(a, 1.0)),
        [V, A],
    ),
    "entry by entry": (
        lambda v, a: jnp.where(v > a, secfad.clip(v, 1.0), secfad.clip(a, 1.0)),
        [V, A],
    ),
    "quotient by a range": (
        lambda v, w: secfad.clip(v, 1.0) / jnp.clip(guarded(ok(w), w), 0.01, 2.0),
        [V, W],
    ),
    "no guard": (lambda v: v * jnp.where(norm(v) > 0.5, 0.5 / norm(v), 1.0), [V]),
    "no guard, within": (lambda v: v * jnp.where(norm(v) <= 0.5, 1.0, 0.5 / norm(v)), [V]),
    "another norm": (
        lambda v, a: v * jnp.where(norm(a) > 0.5, 0.5 / norm(v), 1.0),
        [V, A],
    ),
    "in half precision": by_rows(
        lambda u, n: (
            u * jnp.where(n > 0.5, 0.5 / n, 1.0).astype(jnp.float16).astype(jnp.float32)[:, None]
        )
    ),
    "number from a client": (
        lambda v, w: (lambda u: u * jnp.where(norm(u) > 0.5, 0.5 / norm(u), w))(
            guarded(ok(norm(v)), v)
        ),
        [V, W],
    ),
}

# All entries of something else, or not all, are tested.
EVERY = {
    "some axes": (
        lambda v: jnp.clip(jnp.where(jnp.all(ok(v), axis=0)[:, None], v, jnp.zeros_like(v)), -1, 1),
        [SQUARE],
    ),
    "any": (lambda v: jnp.clip(guarded(jnp.any(ok(v)), v), -1, 1), [V]),
    "another value": (lambda v, a: jnp.clip(guarded(jnp.all(ok(a)), v), -1, 1), [V, A]),
    "a part": (lambda v: jnp.clip(guarded(jnp.all(ok(v[:2])), v), -1, 1), [V]),
    "a multiple": (lambda v: jnp.tanh(guarded(jnp.all(ok(v)), 1e30 * v) * 0.0), [V]),
    "not": (lambda v: jnp.clip(guarded(~jnp.all(ok(v)), v), -1, 1), [V]),
    "infinity alone": (lambda v: jnp.clip(guarded(~jnp.any(jnp.isinf(v)), v), -1, 1), [V]),
    "exclusive or": (
        lambda v: jnp.clip(guarded(lax.reduce_xor(ok(v), (0,)), v), -1, 1),
        [V],
    ),
}

UNSOUND = {
    "nan": NAN,
    "complex": COMPLEX,
    "underflow": UNDERFLOW,
    "integers": INTEGERS,
    "crossed": CROSSED,
    "chosen": CHOSEN,
    "every": EVERY,
}


def optax_clip(v, c=1.0):
    """As `optax.clip_by_global_norm`."""
    n = norm(v)
    return lax.select(jnp.squeeze(n < c), v, (v / n.astype(v.dtype)) * c)


def tree_clip(a, b, c=1.0):
    good, s = ok(joint(a, b)), factor(joint(a, b), c)
    return jnp.where(good, a * s, 0.0), jnp.where(good, b * s, 0.0)


HONEST = {
    "blessed": (lambda v: secfad.clip(v, 1.0), [V]),
    "optax": (lambda v: optax_clip(v), [V]),
    "optax after a guard": (lambda v: optax_clip(guarded(jnp.all(ok(v)), v)), [V]),
    "optax in brain floats": (lambda v: optax_clip(v), [BRAIN]),
    "Abadi": (lambda v: guarded(ok(norm(v)), v / jnp.maximum(1.0, norm(v) / 1.5)), [V]),
    "minimum": (lambda v: guarded(ok(norm(v)), v * jnp.minimum(1.0, 1.5 / norm(v))), [V]),
    "small constant": (lambda v: guarded(ok(norm(v)), v * factor(norm(v), 1.5, 1e-12)), [V]),
    "added constant": (lambda v: guarded(ok(norm(v)), v * (1.5 / (norm(v) + 1e-8))), [V]),
    "guard first": (lambda v: (lambda u: u * factor(norm(u)))(guarded(ok(norm(v)), v)), [V]),
    "compared": (lambda v: jnp.where(norm(v) <= 1.5, v, v * (1.5 / norm(v))), [V]),
    "dropped": (lambda v: jnp.where(norm(v) <= 1.5, v, 0.0), [V]),
    "rsqrt": (
        lambda v: guarded(
            ok(norm(v)), v * jnp.minimum(1.0, 1.5 * lax.rsqrt(jnp.sum(v * v) + 1e-12))
        ),
        [V],
    ),
    "chosen factor": by_rows(lambda u, n: u * jnp.where(n > 1.5, 1.5 / n, 1.0)[:, None]),
    "chosen factor, within": by_rows(lambda u, n: u * jnp.where(n <= 1.5, 1.0, 1.5 / n)[:, None]),
    "compared rows": by_rows(lambda u, n: jnp.where((n > 1.5)[:, None], u / n[:, None], 0.0)),
    "all entries": (lambda v: jnp.clip(guarded(jnp.all(ok(v)), v), -1, 1), [V]),
    "product with itself": (
        lambda v: (lambda u: u * factor(jnp.sqrt(jnp.sum(u * u))))(guarded(jnp.all(ok(v)), v)),
        [V],
    ),
    "unit vector": (
        lambda v: (lambda u: u / jnp.maximum(norm(u), 1e-6))(guarded(jnp.all(ok(v)), v)),
        [V],
    ),
    "tree": (tree_clip, [A, B]),
    "tree after a guard": (
        lambda a, b: (lambda u, w: (u * factor(joint(u, w)), w * factor(joint(u, w))))(
            *(guarded(ok(joint(a, b)), x) for x in (a, b))
        ),
        [A, B],
    ),
    "factor with limits": (
        lambda v: guarded(ok(norm(v)), v * lax.clamp(0.0, 1.5 / jnp.maximum(norm(v), 1e-6), 1.0)),
        [V],
    ),
    **{
        f"{f.__name__} of finite entries": (
            lambda v, f=f: jnp.clip(guarded(ok(v), f(v)), -1, 1),
            [V],
        )
        for f in (
            *(jnp.tanh, lax.erf, jax.nn.sigmoid, jnp.sin, jnp.cos),
            *(jnp.sign, jnp.round, jnp.floor, jnp.ceil),
        )
    },
    "entries": (lambda v: jnp.clip(guarded(ok(v), v), -0.1, 0.1), [V]),
    "magnitudes of entries": (lambda v: jnp.clip(guarded(ok(v), abs(v)), 0, 1), [V]),
    "doubled entries": (lambda v: jnp.clip(guarded(ok(v), 2 * v), -1, 1), [V]),
    "squashed": (lambda v: jnp.tanh(jnp.where(jnp.isnan(v), 0.0, v)), [V]),
    "half precision": (
        lambda v: guarded(
            ok(norm(v)), v * jnp.minimum(1, 1 / jnp.maximum(norm(v), jnp.float16(0.01)))
        ),
        [HALF],
    ),
    "complex of clipped": (
        lambda v: secfad.clip(v, 1.0).astype(jnp.complex64) * (0.5 + 0.5j),
        [V],
    ),
}


def clipped(v):
    return secfad.clip(v, 1.0)


# What follows a clip to one, and the largest bound that its rule may state: for every rule of norms.
AFTER_A_CLIP = {
    "neg": (lambda v: -clipped(v), 1.0),
    "abs": (lambda v: abs(clipped(v)), 1.0),
    "rev": (lambda v: clipped(v)[::-1], 1.0),
    "copy": (lambda v: jnp.array(clipped(v), copy=True), 1.0),
    "tanh": (lambda v: jnp.tanh(clipped(v)), 1.0),
    "sin": (lambda v: jnp.sin(clipped(v)), 1.0),
    "slice": (lambda v: clipped(v)[:2], 1.0),
    "split": (lambda v: jnp.concatenate(jnp.split(clipped(v), [1])), 1.4143),
    "add": (lambda v: clipped(v) + clipped(v**2), 2.0),
    "sub": (lambda v: clipped(v) - clipped(v**2), 2.0),
    "mul": (lambda v: clipped(v) * 0.5, 0.5),
    "div": (lambda v: clipped(v) / 4.0, 0.25),
    "select_n": (lambda v: jnp.where(v > 0, clipped(v), clipped(v**2)), 1.4143),
    "select_n of one": (lambda v: jnp.where(v > 0, clipped(v), 0.0), 1.0),
    "transpose": (lambda v: clipped(v.reshape(3, 1)).T, 1.0),
    "broadcast_in_dim": (lambda v: clipped(v)[None], 1.0),
    "squeeze": (lambda v: jnp.squeeze(clipped(v[None]), 0), 1.0),
    "reshape": (lambda v: clipped(v).reshape(3, 1), 1.0),
    "reduce_sum": (lambda v: jnp.sum(clipped(v)), 1.7321),
    "round": (lambda v: jnp.round(8 * clipped(v)), 8 + 0.5 * 1.7321),
    "floor": (lambda v: jnp.floor(8 * clipped(v)), 8 + 1.7321),
    "ceil": (lambda v: jnp.ceil(8 * clipped(v)), 8 + 1.7321),
    "concatenate": (lambda v: jnp.concatenate([clipped(v), clipped(v**2)]), 1.4143),
    "stack": (lambda v: jnp.stack([clipped(v), clipped(v**2)]), 1.4143),
    "pad": (lambda v: jnp.pad(clipped(v), 1), 1.0),
    "convert_element_type": (lambda v: clipped(v).astype(jnp.bfloat16), 1.02),
    "quotient by a range": (lambda v: clipped(v) / jnp.clip(jnp.nan_to_num(v[0]), 2, 3), 0.5),
}
