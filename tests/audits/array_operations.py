"""Elementary array operations for random programs: each takes a generator and an array."""

import jax
import jax.numpy as jnp
from jax import lax


def _any_axis(rng, x):
    return int(rng.integers(x.ndim))


def _axis_op(fun):
    return lambda rng, x: fun(x, _any_axis(rng, x))


def _keeping(reduce):
    return lambda rng, x: x - reduce(x, axis=_any_axis(rng, x), keepdims=True)


def _reshaped(rng, x):
    if x.ndim < 2:
        return x[..., None]
    k = int(rng.integers(x.ndim - 1))
    merged = (*x.shape[:k], x.shape[k] * x.shape[k + 1], *x.shape[k + 2 :])
    return x.reshape(merged)


def _split_axis(rng, x):
    k = _any_axis(rng, x)
    return x.reshape(*x.shape[:k], 2, -1, *x.shape[k + 1 :]) if x.shape[k] % 2 == 0 else x


def _taken(rng, x):
    k = _any_axis(rng, x)
    return jnp.take(x, jnp.arange(x.shape[k])[::-1], axis=k)


def _along(rng, x):
    k = _any_axis(rng, x)
    return jnp.take_along_axis(x, jnp.argsort(x, axis=k), axis=k)


def _dot(rng, x):
    if x.ndim < 2:
        return x
    k = _any_axis(rng, x)
    letters = "abcdefg"[: x.ndim]
    other = letters.replace(letters[k], "z") if rng.random() < 0.5 else letters
    out = "".join(dict.fromkeys(letters + other))
    if len(out) > 4:
        return x
    return jnp.einsum(f"{letters},{other}->{out}", x, x) if len(out) <= 3 else x


def _scatter(rng, x):
    k = _any_axis(rng, x)
    index = [slice(None)] * x.ndim
    index[k] = 0
    return x.at[tuple(index)].add(1.0)


def _written(rng, x):
    return (
        jnp.zeros((x.shape[0], 5))
        .at[jnp.arange(x.shape[0]), jnp.int32(jnp.abs(x.reshape(x.shape[0], -1)[:, 0])) % 5]
        .add(1.0)
    )


def _scanned(rng, x):
    return lax.scan(lambda c, v: (0.5 * c + v, c), jnp.zeros(x.shape[1:]), x)[1]


def _vmapped(rng, x):
    k = _any_axis(rng, x)
    return jax.vmap(lambda v: jnp.sort(v, axis=0) if v.ndim else v, in_axes=k, out_axes=k)(x)


def _weighted(rng, x):
    k = _any_axis(rng, x)
    shape = [1] * x.ndim
    shape[k] = x.shape[k]
    return x * jnp.arange(1.0, x.shape[k] + 1).reshape(shape)


def _windowed(rng, x):
    k = _any_axis(rng, x)
    window = tuple(2 if j == k else 1 for j in range(x.ndim))
    pads = tuple((1, 0) if j == k else (0, 0) for j in range(x.ndim))
    return lax.reduce_window(x, 0.0, lax.add, window, (1,) * x.ndim, pads)


OPS = [
    lambda rng, x: jnp.sin(x),
    lambda rng, x: x * x + 1.0,
    lambda rng, x: jnp.where(x > 0, x, 0.5 * x),
    lambda rng, x: jnp.moveaxis(x, 0, -1),
    lambda rng, x: jnp.swapaxes(x, 0, x.ndim - 1),
    lambda rng, x: x[None] + x[:, None] if x.ndim < 3 else x,
    _axis_op(lambda x, k: jnp.cumsum(x, axis=k)),
    _axis_op(lambda x, k: jnp.sort(x, axis=k)),
    _axis_op(lambda x, k: jnp.flip(x, axis=k)),
    _axis_op(lambda x, k: jnp.roll(x, 1, axis=k)),
    _axis_op(lambda x, k: jnp.concatenate([x, x], axis=k)),
    _axis_op(lambda x, k: lax.slice_in_dim(x, 0, max(x.shape[k] - 1, 1), axis=k)),
    _axis_op(lambda x, k: jnp.pad(x, [(1, 0) if j == k else (0, 0) for j in range(x.ndim)])),
    _axis_op(lambda x, k: jax.nn.softmax(x, axis=k)),
    _axis_op(lambda x, k: jnp.repeat(x, 2, axis=k)),
    _axis_op(lambda x, k: jnp.stack([x, x], axis=k) if x.ndim < 3 else x),
    _axis_op(lambda x, k: jnp.median(x, axis=k, keepdims=True) * x),
    _axis_op(lambda x, k: jnp.abs(jnp.fft.fft(x, axis=k))),
    _keeping(jnp.mean),
    _keeping(jnp.max),
    _reshaped,
    _split_axis,
    _taken,
    _along,
    _dot,
    _scatter,
    _written,
    _scanned,
    _vmapped,
    _weighted,
    _windowed,
]
