"""Operations on an array of clients, each with a generator that chooses axes and arguments."""

import jax
import jax.numpy as jnp
from array_operations import OPS
from jax import lax

N = 4  # also the length of data axes, so that sizes say nothing


def axis(rng, x):
    return int(rng.integers(x.ndim))


def turned(rng, x):
    return jnp.transpose(x, rng.permutation(x.ndim))


def looked_up(rng, x):
    at = jnp.int32(jnp.abs(jnp.take(x, 0, axis=axis(rng, x)))) % N
    return jnp.take_along_axis(x, jnp.broadcast_to(at[..., None], x.shape), axis=axis(rng, x))


def contracted(rng, x):
    y = turned(rng, x)
    batch = tuple(k for k in range(3) if rng.random() < 0.4)
    rest = [k for k in range(3) if k not in batch]
    over = tuple(rest[:1]) if rest and rng.random() < 0.5 else ()
    return lax.dot_general(x, y, ((over, over), (batch, batch)))


def written(rng, x):
    k = axis(rng, x)
    rows = jnp.moveaxis(x, k, 0)
    at = jnp.int32(jnp.abs(rows[:, 0, 0])) % N
    return jax.vmap(lambda r, i: r.at[i].add(1.0), in_axes=(0, 0), out_axes=k)(rows, at)


def sliced(rng, x):
    starts = [int(rng.integers(2)) for _ in range(3)]
    sizes = [N - s if rng.random() < 0.5 else N - 1 for s in starts]
    return lax.dynamic_slice(x, [jnp.int32(s) for s in starts], sizes)


def updated(rng, x):
    return lax.dynamic_update_slice(x, turned(rng, x)[:, :, :2], (0, 0, int(rng.integers(2))))


def convolved(rng, x):
    return lax.conv_general_dilated(turned(rng, x), jnp.ones((N, N, 2)), (1,), "SAME")


def along(fun):
    return lambda rng, x: fun(x, axis(rng, x))


OPERATIONS = {
    **{f"chain {k}": op for k, op in enumerate(OPS)},
    "turned": turned, "looked up": looked_up, "contracted": contracted, "written": written,
    "sliced": sliced, "updated": updated, "convolved": convolved,
    "top": along(lambda x, k: lax.top_k(jnp.moveaxis(x, k, -1), 2)[0]),
    "split": along(lambda x, k: jnp.split(x, 2, axis=k)[1]),
    "stacked": along(lambda x, k: jnp.stack([x, x[::-1]], axis=k)),
    "cumulated": along(lambda x, k: lax.cummax(x, axis=k)),
    "sorted pairs": along(lambda x, k: lax.sort((x, x * x), dimension=k)[1]),
    "argument": along(lambda x, k: x * jnp.expand_dims(jnp.argmax(x, axis=k), k)),
    "solved": lambda rng, x: jnp.linalg.solve(turned(rng, x) + 9 * jnp.eye(N), x),
    "factored": lambda rng, x: jnp.linalg.qr(turned(rng, x))[1],
    "pooled": along(lambda x, k: lax.reduce_window(
        x, -jnp.inf, lax.max, tuple(2 if j == k else 1 for j in range(3)), (1, 1, 1), "SAME")),
    "words": lambda rng, x: lax.bitcast_convert_type(turned(rng, x), jnp.uint16),
    "mapped": along(lambda x, k: jax.vmap(lambda v: v / jnp.sum(v**2), k, k)(x)),
    "scanned": along(lambda x, k: lax.scan(
        lambda c, v: (c + v, c * v), jnp.zeros((N, N)), jnp.moveaxis(x, k, 0))[1]),
    "looped": along(lambda x, k: jax.vmap(lambda v: lax.while_loop(
        lambda c: jnp.sum(c) > 1, lambda c: c * 0.5, v), k, k)(jnp.abs(x))),
}  # fmt: skip
