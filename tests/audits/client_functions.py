"""Random client functions that try to bound what they send, in ways that may fail.

A function is drawn from a seed: some arithmetic, guards, casts, reductions, sorts, loops, branches and
solves, then a clip in one of many spellings, around the right value or another one, then more
arithmetic. Every trace of a seed makes the same choices.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import audits
import secfad as fad

ARGS = (
    audits.Arg("s", (), "float32", "server"),
    audits.Arg("x", (4,), "float32", "clients"),
    audits.Arg("y", (2, 2), "float32", "clients"),
    audits.Arg("i", (3,), "int32", "clients"),
)
LOW = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
WHOLE = ("int32", "int8", "uint8", "bool")
LARGEST = 12


def norm(v):
    """The norm as most people write it."""
    return jnp.sqrt(jnp.sum(v * v))


NORMS = [
    norm,
    lambda v: jnp.linalg.norm(v.ravel()),
    lambda v: jnp.sqrt(jnp.sum(jnp.square(v)) + 1e-12),
    lambda v: jnp.sqrt(jnp.vdot(v, v)),
    lambda v: norm(v) + 1e-6,
    lambda v: jnp.maximum(norm(v), 1e-6),
    lambda v: jnp.max(jnp.abs(v)),
    lambda v: jnp.sqrt(jnp.sum(v**2, axis=-1, keepdims=True)),
    lambda v: jnp.sqrt(jnp.max(v * v)),
]
SPELLINGS = [
    lambda v, n, c: v * jnp.minimum(1.0, c / n),
    lambda v, n, c: v / jnp.maximum(1.0, n / c),
    lambda v, n, c: v * (c / jnp.maximum(n, c)),
    lambda v, n, c: jnp.where(n <= c, v, v * (c / n)),
    lambda v, n, c: jnp.where(n > c, v * (c / n), v),
    lambda v, n, c: v * jnp.minimum(1.0, c * lax.rsqrt(n * n + 1e-12)),
    lambda v, n, c: v * c / (n + 1e-6),
    lambda v, n, c: jnp.where(n <= c, v, jnp.zeros_like(v)),
    lambda v, n, c: v * jnp.clip(c / n, 0.0, 1.0),
    lambda v, n, c: jnp.clip(v, -c, c),
    lambda v, n, c: c * jnp.tanh(v),
]
GUARDS = [
    lambda v, w: jnp.where(jnp.isfinite(v), w, 0.0) if v.shape == w.shape else w,
    lambda v, w: jnp.where(jnp.isnan(w), 0.0, w),
    lambda v, w: jnp.where(jnp.isfinite(norm(v)), w, 0.0),
    lambda v, w: jnp.where(jnp.all(jnp.isfinite(v)), w, 0.0),
    lambda v, w: jnp.where(jnp.isfinite(w), w, 0.0),
    lambda v, w: jnp.nan_to_num(w),
    lambda v, w: jnp.where(w == w, w, 0.0),
    lambda v, w: jnp.where((norm(v) < 1e6) & jnp.isfinite(w), w, 0.0),
    lambda v, w: lax.cond(jnp.isfinite(norm(v)), lambda a: a, jnp.zeros_like, w),
]
TAME = [
    lambda v: -v,
    jnp.abs,
    lambda v: 3.0 * v,
    lambda v: 0.5 * v,
    lambda v: v / 2.0,
    lambda v: v + 0.5,
    jnp.tanh,
    jnp.sin,
    jnp.round,
    jnp.floor,
    jnp.ceil,
    jnp.sign,
    lambda v: v * v,
    lambda v: v[..., ::-1],
    jnp.ravel,
    lambda v: v.T,
    jnp.sum,
    jnp.max,
    lambda v: jnp.concatenate([v.ravel(), 2 * v.ravel()]),
    lambda v: jnp.pad(v.ravel(), (1, 0)),
    lambda v: jnp.stack([v, v]),
    lambda v: v[..., :2],
    lambda v: jnp.where(v > 0, v, 0.0),
    lambda v: jnp.where(v > 0, v, -1.0),
    jax.nn.relu,
    lambda v: jnp.maximum(v, -0.5),
    lambda v: jnp.minimum(v, 0.5),
    lambda v: jnp.sum(v, axis=0) if v.ndim else v,
    lambda v: jnp.expand_dims(v, 0),
    lambda v: jnp.reshape(v, (-1, 1)),
    lambda v: v - jnp.mean(v),
    lambda v: jnp.cumsum(v.ravel()),
    lambda v: jnp.sort(v.ravel()),
    lambda v: jnp.outer(v, v).ravel()[:LARGEST],
    lambda v: lax.scan(lambda c, _: (0.5 * c, None), v, None, length=3)[0],
    lambda v: lax.fori_loop(0, 2, lambda _, c: c + 1.0, v),
    lambda v: jax.checkpoint(lambda a: 2.0 * jnp.tanh(a))(v),
    lambda v: jax.jit(lambda a: a * 0.1)(v),
    lambda v: jnp.sqrt(jnp.abs(v)),
    jax.nn.sigmoid,
    jnp.cos,
]
WILD = [
    jnp.exp,
    lambda v: 1.0 / v,
    lambda v: lax.rsqrt(jnp.abs(v) + 1e-3),
    lambda v: 1e20 * v,
    lambda v: 1e-20 * v,
    lambda v: 1.0 / (1.0 + v * v),
    lambda v: v / (1.0 + jnp.abs(v)),
    lambda v: v**3,
    lambda v: v**-1,
    jnp.log1p,
    lambda v: jnp.fft.fft(v.ravel()).real,
    lambda v: jnp.abs(jnp.fft.fft(v.ravel())),
    lambda v: jnp.abs(jnp.tanh(v + 1j * v[..., ::-1])) if v.ndim else v,
    lambda v: (v.astype(jnp.complex64) * 1j).imag,
    lambda v: jnp.sqrt(v.astype(jnp.complex64)).real,
    lambda v: jax.nn.softmax(v.ravel()),
    lambda v: jax.nn.one_hot(jnp.argmax(v), 4),
    lambda v: lax.bitcast_convert_type(
        lax.bitcast_convert_type(v, jnp.int32) & 0x7FFFFF, jnp.float32
    ),
    lambda v: (
        jnp.linalg.solve(jnp.eye(2) + jnp.outer(v.ravel()[:2], v.ravel()[:2]), v.ravel()[:2])
        if v.size > 1
        else v
    ),
    lambda v: lax.while_loop(
        lambda c: jnp.any(jnp.abs(c[0]) > 1e3) & (c[1] < 9),
        lambda c: (c[0] * 1e-3, c[1] + 1),
        (v, 0),
    )[0],
    lambda v: v.ravel()[jnp.int32(v.ravel()[0]) % v.size],
    lambda v: v.ravel().at[0].set(3.0),
    lambda v: v.ravel().at[jnp.int32(v.ravel()[0]) % v.size].add(1.0),
    lambda v: v.ravel() @ v.ravel(),
    lambda v: lax.cond(jnp.sum(v) > 0, lambda a: a, lambda a: 2.0 * a, v),
    lambda v: lax.scan(lambda c, a: (c + a, c), jnp.zeros(()), v.ravel())[1],
    lambda v: (1.0 + 1e-8 * jnp.tanh(v)) - 1.0,
    lambda v: jnp.float32(1.0) / (jnp.abs(jnp.tanh(v)) + 1e-30),
    lambda v: jax.grad(lambda a: norm(a))(v),
    lambda v: v * 0.0,
    lambda v: v - v,
    lambda v: v / v,
    lambda v: jnp.prod(v),
    lambda v: jnp.var(v),
    lambda v: lax.reduce_precision(v, 5, 2),
    lambda v: jnp.maximum(v, v[..., ::-1]) if v.ndim else v,
    jnp.nan_to_num,
]
BINARY = [
    jnp.add,
    jnp.subtract,
    jnp.multiply,
    jnp.divide,
    jnp.maximum,
    jnp.minimum,
    lambda a, b: jnp.where(a > b, a, b),
    lambda a, b: a / (1.0 + jnp.abs(b)),
    lambda a, b: jnp.clip(a, -jnp.abs(b), jnp.abs(b)),
    lambda a, b: jnp.where(jnp.isfinite(b), a, 0.0),
    lambda a, b: jnp.where(norm(b) <= 1.0, a, 0.0),
    lambda a, b: a * jnp.minimum(1.0, 1.0 / norm(b)),
    lambda a, b: a / jnp.maximum(norm(b), 1e-3),
    lambda a, b: jnp.hypot(a, b),
    lambda a, b: jnp.arctan2(a, b),
    lambda a, b: lax.cond(jnp.sum(b) > 0, lambda u, w: u, lambda u, w: w, a, b),
]


@dataclasses.dataclass
class ClientFunction:
    """What one client sends, as a function of a seed."""

    seed: int
    small: bool = False

    def __call__(self, s, x, y, i):
        """The sum of the contributions."""
        rng = np.random.default_rng([self.seed, 7])
        values = [x, y, jnp.float32(1) * i if rng.random() < 0.2 else x[:2]]
        scalar = fad.broadcast(s) if rng.random() < 0.3 else None
        for _ in range(int(rng.integers(0, 2 if self.small else 4))):
            values.append(_step(rng, values, scalar, WILD if rng.random() < 0.5 else TAME))
        values.append(_bounded(rng, values, scalar))
        for _ in range(int(rng.integers(0, 2 if self.small else 4))):
            values.append(_step(rng, values[-2:], scalar, TAME if rng.random() < 0.8 else WILD))
        sent = values[-1]
        return fad.sum(sent) if sent.ndim or rng.random() < 0.5 else fad.sum(sent[None])


def _pick(rng, items):
    return items[int(rng.integers(len(items)))]


def _small(v):
    v = v if v.size <= LARGEST else jnp.sum(v)
    return v.astype(jnp.float32)


def _alike(a, b):
    return (a, b) if a.shape == b.shape or not b.ndim else (a, jnp.sum(b))


def _step(rng, values, scalar, table):
    kind, v = rng.random(), values[-1] if rng.random() < 0.7 else _pick(rng, values)
    if kind < 0.55:
        return _small(_pick(rng, table)(v))
    if kind < 0.7:
        return _small(_pick(rng, BINARY)(*_alike(v, _pick(rng, values))))
    if kind < 0.8:
        return _cast(rng, v)
    if kind < 0.9 and scalar is not None:
        return _pick(rng, [lambda a: a * scalar, lambda a: a / scalar, lambda a: a + scalar])(v)
    return _small(_pick(rng, GUARDS)(_pick(rng, values), v))


def _cast(rng, v):
    """To another dtype and back, perhaps with arithmetic there."""
    low = _pick(rng, LOW if rng.random() < 0.6 else WHOLE)
    inside = _pick(rng, [lambda a: a, lambda a: a + a, lambda a: a * a])
    return inside(v.astype(low)).astype(jnp.float32)


def _bounded(rng, values, scalar):
    """One of the ways to bound a value, perhaps by the norm of another one."""
    v = values[-1]
    c = scalar if scalar is not None and rng.random() < 0.4 else _pick(rng, [1.5, 0.01, 100.0])
    kind = rng.random()
    if kind < 0.15:
        return fad.clip(v, c)
    if kind < 0.25:
        other = _pick(rng, values)
        pair = fad.clip((v, other), c)
        return jnp.concatenate([p.ravel() for p in pair])[:LARGEST]
    if kind < 0.6:
        v = _pick(rng, GUARDS)(v, v)
    measured = v if rng.random() < 0.75 else _pick(rng, values)
    size = _pick(rng, NORMS)(measured)
    if rng.random() < 0.1:
        size = size.astype(_pick(rng, LOW)).astype(jnp.float32)
    if rng.random() < 0.1:
        size = _pick(rng, BINARY[:6])(size, jnp.sum(_pick(rng, values)))
    if size.ndim and size.shape[:-1] != v.shape[:-1]:
        size = jnp.sum(size)
    low = _pick(rng, LOW[:2]) if rng.random() < 0.1 else "float32"
    clipped = _pick(rng, SPELLINGS)(v.astype(low), size.astype(low), jnp.asarray(c, low))
    clipped = clipped.astype(jnp.float32)
    return _pick(rng, GUARDS)(_pick(rng, [v, measured]), clipped) if rng.random() < 0.5 else clipped
