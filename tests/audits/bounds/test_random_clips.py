"""Random spellings of clips: every accepted one keeps to its bound on hostile values.

A client function is put together from a dtype, a norm, a factor, a guard and what follows. Some
parts are wrong on purpose (the norm of half the entries, a cap of another value, casts to short
dtypes, small constants); the checker must know when they matter.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from clip_spellings import client
from jax import lax
from measured_clients import broken_bounds

SHORT = (jnp.float16, jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.int32)
DTYPES = ("float32",) * 4 + ("float16", "bfloat16")
LEAST = (0.0, 1e-30, 1e-20, 1e-12, 1e-6, 1e-2)

SQUARES = (
    lambda v, w: jnp.sum(v * v),
    lambda v, w: jnp.sum(v**2),
    lambda v, w: jnp.vdot(v, v),
    lambda v, w: lax.reduce_sum(v * v, (0,)),
    lambda v, w: jnp.sum(v * v) + w * w,
    lambda v, w: jnp.sum(v[:2] ** 2),
    lambda v, w: jnp.sum((2 * v) ** 2),
    lambda v, w: jnp.sum((0.5 * v) ** 2) * 4,
    lambda v, w: jnp.sum(abs(v) ** 2),
)
GUARDS = (
    lambda v, u, n: u,
    lambda v, u, n: jnp.where(jnp.isfinite(n), u, 0),
    lambda v, u, n: jnp.where(jnp.isfinite(n), u, 0),
    lambda v, u, n: jnp.where(jnp.all(jnp.isfinite(v)), u, 0),
    lambda v, u, n: jnp.where(jnp.isfinite(v), u, 0),
    lambda v, u, n: jnp.where(u != u, 0, u),
    lambda v, u, n: jnp.where(n < 1e6, u, 0),
    lambda v, u, n: jnp.where(jnp.isfinite(n) & (v > -1), u, 0),
)
AFTER = (
    lambda u: u,
    lambda u: u,
    lambda u: 3.0 * u,
    lambda u: u - 0.25,
    lambda u: jnp.round(u),
    lambda u: jnp.tanh(u),
    lambda u: u * u,
    lambda u: jnp.sum(u),
    lambda u: jnp.maximum(u, -0.1),
    lambda u: (u + 1e4) - 1e4,
)


def random_clip(seed):
    """A client function and its arguments."""
    plan = np.random.default_rng(seed)
    pick = lambda choices: choices[int(plan.integers(len(choices)))]
    dtype = pick(DTYPES)
    squares, guard, after = pick(SQUARES), pick(GUARDS), pick(AFTER)
    least, kind, bound = pick(LEAST), int(plan.integers(8)), pick((0.01, 1.0, 30.0))
    casts = [pick(SHORT) if plan.random() < 0.15 else None for _ in range(3)]
    first = plan.random() < 0.25

    def cast(x, k):
        return x if casts[k] is None else x.astype(casts[k]).astype(dtype)

    def scaled(v, w):
        square = squares(v, w)
        n = cast(jnp.sqrt(square), 0)
        c, e, one = (jnp.asarray(x, dtype) for x in (bound, least, 1.0))
        made = (
            lambda: v * jnp.minimum(one, c / jnp.maximum(n, e)),
            lambda: v * cast(jnp.minimum(one, c / (n + e)), 1),
            lambda: v / jnp.maximum(one, n / c),
            lambda: v * jnp.minimum(one, c * lax.rsqrt(square + e * e)),
            lambda: v * (c / jnp.maximum(n, e)),
            lambda: jnp.where(n > c, v * (c / n), v),
            lambda: lax.select(n <= c, v, (v / n) * c),
            lambda: v * lax.clamp(jnp.zeros((), dtype), c / n, jnp.minimum(one, abs(w))),
        )[kind]()
        return cast(made, 2), n

    def send(v, w):
        if first:
            v = guard(v, v, jnp.sqrt(squares(v, w))).astype(dtype)
            return after(scaled(v, w)[0])
        u, n = scaled(v, w)
        return after(guard(v, u, n).astype(dtype))

    return send, [client("v", (3,), dtype), client("w", (), dtype)]


MOVES = (
    lambda x: x[::-1],
    lambda x: jnp.roll(x, 1, 0),
    lambda x: jnp.swapaxes(x, 0, -1),
    lambda x: jnp.flip(x, -1),
    lambda x: jnp.take(x, jnp.arange(4) // 2, axis=0),
)
EVERY = (
    lambda v: jnp.all(jnp.isfinite(v)),
    lambda v: jnp.all(jnp.isfinite(v), axis=0),
    lambda v: jnp.all(jnp.isfinite(v), axis=1)[:, None],
    lambda v: jnp.all(jnp.isfinite(v), axis=1, keepdims=True),
    lambda v: jnp.all(jnp.isfinite(v[:2])),
    lambda v: jnp.isfinite(v),
    lambda v: True,
)


def random_rows(seed):
    """A client function that clips the rows or columns of a matrix, with a few faults at most."""
    plan = np.random.default_rng([seed, 3])
    pick = lambda choices: choices[int(plan.integers(len(choices)))]
    axis, c, kind = int(plan.integers(2)), pick((0.01, 1.0, 30.0)), int(plan.integers(9))
    faults = set(plan.choice(8, size=int(plan.integers(3)), replace=False))
    fault = lambda k, sound, choices: pick(choices) if k in faults else sound
    same = lambda x: x
    every, before = fault(0, EVERY[0], EVERY), fault(1, True, (False,))
    test_moved, norm_moved = fault(2, same, MOVES), fault(3, same, MOVES)
    after = fault(4, same, MOVES)
    across = [fault(5, axis == 1, (axis == 0,)), fault(6, axis == 1, (axis == 0,))]
    limit, other = fault(7, (c, 1.0), [(x, y) for x in (0.0, 1e-25, 2.0) for y in (1.0, -3.0)])

    def laid_out(n, rows):
        return jnp.broadcast_to(n[:, None] if rows else n[None, :], (4, 4))

    def send(v):
        u = jnp.where(every(v), v, 0.0) if before else v
        n = jnp.sqrt(jnp.sum(u * u, axis=axis))
        tested, divisor = laid_out(test_moved(n), across[0]), laid_out(norm_moved(n), across[1])
        made = (
            lambda: u * jnp.where(tested > limit, c / divisor, other),
            lambda: u * jnp.where(tested <= limit, other, c / divisor),
            lambda: jnp.where(tested > limit, u * (c / divisor), other),
            lambda: jnp.where(tested > limit, after(u / divisor), 0.0),
            lambda: jnp.where(tested <= limit, u, after(u * (c / divisor))),
            lambda: jnp.where(tested > limit, c / divisor, other),
            lambda: u * jnp.minimum(1.0, c / jnp.maximum(divisor, 1e-6)),
            lambda: u * jnp.where(tested**2 > limit**2, c * lax.rsqrt(divisor**2), other),
            lambda: u * jnp.where(tested > limit, c * lax.rsqrt(divisor**2), other),
        )[kind]()
        made = after(made)
        return made if before else jnp.where(every(v), made, 0.0)

    return send, [client("v", (4, 4))]


COUNTS = [pytest.param(60, id="short"), pytest.param(4000, id="long", marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("make", [random_clip, random_rows])
def test_accepted_random_clips_keep_to_their_bounds(make, count):
    accepted = 0
    for seed in range(count):
        send, args = make(seed)
        bounded, broken = broken_bounds(send, args, seed, every=11)
        assert not broken, (seed, broken)
        accepted += bounded
    assert accepted > count // 12
