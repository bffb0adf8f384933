"""Modes compose and nest; jvp, vjp and client-placed results; what auto chooses."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.sparse.linalg import cg

import secfad as fad
from secfad.derivatives.jacobians import LargeJacobianWarning, NonlinearRuleWarning
from secfad.derivatives.planning import CostModel
from secfad.errors import ModeError

pytestmark = pytest.mark.usefixtures("double_precision")
S, C = fad.SERVER, fad.CLIENTS
MODES = ("forward", "reverse", "mixed")
RNG = np.random.default_rng(0)
W, X = RNG.normal(size=3), RNG.normal(size=(5, 3))
SPECS = (jax.ShapeDtypeStruct((3,), np.float64), jax.ShapeDtypeStruct((3,), np.float64))


@fad.computation(w=S, x=C)
def fun(w, x):
    first = fad.mean(jnp.tanh(fad.broadcast(w, name="model") * x), name="first")
    return fad.mean(jnp.sum(jnp.cos(fad.broadcast(first + w) * x)), name="second") ** 2


def central(w, x):
    first = jnp.mean(jnp.tanh(w * x), 0)
    return jnp.mean(jnp.sum(jnp.cos((first + w) * x), 1)) ** 2


def close(got, expected, tolerance=1e-10):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


PAIRS = [
    pytest.param(*pair, marks=() if "mixed" in pair else pytest.mark.slow)
    for pair in itertools.product(MODES, MODES)
]


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_second_derivatives_by_composing_any_two_modes(outer, inner):
    hessian = fad.jacobian(fad.grad(fun, mode=inner), mode=outer)
    expected = jax.hessian(central)(W, X)
    close(fad.simulate(hessian)(W, X), expected, 1e-8)
    close(fad.execute(fad.trace(hessian, *SPECS), W, X), expected, 1e-8)


@pytest.mark.slow
def test_third_derivative():
    third = fad.jacobian(fad.jacobian(fad.grad(fun, mode="mixed"), mode="mixed"), mode="forward")
    close(fad.simulate(third)(W, X), jax.jacfwd(jax.hessian(central))(W, X), 1e-8)


@pytest.mark.parametrize("mode", MODES)
def test_value_and_grad_gives_both(mode):
    got = fad.simulate(fad.value_and_grad(fun, mode=mode))(W, X)
    close(got, jax.value_and_grad(central)(W, X))


@pytest.mark.parametrize("mode", ["forward", "mixed"])
def test_jvp_is_the_directional_derivative(mode):
    made = fad.jvp(fun, mode=mode)
    assert list(made.placements) == ["w", "x", "w_tangent"]
    direction = np.array([1.0, -2.0, 0.5])
    expected = jax.jvp(lambda w: central(w, X), (W,), (direction,))
    close(fad.simulate(made)(W, X, direction), expected)


@pytest.mark.parametrize("mode", ["reverse", "mixed"])
def test_vjp_pulls_a_cotangent_back(mode):
    made = fad.vjp(fun, mode=mode)
    value, gradient = fad.simulate(made)(W, X, jnp.asarray(3.0))
    close((value, gradient), (central(W, X), 3 * jax.grad(central)(W, X)))


@pytest.mark.parametrize("mode", MODES)
def test_several_arguments_and_trees_of_arguments(mode):
    @fad.computation(a=S, b=S, x=C)
    def two(a, b, x):
        p, scale = fad.broadcast((a["p"], b), name="both")
        return fad.sum(jnp.sum(jnp.sin(p * x) * scale), name="total") * a["q"]

    def oracle(a, b, x):
        return jnp.sum(jnp.sin(a["p"] * x) * b) * a["q"]

    args = ({"p": W, "q": jnp.asarray(2.0)}, jnp.asarray(0.3), X)
    got = fad.simulate(fad.grad(two, argnums=(0, 1), mode=mode))(*args)
    close(got, jax.grad(oracle, argnums=(0, 1))(*args))


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("mode", MODES)
def test_jacobian_of_a_tree_of_results(mode):
    @fad.computation(w=S, x=C)
    def results(w, x):
        a, b = fad.sum((jnp.sin(fad.broadcast(w) * x), jnp.sum(x)), name="sums")
        return {"vector": a * w[0], "scalar": b * w[1], "server": w**2}

    def oracle(w, x):
        a, b = jnp.sin(w * x).sum(0), jnp.sum(x)
        return {"vector": a * w[0], "scalar": b * w[1], "server": w**2}

    made = fad.jacobian(results, mode=mode)
    close(fad.simulate(made)(W, X), jax.jacobian(oracle)(W, X))
    close(fad.execute(fad.trace(made, *SPECS), W, X), jax.jacobian(oracle)(W, X))


def test_derivative_with_respect_to_a_client_argument_stays_at_the_clients():
    made = fad.grad(fun, argnums=1)
    program = fad.trace(made, *SPECS)
    assert program.out_placements == (C,)
    close(fad.execute(program, W, X), jax.grad(central, argnums=1)(W, X))
    close(fad.simulate(made)(W, X), jax.grad(central, argnums=1)(W, X))


def test_client_placed_results_carry_the_axis_of_clients():
    @fad.computation(w=S, x=C)
    def personal(w, x):
        received = fad.broadcast(w)
        return {"model": received - 0.1 * x, "seen": received, "mean": fad.mean(x)}

    expected = {"model": W - 0.1 * X, "seen": np.tile(W, (5, 1)), "mean": X.mean(0)}
    close(fad.simulate(personal)(W, X), expected)
    close(fad.execute(fad.trace(personal, *SPECS), W, X), expected)


@pytest.mark.parametrize("mode", MODES)
def test_derivative_through_simulate_equals_the_derivative_as_a_computation(mode):
    close(jax.grad(fad.simulate(fun))(W, X), fad.simulate(fad.grad(fun, mode=mode))(W, X))


def test_computation_is_callable_inside_another():
    @fad.computation(w=S, x=C)
    def outer(w, x):
        return jnp.log(1 + fun(w, x))

    close(
        fad.simulate(fad.grad(outer, mode="mixed"))(W, X),
        jax.grad(lambda w: jnp.log(1 + central(w, X)))(W),
    )


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


def clipping_computation(weight):
    @fad.computation(w=S, x=C)
    def made(w, x):
        return fad.sum(jnp.sum(clipped(fad.broadcast(w)) * x), name="loss") * weight

    return made


def test_mixed_mode_warns_of_a_custom_rule_that_is_not_linear():
    with pytest.warns(NonlinearRuleWarning, match="clip.*'loss'|'loss'.*clip"):
        fad.trace(fad.grad(clipping_computation(1.0), mode="mixed"), *SPECS)


def test_auto_avoids_a_mode_whose_numbers_would_differ():
    made = clipping_computation(0.5)
    got = fad.simulate(fad.grad(made, mode="auto"))(W, X)
    close(got, fad.simulate(fad.grad(made, mode="reverse"))(W, X))
    assert np.abs(got).max() <= 0.5


def test_mixed_mode_warns_of_a_large_jacobian_with_its_size():
    @fad.computation(w=S, x=C)
    def large(w, x):
        return jnp.sum(fad.sum(jnp.sin(fad.broadcast(w) * x), name="big") ** 2)

    spec = jax.ShapeDtypeStruct((3000,), np.float64)
    with pytest.warns(LargeJacobianWarning, match=r"3000 x 3000 = 9,000,000 .*'big'.*3,000"):
        fad.trace(fad.grad(large, mode="mixed"), spec, spec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fad.trace(fad.grad(large, mode="auto"), spec, spec).costs.up_bytes < 1e6


def test_cost_model_without_readdressing_never_chooses_reverse_with_state():
    @fad.computation(w=S, x=C)
    def large(w, x):
        total = fad.sum(jnp.sin(fad.broadcast(w) * x), name="big")
        return jnp.sum(total**2)

    cheap_state = CostModel(contact=0, state=0, up_byte=1, down_byte=1)
    specs = (jax.ShapeDtypeStruct((50,), np.float64),) * 2
    assert fad.plan(large, *specs, cost=cheap_state).mode == "reverse"
    strict = CostModel(contact=0, state=0, up_byte=1, down_byte=1, readdress=False)
    assert fad.plan(large, *specs, cost=strict).mode == "mixed"


def test_no_mode_at_all_lists_why_for_each():
    @fad.computation(w=S, x=C)
    def hard(w, x):
        body = lambda w: w - 0.1 * fad.sum(clipped(fad.broadcast(w)) * x)
        return jnp.sum(jax.lax.while_loop(lambda w: w[0] > 0, body, w))

    with pytest.raises(ModeError, match=r"mixed: .* \| forward: .* \| reverse: "):
        fad.trace(fad.grad(hard, mode="auto"), *SPECS)


def test_mixed_mode_refuses_a_solver_at_the_line_that_calls_it():
    @fad.computation(w=S, x=C)
    def solved(w, x):
        slope = lambda v: v + fad.mean(fad.broadcast(w) ** 2 * x**2 * fad.broadcast(v))
        return jnp.sum(cg(slope, w, maxiter=5)[0])

    line = solved.fun.__code__.co_firstlineno + 3
    with pytest.raises(ModeError, match=rf"data-dependent loop \(.*test_modes\.py:{line}:"):
        fad.trace(fad.grad(solved, mode="mixed"), *SPECS)


def test_scan_through_which_clients_carry_is_refused_by_mixed_mode():
    @fad.computation(w=S, x=C)
    def long(w, x):
        step = lambda c, _: ((c[0] - fad.sum(c[1]), c[1] * jnp.sin(fad.broadcast(c[0]))), None)
        return jnp.sum(jax.lax.scan(step, (w, x), None, length=2)[0][0])

    with pytest.raises(ModeError, match=r"test_modes\.py:.*Use mode='reverse'"):
        fad.trace(fad.grad(long, mode="mixed"), *SPECS)


@pytest.mark.parametrize("mode", MODES)
def test_a_thousand_rounds_are_a_loop_of_the_server(mode):
    @fad.computation(w=S, x=C)
    def long(w, x):
        # A slope that moves with the model: another would be asked for once, before the loop.
        step = lambda w, _: (w - 1e-3 * fad.mean(jnp.sin(fad.broadcast(w)) * x, name="step"), None)
        return jnp.sum(jax.lax.scan(step, w, None, length=1000)[0])

    program = fad.trace(fad.grad(long, mode=mode), *SPECS)
    assert len(program.schedule.items) < 12
    assert program.rounds >= 1000


@pytest.mark.parametrize("second", ["forward", "reverse", "mixed"])
def test_a_mixed_gradient_has_a_derivative_in_an_argument_that_it_is_no_gradient_in(second):
    @fad.computation(w=S, v=S, x=C)
    def loss(w, v, x):
        own = fad.mean(jnp.sin(fad.broadcast(w) * fad.broadcast(v) * x))
        return own**2 * fad.mean(jnp.cos(fad.broadcast(v) * x))

    def oracle(w, v):
        return jnp.mean(jnp.sin(w * v * x)) ** 2 * jnp.mean(jnp.cos(v * x))

    w, v, x = jnp.asarray(0.7), jnp.asarray(-1.3), jnp.linspace(-1.0, 2.0, 5)
    derivative = fad.grad(fad.grad(loss, 0, mode="mixed"), 1, mode=second)
    want = jax.grad(jax.grad(oracle, 0), 1)(w, v)
    np.testing.assert_allclose(fad.simulate(derivative)(w, v, x), want, rtol=1e-4)


@pytest.mark.parametrize("derive", [fad.grad, fad.value_and_grad])
def test_a_forward_gradient_has_the_dtype_of_its_argument(derive):
    @fad.computation(w=S, x=C)
    def loss(w, x):
        return fad.mean((fad.broadcast(w) * x).astype(jnp.float32) ** 2)

    w, x = jnp.asarray(0.5, jnp.float16), jnp.ones(3, jnp.float16)
    results = [fad.simulate(derive(loss, mode=mode))(w, x) for mode in ("forward", "reverse")]
    assert jax.tree.map(jnp.result_type, results[0]) == jax.tree.map(jnp.result_type, results[1])


def test_mixed_mode_of_a_sum_in_fewer_bits_than_what_was_broadcast():
    @fad.computation(w=S, x=C)
    def loss(w, x):
        return fad.sum((fad.broadcast(w) * x).astype(jnp.bfloat16)).astype(jnp.float32) ** 2

    w, x = jnp.asarray(0.5, jnp.float32), jnp.arange(1.0, 4.0)
    got = fad.simulate(fad.grad(loss, mode="mixed"))(w, x)
    np.testing.assert_allclose(got, 2 * 3.0 * 6.0, rtol=2e-2)
