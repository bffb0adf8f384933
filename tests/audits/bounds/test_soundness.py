"""Acceptance implies what it claims: random programs against oracles that know nothing of labels.

A stacked program that ends in a sum over clients must be additively separable: the mixed difference
with respect to two clients' rows is zero, and permuting clients changes nothing. For bounds: what
one client adds, measured in float64 on heavy-tailed inputs with NaN and infinities, never exceeds
the stated sensitivity.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from array_operations import OPS
from jax import lax

import audits
import secfad

N = 4
ROUNDS = [pytest.param(100, id="short"), pytest.param(6000, id="long", marks=pytest.mark.slow)]


def random_program(seed):
    """A random chain of operations, then a sum over one axis."""
    plan = np.random.default_rng(seed)
    length = int(plan.integers(1, 5))
    chosen = plan.integers(len(OPS), size=length)
    seeds = plan.integers(2**31, size=length)
    final = plan.random()

    def program(x):
        x = jnp.asarray(x)
        for op, s in zip(chosen, seeds):
            x = OPS[op](np.random.default_rng(s), x)
        axes = [k for k in range(x.ndim) if x.shape[k] == N] or [0]
        return jnp.sum(x, axis=axes[int(final * len(axes))])

    return program


def mixed_difference(fun, base, other):
    """Zero if the rows of clients 0 and 1 do not interact, relative to the size of the values."""
    one, two, both = base.copy(), base.copy(), base.copy()
    one[0], two[1] = other[0], other[1]
    both[0], both[1] = other[0], other[1]
    values = [np.asarray(fun(jnp.asarray(v)), np.float64) for v in (base, one, two, both)]
    scale = 1.0 + max(np.abs(v).max(initial=0) for v in values)
    return np.abs(values[3] - values[1] - values[2] + values[0]).max(initial=0) / scale


@pytest.mark.sample(quick=1, slow=0)
@pytest.mark.parametrize("count", ROUNDS)
def test_accepted_random_programs_are_separable_and_symmetric(count):
    accepted = 0
    rng = np.random.default_rng(0)
    for seed in range(count):
        program = random_program(seed)
        try:
            jax.eval_shape(program, jax.ShapeDtypeStruct((N, 4), jnp.float32))
        except (TypeError, ValueError):
            continue
        report = audits.check(
            program, [audits.Arg("x", (N, 4), "float32", "clients")], style="stacked"
        )
        if report.kind == "reject" or report.facts.rounds != 1:
            continue
        if {f.rule for f in report.findings} & {"FAD102"}:
            continue  # a second use of a sum by clients is not separable, and is said so
        accepted += 1
        base, other = rng.normal(size=(2, N, 4)).astype(np.float32)
        assert mixed_difference(program, base, other) < 1e-4, seed
        permuted = base[rng.permutation(N)]
        np.testing.assert_allclose(program(permuted), program(base), rtol=1e-3, atol=1e-3)
    assert accepted > count // 20


def test_the_oracle_finds_mixing():
    x = np.random.default_rng(1).normal(size=(2, N, 4)).astype(np.float32)
    assert mixed_difference(lambda v: jnp.sum(v * jnp.roll(v, 1, axis=0), axis=0), *x) > 1e-2
    assert mixed_difference(lambda v: jnp.sum(v**2, axis=0), *x) < 1e-5


# Bounds.


def _norm(v):
    return jnp.sqrt(jnp.sum(v**2))


CLIPS = {
    "min": lambda v, c: v * jnp.minimum(1.0, c / _norm(v)),
    "max": lambda v, c: v / jnp.maximum(1.0, _norm(v) / c),
    "where good": lambda v, c: jnp.where(_norm(v) <= c, v, v * (c / _norm(v))),
    "where bad": lambda v, c: jnp.where(_norm(v) > c, v * (c / _norm(v)), v),
    "eps": lambda v, c: v * jnp.minimum(1.0, c / (_norm(v) + 1e-6)),
    "rsqrt": lambda v, c: v * jnp.minimum(1.0, c * lax.rsqrt(jnp.sum(v * v) + 1e-12)),
    "vdot": lambda v, c: v * jnp.minimum(1.0, c / jnp.sqrt(jnp.vdot(v, v) + 1e-12)),
    "entry": lambda v, c: jnp.clip(v, -c, c),
    "tanh": lambda v, c: c * jnp.tanh(v),
    "wrong value": lambda v, c: jnp.exp(v) * jnp.minimum(1.0, c / _norm(v)),
    "half norm": lambda v, c: v * jnp.minimum(1.0, c / _norm(v[:2])),
    "linf": lambda v, c: v * jnp.minimum(1.0, c / jnp.max(jnp.abs(v))),
    "l1": lambda v, c: v * jnp.minimum(1.0, c / jnp.sum(jnp.abs(v))),
    "raise": lambda v, c: v * jnp.maximum(1.0, c / _norm(v)),
    "normalise": lambda v, c: v * (c / _norm(v)),
    "blessed": lambda v, c: secfad.clip(v, c),
}
GUARDS = {
    "none": lambda clip, v, c: clip(v, c),
    "after": lambda clip, v, c: jnp.where(jnp.isfinite(_norm(v)), clip(v, c), 0.0),
    "before": lambda clip, v, c: clip(jnp.where(jnp.isfinite(_norm(v)), v, 0.0), c),
    "entries": lambda clip, v, c: clip(jnp.where(jnp.isfinite(v), v, 0.0), c),
    "nan only": lambda clip, v, c: clip(jnp.where(jnp.isnan(v), 0.0, v), c),
    "any": lambda clip, v, c: jnp.where(jnp.all(jnp.isfinite(v)), clip(v, c), 0.0),
}
AFTER = {
    "as is": lambda u: u,
    "scaled": lambda u: 3.0 * u,
    "rounded": lambda u: jnp.round(4.0 * u),
    "halved": lambda u: u.reshape(2, -1).sum(axis=0),
    "shifted": lambda u: u + 0.5,
    "masked": lambda u: jnp.where(u > 0, u, 0.0),
    "joined": lambda u: jnp.concatenate([u, 2 * u]),
    "squared": lambda u: u * u,
}


def hostile_inputs():
    rng = np.random.default_rng(7)
    rows = [rng.standard_cauchy(4) * 10.0 ** rng.integers(-30, 30) for _ in range(60)]
    rows += [
        np.zeros(4),
        np.full(4, np.inf),
        np.full(4, np.nan),
        np.full(4, 3e38),
        np.full(4, 1e-45),
    ]
    for special in (np.nan, np.inf, -np.inf):
        rows.append(np.array([special, 1e30, -1e30, 1.0]))
        rows.append(np.array([1e30, 1e30, 1e30, special]))
    return np.asarray(rows, np.float32)


@pytest.mark.sample(quick=4)
@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("clip", CLIPS)
def test_measured_contribution_never_exceeds_the_stated_sensitivity(clip, guard):
    rows = hostile_inputs()
    with np.errstate(all="ignore"):
        for after in AFTER.values():
            client = lambda v: after(GUARDS[guard](CLIPS[clip], v, 1.5))  # noqa: B023
            report = audits.check(
                lambda x: jnp.sum(jax.vmap(client)(x), axis=0),  # noqa: B023
                [audits.Arg("x", (N, 4), "float32", "clients")],
                style="stacked",
                profile="secagg+dp",
            )
            if report.kind == "reject":
                continue
            (bound,) = report.facts.sensitivity
            sent = np.asarray(jax.vmap(client)(jnp.asarray(rows)), np.float64)
            norms = np.sqrt((sent.reshape(len(rows), -1) ** 2).sum(axis=1))
            acknowledged = {f.rule for f in report.findings}
            if "FAD407" in acknowledged:
                norms = norms[np.isfinite(norms)]
            assert np.all(norms <= bound * (1 + 1e-5)), (clip, guard, bound, norms.max())


GOOD = ("min", "max", "where good", "eps", "rsqrt", "vdot", "entry", "tanh")


@pytest.mark.parametrize("clip", GOOD)
def test_guarded_spelling_is_recognised(clip):
    report = audits.check(
        lambda x: jnp.sum(jax.vmap(lambda v: GUARDS["after"](CLIPS[clip], v, 1.5))(x), axis=0),
        [audits.Arg("x", (N, 4), "float32", "clients")],
        style="stacked",
        profile="secagg+dp",
    )
    assert report.kind in ("accept", "caveat"), report.findings
