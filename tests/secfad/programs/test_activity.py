"""What is differentiated by itself: operands of messages, carries of loops, results of calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad import _jax
from secfad.jaxprs.dependence import ACTIVITY, DEPENDENCE

S, C = fad.SERVER, fad.CLIENTS
D = 12
RNG = np.random.default_rng(0)
W, X, Y = RNG.normal(size=D), RNG.normal(size=(4, 5, D)), RNG.normal(size=(4, 5))


@jax.custom_jvp
def both_jvp(w, rate):
    return 2 * w, jnp.sin(rate)


both_jvp.defjvp(lambda p, t: (both_jvp(*p), (2 * t[0], jnp.cos(p[1]) * t[1])))


@jax.custom_vjp
def both_vjp(w, rate):
    return 2 * w, jnp.sin(rate)


both_vjp.defvjp(
    lambda w, rate: (both_vjp(w, rate), rate),
    lambda rate, g: (2 * g[0], jnp.cos(rate) * g[1]),
)


@jax.custom_vjp
def passed_straight(w, rate):
    """Its value does not depend on the first input; its derivative does, and on that alone."""
    return rate, w


passed_straight.defvjp(lambda w, r: ((r, w), None), lambda _, g: (g[0], jnp.zeros_like(g[1])))


def scanned(w, rate):
    step = lambda c, _: ((c[0] * 0.5 + 1, jnp.sin(c[1])), c[0])
    (w, rate), rows = jax.lax.scan(step, (w, rate), None, length=3)
    return w, rate, rows


def looped(w, rate):
    going_on = lambda s: s[2] + jnp.floor(w[0]) < 4
    return jax.lax.while_loop(
        going_on, lambda s: (s[0] + 1, jnp.sin(s[1]), s[2] + 1), (w, rate, 0.0)
    )


def chosen(w, rate):
    branches = lambda w, r: (w, 2 * r), lambda w, r: (2 * w, jnp.cos(r))
    return jax.lax.cond(w[0] > 0, *branches, w, rate)


def solved(w, rate):
    return jnp.linalg.solve(jnp.eye(3) * rate[0], w), rate


FUNS = {
    "jit": lambda w, r: jax.jit(lambda w, r: (jnp.cos(w), r * 2))(w, r),
    "checkpoint": lambda w, r: jax.checkpoint(lambda w, r: (jnp.cos(w), r * 2))(w, r),
    "scan": scanned,
    "while": looped,
    "cond": chosen,
    "custom_jvp": both_jvp,
    "custom_vjp": both_vjp,
    "stopped": lambda w, r: (jax.lax.stop_gradient(w) * r, jnp.floor(r) * w, jnp.sign(w) + r),
    "integers": lambda w, r: (w[jnp.argmax(r)], (r > 0.5) * w, w.astype(int) * r),
    "solve": solved,
}


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("fun", FUNS.values(), ids=FUNS)
def test_a_result_is_active_where_its_derivative_is_not_zero(fun):
    w, rate = jnp.array([0.7, -1.3, 0.4]), jnp.array([0.9, 0.8, 1.7])
    jaxpr = _jax.make_jaxpr(fun, (w, rate))[0].jaxpr
    found = ACTIVITY.results(jaxpr, [1, 2])
    taken = jax.jacrev if fun is both_vjp else jax.jacfwd
    columns = [jax.tree.leaves(taken(fun, argnums=i)(w, rate)) for i in (0, 1)]
    expected = [int(a.any()) + 2 * int(b.any()) for a, b in zip(*columns)]
    assert [int(m) for m in found] == expected


def test_a_rule_decides_and_not_what_it_is_a_rule_of():
    jaxpr = _jax.make_jaxpr(passed_straight, (1.0, 2.0))[0].jaxpr
    assert list(ACTIVITY.results(jaxpr, [1, 2])) == [1, False]
    assert list(DEPENDENCE.results(jaxpr, [1, 2])) == [2, 1]


def test_a_value_depends_on_what_decides_how_often_a_loop_runs():
    jaxpr = _jax.make_jaxpr(looped, (jnp.ones(3), jnp.ones(3)))[0].jaxpr
    assert list(DEPENDENCE.results(jaxpr, [1, 2])) == [1, 3, 1]


def delta(w, x, y):
    return jax.grad(lambda w: jnp.mean((jnp.tanh(x @ w) - y) ** 2))(w)


def prepared(fun):
    """A round with a rate and a model that one function of the server prepares."""

    @fad.computation(rate=S, w=S, x=C, y=C)
    def computation(rate, w, x, y):
        w, rate = fun(w, rate)[:2]
        model, received = fad.broadcast((w, rate))
        return fad.mean(received * delta(model, x, y), name="delta")

    return computation


SERVERS = {k: FUNS[k] for k in ("jit", "scan", "while", "cond", "custom_jvp", "custom_vjp")} | {
    "stopped": lambda w, rate: (w + jax.lax.stop_gradient(rate), rate),
    "nothing": lambda w, rate: (w, rate),
}


@pytest.mark.parametrize("fun", SERVERS.values(), ids=SERVERS)
def test_mixed_mode_sends_no_jacobian_by_what_is_not_differentiated(fun):
    args = np.float64(0.3), W, X[0], Y[0]
    if fun is both_vjp:
        program = fad.trace(fad.vjp(prepared(fun), mode="mixed"), *args, W)
    else:
        program = fad.trace(fad.jvp(prepared(fun), mode="mixed"), *args, args[0])
    # The message, and its Jacobian by one number.
    assert program.costs.released == 2 * D


def test_the_jacobian_of_each_operand_is_by_its_own_sources():
    """Two things that one loop of a client computes, each from one broadcast."""

    @fad.computation(w=S, v=S, x=C)
    def computation(w, v, x):
        a, b = fad.broadcast((w, v))
        step = lambda c, row: ((c[0] + jnp.sin(row * a), c[1] * jnp.cos(row[0] * b)), None)
        first, second = jax.lax.scan(step, (jnp.zeros(D), jnp.ones(2)), x)[0]
        return jnp.sum(jnp.stack([m.sum() ** 2 for m in fad.sum((first, second))]))

    made = fad.grad(computation, (0, 1), mode="mixed")
    costs = fad.trace(made, W, jnp.ones(2), X[0]).costs
    assert costs.released == D + 2 + D * D + 2 * 2


def test_aux_in_a_loop_costs_no_jacobian_and_no_warning(monkeypatch):
    """Of a sum that is only observed, nothing is sent but the sum."""
    monkeypatch.setattr("secfad.derivatives.jacobians.LARGE_JACOBIAN", D)

    @fad.computation(w=S, x=C)
    def computation(w, x):
        def step(w, _):
            b = fad.broadcast(w)
            seen = fad.mean(jnp.outer(jnp.sin(b), x[0]), name="seen")
            return w - 0.1 * fad.mean(jnp.sum(x @ b)), seen

        w, seen = jax.lax.scan(step, w, None, length=2)
        return jnp.sum(w**2), seen

    made = fad.grad(computation, has_aux=True, mode="mixed")
    assert fad.trace(made, W, X[0]).costs.released == 2 * (D * D + 1 + D)
