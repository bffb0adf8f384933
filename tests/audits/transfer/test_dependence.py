"""Every transfer rule against exact dependence: where a rule says "row by row", rows are independent.

An array with an axis of clients goes through one random operation. If the checker says that the result
has an axis of clients, changing one client's input may change that client's row of it only.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from array_operations import OPS
from jax import lax

import audits
from audits.checking.checking import walk
from audits.checking.frontends import trace_mode
from audits.transfer.labels import Place
from audits.transfer.styles import STYLES

N = 4  # also the length of data axes, so that sizes say nothing
DRAWS = [pytest.param(2, id="short"), pytest.param(40, id="long", marks=pytest.mark.slow)]


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


def differing(fun, base, other, client):
    """Which entries of the result change when one client's data do."""
    changed = base.copy()
    changed[client] = other[client]
    a, b = np.asarray(fun(jnp.asarray(base))), np.asarray(fun(jnp.asarray(changed)))
    return ~((a == b) | ((a != a) & (b != b)))


@pytest.mark.sample(quick=3, slow=60)
@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_rows_are_independent_where_the_rule_says_so(name, draws):
    argument = audits.Arg("x", (N, N, N), "float32", "clients")
    for seed in range(draws):
        fun = lambda x: OPERATIONS[name](np.random.default_rng(seed), x)  # noqa: B023
        try:
            traced = trace_mode(fun, [argument], style=STYLES["stacked"], mode="primal", wrt=())
        except (TypeError, ValueError):
            continue
        checker, (label, *_) = walk(traced, STYLES["stacked"])
        if checker.findings or label.poisoned or label.place < Place.CLIENT:
            continue
        base, other = np.random.default_rng(seed).normal(size=(2, N, N, N)).astype("float32")
        run, size = jax.jit(fun), traced.closed.jaxpr.outvars[0].aval.shape  # type: ignore[attr-defined]
        for client in range(N):
            entries = np.argwhere(differing(run, base, other, client))
            if not len(entries):
                continue
            where = label.tags.find("c") if "c" in label.tags else label.tags.find("m")
            assert where >= 0, (seed, label.tags)
            # An axis that merges clients with data has the clients first.
            block = 1 if label.tags[where] == "c" else size[where] // label.axes[where].rows
            rows = set((entries[:, where] // block).tolist())
            assert rows <= {client}, (seed, label.tags, rows)
