"""What a client sends, measured: the largest norm over hostile inputs, beside the stated bound.

A client function is checked in the native style, once. It then runs on rows of special values (NaN,
infinities, zeros of both signs, subnormal and huge numbers, and numbers whose squares vanish or
overflow), compiled and operation by operation. Every sum whose bound is stated must keep to it.
"""

import jax
import jax.numpy as jnp
import numpy as np

import audits
import secfad

SPECIAL = (
    *(np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 7.0, -4.0, 100.0, 448.0, 1e3),
    *(65504.0, 1e10, 1e19, 1.9e19, 1e30, 3e38, -3e38, 1e-3, 1.5e-4, 7.7e-3, 6e-8, 1e-8),
    *(1e-19, 1.1e-19, 1e-20, 1e-30, 1.2e-38, 1e-39, 1e-45),
)


def rows_of(shape, dtype, seed=0, count=60):
    """Rows of one special value, of two, and of random magnitudes."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    rows = [np.full(size, value) for value in SPECIAL]
    for value in SPECIAL:
        for other in (1.0, 1e-19, 1.5e-4):
            row = np.full(size, other)
            row[rng.integers(size) if size else 0] = value
            rows.append(row)
    for _ in range(count):
        rows.append(rng.choice(SPECIAL[6:], size) * rng.choice([-1, 1], size))
        rows.append(rng.normal(size=size) * 10.0 ** rng.uniform(-25, 25))
    with np.errstate(all="ignore"):
        made = np.stack(rows).reshape(-1, *shape)
        if np.dtype(dtype).kind in "iu":
            made = np.nan_to_num(made, nan=0, posinf=1e9, neginf=-1e9).clip(-2e9, 2e9)
        if np.dtype(dtype).kind == "c":
            made = made + 1j * made[rng.permutation(len(made))]
        return jnp.asarray(made.astype(dtype))


def _shuffled(rows, position):
    """Values beside others than their like: each argument has its rows in another order."""
    order = np.random.default_rng(position).permutation(len(rows))
    return rows[order] if position else rows


def checked(client, args):
    """The report about the sum of what a client function makes of its values."""
    return audits.check(
        lambda *values: jax.tree.map(secfad.sum, client(*values)),
        args,
        style="native",
        profile="secagg+dp",
    )


def norms_of(tree, count):
    """The norm of every leaf, of every row."""
    found = []
    for leaf in jax.tree.leaves(tree):
        wide = np.asarray(leaf).astype(np.complex128).reshape(count, -1)
        with np.errstate(all="ignore"):
            found.append(np.sqrt((np.abs(wide) ** 2).sum(axis=1)))
    return found


def sent(client, inputs, *, every=7):
    """The norms of what is sent: rows at a time, compiled, and some row by row, uncompiled."""
    count = len(inputs[0])
    compiled = norms_of(jax.jit(jax.vmap(client))(*inputs), count)
    alone = [client(*(x[k] for x in inputs)) for k in range(0, count, every)]
    stacked = jax.tree.map(lambda *rows: np.stack([np.asarray(r) for r in rows]), *alone)
    return [np.concatenate(both) for both in zip(compiled, norms_of(stacked, len(alone)))]


def broken_bounds(client, args, seed=0, *, every=7):
    """The stated bounds that a measured contribution exceeds, and whether there was a bound."""
    report = checked(client, args)
    if report.kind == "reject":
        return False, []
    infinite = "FAD407" in {f.rule for f in report.findings}
    shapes = [(a.shape, a.dtype) for a in args]
    inputs = [_shuffled(rows_of(s, d, seed + k), k) for k, (s, d) in enumerate(shapes)]
    with np.errstate(all="ignore"):
        measured = sent(client, inputs, every=every)
    found = []
    for bound, norms in zip(report.facts.bounds, measured):
        limit = bound.amount.number * bound.slack
        if infinite:
            norms = norms[np.isfinite(norms)]
        if not np.all(norms <= limit * (1 + 1e-5)):
            found.append(f"stated {limit}, sent {np.max(norms)}")
    return True, found
