"""Derivatives of a value that comes with `aux`, and of nothing; in every mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.errors import ArgumentError, ModeError

pytestmark = pytest.mark.usefixtures("double_precision")
S, C = fad.SERVER, fad.CLIENTS
MODES = ("forward", "reverse", "factored", "mixed", "blockwise", "auto")
RNG = np.random.default_rng(0)
W, V, X = (
    {"a": RNG.normal(size=3), "b": np.float64(0.4)},
    RNG.normal(size=3),
    RNG.normal(size=(5, 3)),
)
ONE = (W, V, X[0])


@fad.computation(w=S, v=S, x=C)
def audited(w, v, x):
    received = fad.broadcast(w, name="model")
    errors = jnp.tanh(received["a"] * x) + received["b"]
    # One sum for both, one for the value, and two for aux.
    first, spread = fad.mean((errors, jnp.sum(errors**2)), name="first")
    loss = fad.mean(jnp.sum(jnp.cos(fad.broadcast(first * v) * x)), name="second") ** 2
    moved, count = (
        fad.sum(jnp.sin(errors), name="moved"),
        fad.sum(jnp.sum(errors > 0), name="count"),
    )
    return loss, {"spread": spread, "moved": [moved, w["b"]], "count": count, "none": None}


def central(w, v, x):
    errors = jnp.tanh(w["a"] * x) + w["b"]
    loss = jnp.mean(jnp.sum(jnp.cos(jnp.mean(errors, 0) * v * x), 1)) ** 2
    aux = {"spread": jnp.mean(jnp.sum(errors**2, 1)), "moved": [jnp.sin(errors).sum(0), w["b"]]}
    return loss, aux | {"count": jnp.sum(errors > 0), "none": None}


value_alone = fad.computation(w=S, v=S, x=C)(lambda w, v, x: audited(w, v, x)[0])


def close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9), got, expected)


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("mode", MODES[:-1])
def test_aux_comes_with_the_centralised_value_and_gradient(mode):
    made = fad.value_and_grad(audited, (0, 1), has_aux=True, mode=mode)
    expected = jax.value_and_grad(central, (0, 1), has_aux=True)(W, V, X)
    close(fad.simulate(made)(W, V, X), expected)
    close(fad.execute(fad.trace(made, *ONE), W, V, X), expected)


@pytest.mark.parametrize("mode", ["reverse", "mixed"])
def test_aux_comes_beside_gradients_and_jacobians(mode):
    expected = jax.grad(central, has_aux=True)(W, V, X)
    for derive in (fad.grad, fad.jacobian):
        close(fad.simulate(derive(audited, has_aux=True, mode=mode))(W, V, X), expected)


@pytest.mark.parametrize("mode", MODES[:-1])
def test_aux_costs_its_own_messages_and_no_more(mode):
    plain = fad.trace(fad.value_and_grad(value_alone, (0, 1), mode=mode), *ONE).costs
    with_aux = fad.trace(fad.value_and_grad(audited, (0, 1), has_aux=True, mode=mode), *ONE).costs
    # The spread in the message of the first mean, three entries of `moved`, and one count.
    assert with_aux.up_bytes - plain.up_bytes == 8 + 3 * 8 + jnp.int_(0).dtype.itemsize
    assert with_aux.down_bytes == plain.down_bytes
    assert with_aux.state_bytes == plain.state_bytes
    assert with_aux.contacts == plain.contacts


SMALL = np.array([0.5, -1.0])
DATA = RNG.normal(size=(5, 2))


@fad.computation(w=S, x=C)
def later(w, x):
    """One contact for the loss, one more for aux."""
    received = fad.broadcast(w, name="model")
    loss = fad.mean(jnp.sum(jnp.sin(received) * x) ** 2, name="loss") ** 2
    return loss, fad.sum(fad.broadcast(loss, name="loss") * received * x, name="later")


def central_later(w, x):
    loss = jnp.mean(jnp.sum(jnp.sin(w) * x, 1) ** 2) ** 2
    return loss, (loss * w * x).sum(0)


@pytest.mark.parametrize("mode", MODES[:-1])
def test_a_contact_for_aux_costs_the_gradient_nothing(mode):
    alone = fad.computation(w=S, x=C)(lambda w, x: later(w, x)[0])
    plain = fad.trace(fad.value_and_grad(alone, mode=mode), SMALL, DATA[0]).costs
    made = fad.trace(fad.value_and_grad(later, has_aux=True, mode=mode), SMALL, DATA[0]).costs
    assert (plain.contacts, made.contacts) == (1, 2)
    assert made.up_bytes - plain.up_bytes == 2 * 8
    assert made.down_bytes - plain.down_bytes == 8


@pytest.mark.sample(quick=0)
@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("mixed", "reverse"),
        ("reverse", "mixed"),
        pytest.param("forward", "factored", marks=pytest.mark.slow),
        pytest.param("reverse", "forward", marks=pytest.mark.slow),
    ],
)
def test_second_derivatives_carry_aux_or_differentiate_it(outer, inner):
    gradient = fad.grad(later, has_aux=True, mode=inner)
    central_gradient = jax.grad(central_later, has_aux=True)
    hessian = fad.jacobian(gradient, has_aux=True, mode=outer)
    expected = jax.jacfwd(central_gradient, has_aux=True)(SMALL, DATA)
    close(fad.simulate(hessian)(SMALL, DATA), expected)
    close(fad.execute(fad.trace(hessian, SMALL, DATA[0]), SMALL, DATA), expected)
    both = fad.simulate(fad.jacobian(gradient, mode=outer))(SMALL, DATA)
    close(both, jax.jacfwd(central_gradient)(SMALL, DATA))


@fad.computation(w=S, x=C)
def personal(w, x):
    received = fad.broadcast(w)
    return fad.mean(jnp.sum(received * x) ** 2), {"own": received * x, "clients": fad.sum(1)}


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("mode", ["forward", "reverse", "factored", "auto"])
def test_aux_of_the_clients_stays_there(mode):
    program = fad.trace(fad.grad(personal, has_aux=True, mode=mode), SMALL, DATA[0])
    assert program.out_placements[-1] is C
    gradient = jax.grad(lambda w: jnp.mean(jnp.sum(w * DATA, 1) ** 2))(SMALL)
    expected = gradient, {"own": SMALL * DATA, "clients": 5}
    close(fad.execute(program, SMALL, DATA), expected)


def test_mixed_mode_has_no_client_aux_that_depends_on_what_is_differentiated():
    for mode in ("mixed", "blockwise"):
        with pytest.raises(ModeError, match="returns a client value"):
            fad.trace(fad.grad(personal, has_aux=True, mode=mode), SMALL, DATA[0])


@pytest.mark.parametrize("mode", MODES)
def test_a_value_with_aux_and_has_aux_go_together(mode):
    with pytest.raises(ArgumentError, match=r"\(float64\[\], float64\[2\]\). Use has_aux=True if"):
        fad.simulate(fad.grad(later, mode=mode))(SMALL, DATA)
    alone = fad.computation(w=S, x=C)(lambda w, x: later(w, x)[1])
    with pytest.raises(ArgumentError, match=r"a pair `\(value, aux\)` .* got float64\[2\]"):
        fad.simulate(fad.grad(alone, has_aux=True, mode=mode))(SMALL, DATA)
    swapped = fad.computation(w=S, x=C)(lambda w, x: later(w, x)[::-1])
    with pytest.raises(ArgumentError, match=r"one real floating-point scalar .* float64\[2\]"):
        fad.simulate(fad.grad(swapped, has_aux=True, mode=mode))(SMALL, DATA)


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("mode", MODES)
def test_the_derivative_in_an_empty_tree_is_empty(mode):
    pair = fad.computation(w=S, e=S, x=C)(lambda w, e, x: later(w, x))
    loss = fad.computation(w=S, e=S, x=C)(lambda w, e, x: later(w, x)[0])
    value, aux = central_later(SMALL, DATA)
    for derive, made, options, expected in (
        (fad.grad, loss, {}, {}),
        (fad.value_and_grad, loss, {}, (value, {})),
        (fad.jacobian, pair, {}, ({}, {})),
        (fad.grad, pair, {"has_aux": True}, ({}, aux)),
        (fad.jacobian, pair, {"has_aux": True}, ({}, aux)),
    ):
        close(fad.simulate(derive(made, 1, mode=mode, **options))(SMALL, {}, DATA), expected)


@fad.computation(w=S, x=C)
def with_large_aux(w, x):
    received = fad.broadcast(w)
    loss, shared = fad.mean((jnp.sum(received * x) ** 2, jnp.sin(received * x)), name="both")
    return loss**2, (shared, fad.sum(jnp.cos(received * x), name="own"))


@pytest.mark.parametrize("mode", ["mixed", "blockwise", "auto"])
def test_the_size_of_aux_is_no_reason_for_a_warning_or_another_contact(mode):
    spec = jax.ShapeDtypeStruct((3000,), np.float64)
    # Its Jacobian would be 3000 x 3000: a warning of it would be an error here.
    program = fad.trace(fad.grad(with_large_aux, has_aux=True, mode=mode), spec, spec)
    assert program.costs.contacts == 1
    assert program.costs.up_bytes == 8 * (1 + 3 * 3000)
