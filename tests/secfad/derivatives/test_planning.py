"""`auto` works wherever a plan finds a mode, whatever the other modes say."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.sparse.linalg import cg

import secfad as fad
from secfad.derivatives import differentiation, modes
from secfad.errors import ArgumentError, ModeError, PlacementError, TracingError

S, C = fad.SERVER, fad.CLIENTS
W, V = np.array([0.5, -1.0], np.float32), np.float32(0.7)
X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2)


@fad.computation(w=S, v=S, x=C)
def loss(w, v, x):
    return fad.mean(jnp.sum((fad.broadcast(w) * x) ** 2)) * v


def central(w, v, x):
    return jnp.mean(jnp.sum((w * x) ** 2, 1)) * v


def close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("argnums", [2, (0, 2), [1, 2], np.int64(2)])
def test_auto_differentiates_what_a_plan_does(argnums):
    made = fad.grad(loss, argnums, mode="auto")
    wrt = tuple(argnums) if isinstance(argnums, list) else argnums
    close(fad.simulate(made)(W, V, X), jax.grad(central, wrt)(W, V, X))
    plan = fad.plan(loss, W, V, X[0], argnums=argnums)
    auto = fad.trace(fad.value_and_grad(loss, argnums, mode="auto"), W, V, X[0])
    program = plan[plan.mode].program
    assert program is not None
    assert program.digest == auto.digest


@pytest.mark.parametrize("kind", [fad.value_and_grad, fad.jacobian])
def test_every_kind_of_derivative_by_what_clients_hold_has_an_automatic_mode(kind):
    central_kind = jax.value_and_grad if kind is fad.value_and_grad else jax.jacobian
    got = fad.simulate(kind(loss, (0, 2), mode="auto"))(W, V, X)
    close(got, central_kind(central, (0, 2))(W, V, X))


@pytest.mark.parametrize(
    "argnums", [7, -4, "w", True, (0, True), (0, 0), (0, -3), (), None, 1.0, b"a"]
)
def test_a_plan_and_every_derivative_refuse_the_same_positions(argnums):
    words = r"argnums within the 3 arguments of `loss`, .* 0: `w`, 1: `v`, 2: `x`"
    for kind in (fad.grad, fad.value_and_grad, fad.jacobian, fad.jvp, fad.vjp):
        with pytest.raises(ArgumentError, match=words):
            kind(loss, argnums)
    with pytest.raises(ArgumentError, match=words):
        fad.plan(loss, W, V, X[0], argnums=argnums)


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("error", [TypeError, NotImplementedError, KeyError, AssertionError])
def test_a_mode_that_raises_is_no_option_and_its_reason_is_kept(error, monkeypatch):
    original = differentiation.value_and_gradient

    def failing(fun, at, mode, has_aux):
        if mode in ("mixed", "forward"):
            raise error("no rule for this")
        return original(fun, at, mode, has_aux)

    fresh = fad.computation(w=S, v=S, x=C)(loss.fun)
    monkeypatch.setitem(modes._DERIVE, "value_and_grad", ("Value and gradient", failing))
    made = fad.value_and_grad(fresh, mode="auto")
    close(fad.simulate(made)(W, V, X), jax.value_and_grad(central)(W, V, X))
    plan = fad.plan(fresh, W, V, X[0])
    for mode in ("mixed", "forward"):
        assert plan[mode].program is None
        assert error.__name__ in plan[mode].note
        assert "no rule for this" in plan[mode].note
    assert plan.mode == fad.plan(fresh, W, V, X[0]).mode != "mixed"


@pytest.mark.parametrize("error", [MemoryError, UserWarning, KeyboardInterrupt])
def test_what_says_nothing_of_the_mode_is_raised(error, monkeypatch):
    def failing(*_):
        raise error("not the mode")

    fresh = fad.computation(w=S, v=S, x=C)(loss.fun)
    monkeypatch.setitem(modes._DERIVE, "value_and_grad", ("Value and gradient", failing))
    with pytest.raises(error, match="not the mode"):
        fad.plan(fresh, W, V, X[0])


def ridge(lam, x):
    """The optimum of a federated loss, by implicit differentiation."""

    def slope(w):
        return fad.mean(x * (jnp.vdot(x, fad.broadcast(w)) - 1.0)) + lam * w

    def solve(f, w):
        return jax.lax.fori_loop(0, 100, lambda _, w: w - 0.5 * f(w), w)

    root = jax.lax.custom_root(slope, jnp.zeros(2), solve, lambda g, y: cg(g, y, maxiter=4)[0])
    return jnp.sum(root**2)


def central_ridge(lam):
    inverse = jnp.linalg.inv(X.T @ X / 3 + lam * jnp.eye(2))
    return jnp.sum((inverse @ X.mean(0)) ** 2)


@jax.custom_batching.custom_vmap
def doubled(v):
    return 2 * v


doubled.def_vmap(lambda size, batched, v: (2 * v, batched[0]))
squared = jax.custom_jvp(lambda v: v**2)
squared.defjvp(lambda p, t: (p[0] ** 2, doubled(p[0] * t[0])))


FORWARD_ONLY = {
    "custom_root": (ridge, jnp.float32(0.4), "transpose", jax.grad(central_ridge)(0.4)),
    "custom_vmap in a rule": (
        lambda w, x: fad.mean(jnp.sum(squared(fad.broadcast(w) * x))),
        W,
        "custom_vmap",
        jax.grad(central)(W, 1.0, X),
    ),
}


@pytest.mark.parametrize("name", FORWARD_ONLY)
def test_what_has_no_backward_derivative_is_said_and_another_mode_found(name):
    fun, at, words, expected = FORWARD_ONLY[name]
    made = fad.computation(w=S, x=C)(lambda w, x: fun(w, x))
    for mode in ("reverse", "factored"):
        with pytest.raises(ModeError, match=rf"has no {mode} mode: .*{words}.*mode='forward'"):
            fad.trace(fad.grad(made, mode=mode), at, X[0])
    assert fad.plan(made, at, X[0]).mode in ("forward", "mixed")
    got = fad.simulate(fad.grad(made, mode="auto"))(at, X)
    np.testing.assert_allclose(got, expected, rtol=1e-3)


@jax.custom_jvp
def pushed_sum(v, x):
    return fad.mean(fad.broadcast(v) * x)


@pushed_sum.defjvp
def _(primals, tangents):
    (v, x), (t, _) = primals, tangents
    return pushed_sum(v, x), fad.mean(fad.broadcast(t) * x)


@jax.custom_vjp
def pulled_sum(v, x):
    return fad.mean(fad.broadcast(v) * x)


pulled_sum.defvjp(
    lambda v, x: (pulled_sum(v, x), x),
    lambda x, g: (fad.mean(fad.broadcast(g) * x), jnp.zeros_like(x)),
)

RULES_THAT_COMMUNICATE = {
    "custom_root": ridge,
    "custom_root in a branch": lambda w, x: jax.lax.cond(w > 0, lambda: ridge(w, x), lambda: w),
    "custom_jvp": lambda w, x: jnp.sum(pushed_sum(jnp.full(2, w), x) ** 2),
    "custom_vjp": lambda w, x: jnp.sum(pulled_sum(jnp.full(2, w), x) ** 2),
    "custom_vjp in a branch": lambda w, x: jax.lax.cond(
        w > 0, lambda: jnp.sum(pulled_sum(jnp.full(2, w), x) ** 2), lambda: w
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if "branch" in n else ())
        for n in RULES_THAT_COMMUNICATE
    ],
)
def test_the_mode_that_mixed_mode_names_for_a_rule_that_communicates_exists(name):
    made = fad.computation(w=S, x=C)(lambda w, x: RULES_THAT_COMMUNICATE[name](w, x))
    at, step = 0.4, 1e-2
    with pytest.raises(ModeError, match="around communication") as raised:
        fad.trace(fad.grad(made, mode="mixed"), jnp.float32(at), X[0])
    named = re.search("Use mode='(.*)'", str(raised.value))
    assert named
    value = fad.simulate(made)
    expected = (value(jnp.float32(at + step), X) - value(jnp.float32(at - step), X)) / (2 * step)
    got = fad.simulate(fad.grad(made, mode=named[1]))(jnp.float32(at), X)
    np.testing.assert_allclose(got, expected, rtol=1e-2)


def test_without_any_mode_every_reason_is_given_at_once():
    def called(w):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(w.shape, w.dtype), w)

    made = fad.computation(w=S, x=C)(lambda w, x: fad.mean(jnp.sum(called(fad.broadcast(w)) * x)))
    with pytest.raises(ModeError, match=r"mixed: .*callback.* \| forward: .*callback.* \| rev"):
        fad.trace(fad.grad(made, mode="auto"), W, X[0])


def test_a_computation_that_is_wrong_itself_is_no_matter_of_modes():
    misplaced = fad.computation(w=S, x=C)(lambda w, x: fad.mean(jnp.sum(w * x)))
    with pytest.raises(PlacementError, match="Wrap the server value in `broadcast`"):
        fad.trace(fad.grad(misplaced, mode="auto"), W, X[0])
    branching = fad.computation(w=S, x=C)(lambda w, x: fad.mean(x[0] if x[0] > 0 else x[1]))
    with pytest.raises(TracingError, match="cannot be traced"):
        fad.trace(fad.grad(branching, mode="auto"), W, X[0])
