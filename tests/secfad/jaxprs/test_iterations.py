"""A message inside of a loop is sent once in every iteration, whatever JAX moves."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.jaxprs.equations import COND, SCAN
from secfad.jaxprs.inside import any_inside, bodies
from secfad.jaxprs.iterations import iteration_p
from secfad.primitives import sum_p

S, C = fad.SERVER, fad.CLIENTS
LENGTH = 3
W, X = jnp.ones(2), jnp.linspace(1.0, 2.0, 8).reshape(4, 2)


def noisy(w, x):
    """A sum of what no loop changes: under noise every iteration gets another one."""
    return fad.sum(jnp.sin(x * fad.broadcast(w, name="model")), name="release")


@jax.custom_vjp
def ruled(w, x):
    return noisy(w, x)


ruled.defvjp(lambda w, x: (noisy(w, x), (w, x)), lambda kept, g: (g * noisy(*kept), None))


@jax.custom_jvp
def forward_ruled(w, x):
    return noisy(w, x)


@forward_ruled.defjvp
def _(primals, tangents):
    return noisy(*primals), tangents[0] * noisy(*primals)


def branched(w, x):
    return jax.lax.cond(w[0] > 0, noisy, lambda w, x: 2 * noisy(w, x), w, x)


def inner_loop(w, x):
    return jax.lax.scan(lambda c, _: (c * noisy(w, x), None), jnp.ones(2), length=1)[0]


def inner_while(w, x):
    """Nothing in it is differentiated, so that reverse mode exists."""
    w = jax.lax.stop_gradient(w)
    more = lambda c: (c[0] * noisy(w, x), c[1] + 1)
    return jax.lax.while_loop(lambda c: c[1] < 1, more, (jnp.ones(2), 0))[0]


MESSAGES = {
    "plain": noisy,
    "jit": jax.jit(noisy),
    "checkpoint": jax.checkpoint(noisy),
    "custom_vjp": ruled,
    "custom_jvp": forward_ruled,
    "cond": branched,
    "scan": inner_loop,
    "while": inner_while,
    "nested": jax.jit(lambda w, x: jax.checkpoint(inner_loop)(w, x)),
}

AROUND = {"plain": lambda fun: fun, "checkpoint": jax.checkpoint, "jit": jax.jit}
# JAX itself has no reverse mode of a checkpoint around a while loop with saved values.
CASES = [
    pytest.param(message, around, id=f"{message}-{around}")
    for message in MESSAGES
    for around in ("plain", "checkpoint")
    if (message, around) != ("while", "checkpoint")
]


def looped(message, around="plain"):
    """A loop of rounds whose messages no iteration changes."""

    def fun(w, x):
        step = lambda c, _: (jnp.tanh(c) * MESSAGES[message](w, x), None)
        return jax.lax.scan(step, w, length=LENGTH)[0].sum()

    return AROUND[around](fun)


def computation(fun):
    return fad.computation(w=S, x=C)(fun)


def releases(jaxpr, times=1):
    """How many sums called `release` a program sends at most."""
    found = 0
    for equation in jaxpr.eqns:
        if equation.primitive is sum_p and equation.params["name"] == "release":
            found += times
        rounds = times * equation.params["length"] if equation.primitive is SCAN else times
        inside = [releases(body, rounds) for body in bodies(equation)]
        found += max(inside, default=0) if equation.primitive is COND else sum(inside)
    return found


def sent(made, *specs):
    return releases(fad.trace(made, *(specs or (W, X[0]))).jaxpr.jaxpr)


@pytest.mark.parametrize(("message", "around"), CASES)
def test_reverse_mode_sends_as_many_sums_as_there_are_iterations(message, around):
    made = computation(looped(message, around))
    # A custom rule of these sends its sum for the value and again for the derivative.
    once = 2 if message.startswith("custom") else 1
    if message != "while":  # How often a while loop runs, nobody knows.
        assert fad.trace(made, W, X[0]).costs.sums == LENGTH
    assert sent(made) == LENGTH
    assert sent(fad.value_and_grad(made)) == once * LENGTH


@pytest.mark.parametrize(("message", "around"), CASES)
def test_own_reverse_mode_of_jax_does_so_too(message, around):
    if (message, around) == ("cond", "checkpoint"):
        pytest.skip("what JAX keeps of such a branch has no place, which is an error")
    fun = looped(message, around)
    once = 2 if message.startswith("custom") else 1
    made = computation(lambda w, x: jax.value_and_grad(fun)(w, x))
    assert sent(made) == once * LENGTH


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("message", ["plain", "scan", "cond", "nested"])
def test_forward_mode_and_second_derivatives_do_so_too(message):
    made = computation(looped(message))
    assert sent(fad.jvp(made), W, X[0], W) == LENGTH
    second = fad.jacobian(fad.grad(made), mode="forward")
    third = fad.jacobian(fad.grad(made), mode="reverse")
    assert sent(second) == sent(third) == LENGTH


def test_a_while_loop_in_forward_mode_keeps_its_messages():
    def fun(w, x):
        more = lambda c: (jnp.tanh(c[0]) * noisy(w, x), c[1] + 1)
        return jax.lax.while_loop(lambda c: c[1] < LENGTH, more, (w, 0))[0].sum()

    made = fad.jvp(computation(fun))
    program = fad.trace(made, W, X[0], W)
    assert releases(program.jaxpr.jaxpr) == 1
    assert not any(e.primitive is sum_p for e in program.jaxpr.jaxpr.eqns)


def test_sums_of_constants_stay_in_their_loop():
    def fun(w, x):
        step = lambda c, _: (c * fad.sum(jnp.ones(2), name="release") * noisy(w, x), None)
        return jax.lax.scan(step, w, length=LENGTH)[0].sum()

    assert sent(fad.value_and_grad(computation(fun))) == 2 * LENGTH


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("around", AROUND)
def test_bound_messages_are_the_values_and_derivatives_that_they_were(around):
    made = fad.value_and_grad(computation(looped("nested", around)))

    def centralised(w):
        total = jnp.sin(X * w).sum(0)
        c = w
        for _ in range(LENGTH):
            c = jnp.tanh(c) * total
        return c.sum()

    expected = jax.value_and_grad(centralised)(W)
    for got in (fad.simulate(made)(W, X), fad.execute(fad.trace(made, W, X[0]), W, X)):
        for a, b in zip(got, expected):
            np.testing.assert_allclose(a, b, rtol=1e-5)


def test_no_digest_sees_a_count():
    traced = fad.trace(fad.value_and_grad(computation(looped("nested", "checkpoint"))), W, X[0])
    assert not any_inside(traced.jaxpr.jaxpr, lambda e: e.primitive is iteration_p)


def test_no_name_of_jaxs_functions_matters(monkeypatch):
    loops = pytest.importorskip("jax._src.lax.control_flow.loops")
    known = getattr(loops, "_scan_known_hoisting", None)
    if known is None:
        pytest.skip("this JAX has no function of that name")
    code = known.__code__.replace(co_name="of_another_name")
    monkeypatch.setattr(loops, "_scan_known_hoisting", types.FunctionType(code, vars(loops)))
    assert sent(fad.value_and_grad(computation(looped("plain")))) == LENGTH


def test_loops_without_messages_are_left_alone():
    loop = lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, length=LENGTH)[0]
    (equation,) = jax.make_jaxpr(loop)(1.0).eqns
    assert len(equation.invars) == 1
