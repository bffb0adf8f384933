"""Mixed and blockwise mode through a server's choice between client values."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from branching_programs import Centralised, Federated, client_state

import secfad as fad
from secfad.engines.simulation import fuse
from secfad.jaxprs.equations import bodies

S, C = fad.SERVER, fad.CLIENTS
RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(5, 3)), RNG.normal(size=3)
pytestmark = pytest.mark.usefixtures("double_precision", "quick_compilation")


def error(v, x):
    return jnp.sum(jnp.tanh(v * x))


def broadcasts_only(means, w, s, x):
    v = jax.lax.cond(s > 0, lambda: means.broadcast(2 * w), lambda: means.broadcast(jnp.sin(w)))
    return means.mean(error, v, x)


def three_kinds(means, w, s, x):
    """A value of the server, one that clients compute from it, and one that both sides know."""
    own = means.client(jnp.multiply, means.broadcast(w), x)
    branches = [
        lambda own: (own, means.broadcast(w[0]), w),
        lambda own: (means.broadcast(w**2), means.broadcast(jnp.asarray(1.5)), w**2),
        lambda own: (
            means.client(lambda w, x: x * w.sum(), means.broadcast(w), x),
            means.client(jnp.sum, x),
            w * means.mean(error, own, x),
        ),
    ]
    v, scale, kept = jax.lax.switch(jnp.int32(s > 0) + jnp.int32(s > 1), branches, own)
    return means.mean(lambda v, a, x: error(v * a, x), v, scale, x) * kept.sum()


def in_scan(means, w, s, x):
    def body(w, i):
        step = broadcasts_only(means, w, s - i, x) + three_kinds(means, w, s, x)
        return w - 0.1 * jnp.cos(w) * step, w.sum()

    w, sums = jax.lax.scan(body, w, jnp.arange(3))
    return w.sum() * sums.sum()


def sums_in_nested_branches(means, w, s, x):
    """A branch adds up, broadcasts what it found, and ends in another choice."""

    def first():
        v = means.broadcast(2 * w)
        found = means.broadcast(means.mean(error, v, x))
        return means.client(jnp.multiply, v, found)

    def second():
        return jax.lax.cond(
            s > -1,
            lambda: means.broadcast(w * means.mean(error, means.broadcast(w), x)),
            lambda: means.client(jnp.sin, means.broadcast(w**3)),
        )

    return means.mean(error, jax.lax.cond(s > 0, first, second), x)


def kept_of_a_loop(means, w, s, x):
    """Clients carry through rounds inside a branch what is not differentiated."""

    def rounds(v):
        def body(c, _):
            total = means.broadcast(means.mean(jnp.sum, c))
            return means.client(jnp.add, c, total), None

        return means.client(jnp.multiply, v, jax.lax.scan(body, x, length=2)[0])

    v = means.client(jnp.multiply, means.broadcast(w), x)
    return means.mean(error, jax.lax.cond(s > 0, rounds, lambda v: v, v), x)


def rounds_that_carry(means, w, s, x):
    return client_state(means, w.sum() * jnp.sign(s), x)


QUICK = [in_scan, sums_in_nested_branches, kept_of_a_loop]
PROGRAMS = [*QUICK, broadcasts_only, three_kinds, rounds_that_carry]
CASES = [
    pytest.param(
        program,
        mode,
        marks=() if mode == "mixed" and program in QUICK else (pytest.mark.slow,),
        id=f"{program.__name__}-{mode}",
    )
    for program in PROGRAMS
    for mode in ("mixed", "blockwise")
]


def computation(program):
    return fad.computation(w=S, s=S, x=C)(lambda w, s, x: program(Federated(), w, s, x))


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for body in bodies(equation):
            yield from primitives(body)


def assert_right(derivative, oracle):
    traced = fad.trace(derivative, W, 0.0, X[0])
    assert not [name for name in primitives(traced.jaxpr.jaxpr) if name.startswith("psum")]
    for s in (1.5, 0.5, -0.5, -1.5):
        with jax.disable_jit():
            expected = oracle(jnp.asarray(W), s)
        for got in (fuse(traced)(W, s, X), fad.execute(traced, W, s, X)):
            np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("program", "mode"), CASES)
def test_gradient_through_a_choice_of_client_values_is_the_centralised_one(program, mode):
    oracle = jax.grad(lambda w, s: program(Centralised(len(X)), w, s, X))
    assert_right(fad.grad(computation(program), mode=mode), oracle)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        *itertools.product(["mixed", "blockwise"], ["forward", "reverse", "mixed"]),
        ("reverse", "mixed"),
    ],
)
@pytest.mark.parametrize("program", [three_kinds, sums_in_nested_branches])
def test_second_derivatives_through_a_choice_of_client_values(program, inner, outer):
    oracle = jax.jacfwd(jax.grad(lambda w, s: program(Centralised(len(X)), w, s, X)))
    assert_right(fad.jacobian(fad.grad(computation(program), mode=inner), mode=outer), oracle)


def test_branches_that_end_in_broadcasts_share_one_message_and_need_no_other():
    gradient = fad.trace(fad.grad(computation(broadcasts_only), mode="mixed"), W, 0.0, X[0])
    assert gradient.rounds == 1
    assert gradient.costs.down_bytes == W.nbytes
