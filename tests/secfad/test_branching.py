"""Reverse mode through a server's choice of communicating branches, wherever the choice stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.simulation import fuse

S, C = fad.SERVER, fad.CLIENTS
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), jnp.float32)


class Federated:
    """The two means of the branches, over clients."""

    def sines(self, w, x):
        return fad.mean(jnp.sin(x * fad.broadcast(w)).sum())

    def squares(self, w, x):
        return fad.mean((x * fad.broadcast(w)).sum()) ** 2


class Centralised:
    """The same of stacked clients."""

    def sines(self, w, x):
        return jnp.sin(x * w).sum(1).mean()

    def squares(self, w, x):
        return (x * w).sum(1).mean() ** 2


def choice(means, w, x):
    return jax.lax.cond(w > 0.1, means.sines, means.squares, w, x)


def plain(means, w, x):
    return choice(means, w, x)


def in_scan(means, w, x):
    def body(w, _):
        value = choice(means, w, x)
        return 0.5 * w - value, value

    w, values = jax.lax.scan(body, w, length=3)
    return w + values.sum()


def in_nested_scans(means, w, x):
    def outer(w, _):
        return jax.lax.scan(lambda w, _: (0.5 * w - choice(means, w, x), w), w, length=2)

    w, values = jax.lax.scan(outer, w, length=2)
    return w * values.sum()


def in_checkpoint(means, w, x):
    return w + 2 * jax.checkpoint(lambda w: choice(means, w, x))(w)


def scan_in_checkpoint(means, w, x):
    return jax.checkpoint(lambda w: in_scan(means, w, x))(w)


def checkpoint_in_scan(means, w, x):
    def body(w, _):
        return 0.5 * w - jax.checkpoint(lambda w: choice(means, w, x))(w), None

    return jax.lax.scan(body, w, length=3)[0]


def branch_in_branch(means, w, x):
    return jax.lax.cond(w < 5, lambda w: choice(means, w, x), lambda w: w, w)


def with_numbers_and_loops(means, w, x):
    """Integer operands, and a loop that nobody differentiates in one branch."""

    def counted(w, k, x):
        factor = jax.lax.while_loop(lambda c: c < 3.0, lambda c: c * 1.5, 1.0 + k)
        return factor * means.sines(w, x)

    def other(w, k, x):
        return k * means.squares(w, x)

    return jax.lax.switch(jnp.int32(w > 0), [other, counted], w, 2, x)


PROGRAMS = [plain, in_scan, in_nested_scans, in_checkpoint, scan_in_checkpoint]
PROGRAMS += [checkpoint_in_scan, branch_in_branch, with_numbers_and_loops]


def computation(program):
    return fad.computation(w=S, x=C)(lambda w, x: program(Federated(), w, x))


@pytest.mark.parametrize(
    ("program", "mode"),
    [(program, "reverse") for program in PROGRAMS] + [(in_scan, "factored")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_derivative_equals_the_centralised_derivative(program, mode):
    w = jnp.float32(0.7)
    traced = fad.trace(fad.value_and_grad(computation(program), mode=mode), w, X[0])
    with jax.disable_jit():
        for at in (w, -w):
            got = fuse(traced)(at, X)
            expected = jax.value_and_grad(lambda v: program(Centralised(), v, X))(at)
            np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


def test_messages_are_those_of_the_branch_that_was_taken():
    traced = fad.trace(fad.grad(computation(in_scan)), X[0, 0], X[0])
    w = jnp.float32(0.7)
    expected = jax.grad(lambda v: in_scan(Centralised(), v, X))(w)
    np.testing.assert_allclose(fad.execute(traced, w, X), expected, rtol=2e-5)


@pytest.mark.parametrize("outer", ["forward", "reverse"])
def test_second_derivative(outer):
    w = jnp.float32(0.7)
    second = fad.trace(fad.grad(fad.grad(computation(in_scan)), mode=outer), w, X[0])
    expected = jax.grad(jax.grad(lambda v: in_scan(Centralised(), v, X)))(w)
    with jax.disable_jit():
        np.testing.assert_allclose(fuse(second)(w, X), expected, rtol=1e-4)


def test_jacobian_of_a_vector_result():
    def program(means, w, x):
        return jnp.stack([choice(means, w, x), jnp.sin(w)])

    traced = fad.trace(fad.jacobian(computation(program)), jnp.float32(0.7), X[0])
    expected = jax.jacobian(lambda v: program(Centralised(), v, X))(jnp.float32(0.7))
    with jax.disable_jit():
        np.testing.assert_allclose(fuse(traced)(jnp.float32(0.7), X), expected, rtol=2e-5)


def chosen_by_a_sum(means, w, x):
    """Nobody needs the value of the choice for its second derivative."""
    return jax.lax.cond(means.squares(w, x) > 0.01, means.sines, means.squares, w, x)


@pytest.mark.parametrize(("inner", "outer"), [("forward", "reverse"), ("reverse", "forward")])
def test_second_derivative_of_a_choice_whose_value_is_not_needed(inner, outer):
    gradient = fad.grad(computation(chosen_by_a_sum), mode=inner)
    second = fad.trace(fad.grad(gradient, mode=outer), jnp.float32(0.7), X[0])
    with jax.disable_jit():
        for w in (jnp.float32(0.7), jnp.float32(0.01)):
            expected = jax.grad(jax.grad(lambda v: chosen_by_a_sum(Centralised(), v, X)))(w)
            np.testing.assert_allclose(fuse(second)(w, X), expected, rtol=1e-4)


@pytest.mark.parametrize("outer", ["forward", "reverse", "mixed"])
def test_a_choice_that_only_the_outer_derivative_sees(outer):
    made = fad.computation(w=S, u=S, x=C)(
        lambda w, u, x: Federated().sines(w, x) * choice(Federated(), u, x)
    )
    cross = fad.jacobian(fad.grad(made, argnums=0), argnums=1, mode=outer)
    w, u = jnp.float32(0.3), jnp.float32(0.7)
    expected = jax.grad(Centralised().sines)(w, X) * jax.grad(
        lambda v: choice(Centralised(), v, X)
    )(u)
    with jax.disable_jit():
        np.testing.assert_allclose(fuse(fad.trace(cross, w, u, X[0]))(w, u, X), expected, rtol=1e-4)
