"""Mutable references are refused at the user's line, wherever they are, in every mode."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.errors import ArgumentError, TracingError

S, C = fad.SERVER, fad.CLIENTS
W, X = jnp.ones(2), jnp.arange(12.0).reshape(4, 3)


def held(value):
    kept = jax.new_ref(value)
    kept[...] = 2 * kept[...]
    return kept[...]


def at_clients(w, x):
    return fad.mean(held(fad.broadcast(w)) * x.sum())


def at_the_server(w, x):
    return held(w) + fad.mean(x.sum())


def carries_a_server_value(w, x):
    kept = jax.new_ref(jnp.zeros(2))
    kept[...] = w
    return fad.mean(kept[...] * x.sum())


def in_a_loop(w, x):
    total = jax.new_ref(fad.broadcast(w))

    def add(i, _):
        total[...] += x[i]

    jax.lax.fori_loop(0, 3, add, None)
    return fad.mean(jax.freeze(total))


def in_a_call(w, x):
    return fad.mean(jax.jit(held)(fad.broadcast(w)) * x.sum())


def in_a_gradient(w, x):
    return fad.mean(jax.grad(lambda w: held(w).sum() * x.sum())(fad.broadcast(w)))


def in_a_branch(w, x):
    return fad.mean(jax.lax.cond(x[0] > 1, held, jnp.sin, fad.broadcast(w)))


PROGRAMS = (
    at_clients,
    at_the_server,
    carries_a_server_value,
    in_a_loop,
    in_a_call,
    in_a_gradient,
    in_a_branch,
)
DERIVED = {
    "value": lambda f: f,
    **{
        mode: lambda f, mode=mode: fad.jacobian(f, mode=mode)
        for mode in ("forward", "reverse", "mixed", "auto")
    },
}


@pytest.mark.parametrize("fun", PROGRAMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("mode", DERIVED)
def test_a_reference_is_refused_at_its_line(fun, mode):
    made = DERIVED[mode](fad.computation(w=S, x=C)(fun))
    words = r"test_references.py:(\d+):.*mutable reference.*x\.at\[\.\.\.\]\.set"
    for run in (lambda: fad.simulate(made)(W, X), lambda: fad.trace(made, W, X[0])):
        with pytest.raises(TracingError, match=words) as raised:
            run()
    line = int(str(raised.value).split(":")[1])
    assert any(
        start <= line < start + len(lines)
        for lines, start in map(inspect.getsourcelines, (fun, held))
    )


@pytest.mark.parametrize("use", ["read", "written"])
def test_a_captured_reference_is_refused(use):
    outside = jax.new_ref(jnp.zeros(2))

    @fad.computation(w=S, x=C)
    def uses(w, x):
        if use == "written":
            outside[...] = w
            return fad.mean(x.sum())
        return fad.mean(x.sum()) + outside[...]

    with pytest.raises(TracingError, match=r"uses\): `uses` .*mutable reference"):
        fad.simulate(uses)(W, X)


@pytest.mark.parametrize("argument", ["w", "x"])
def test_a_reference_as_an_argument_is_refused(argument):
    scaled = fad.computation(w=S, x=C)(lambda w, x: fad.mean(fad.broadcast(w).sum() * x))
    program = fad.trace(scaled, W, X[0])
    of_one, of_all = {"w": W, "x": X[0]}, {"w": W, "x": X}
    for arguments in (of_one, of_all):
        arguments[argument] = jax.new_ref(arguments[argument])
    words = rf"`{argument}`, got a mutable reference.*ref\[\.\.\.\]"
    for run in (
        lambda: fad.trace(scaled, *of_one.values()),
        lambda: fad.simulate(scaled)(*of_all.values()),
        lambda: fad.execute(program, *of_all.values()),
        lambda: jax.jit(fad.simulate(scaled))(*of_all.values()),
    ):
        with pytest.raises(ArgumentError, match=words):
            run()


def test_references_outside_of_a_computation_are_the_users_own():
    scaled = fad.computation(w=S, x=C)(lambda w, x: fad.mean(fad.broadcast(w).sum() * x))
    kept = jax.new_ref(W)

    @jax.jit
    def step(x):
        kept[...] = kept[...] + fad.simulate(scaled)(kept[...], x).sum()

    step(X)
    np.testing.assert_allclose(kept[...], W + 2 * X.mean(0).sum())


def test_a_kernel_with_references_inside_is_a_function_of_arrays():
    pallas = pytest.importorskip("jax.experimental.pallas")

    def double(x_ref, o_ref):
        o_ref[...] = 2 * x_ref[...]

    call = pallas.pallas_call(double, jax.ShapeDtypeStruct((3,), jnp.float32), interpret=True)
    doubled = fad.computation(w=S, x=C)(lambda w, x: w[0] * fad.sum(call(x)))
    np.testing.assert_allclose(fad.simulate(doubled)(W, X), 2 * X.sum(0))
