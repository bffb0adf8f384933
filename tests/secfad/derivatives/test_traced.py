"""A derivative traces the user's function once; JAX differentiates the program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad

S, C = fad.SERVER, fad.CLIENTS
W, X = jnp.asarray([0.3, -0.2, 0.5]), jnp.arange(12.0).reshape(4, 3) / 10


def one_contact(w, x):
    return fad.mean(jnp.sum(jnp.sin(x * fad.broadcast(w))), name="loss")


def two_contacts(w, x):
    return fad.mean(jnp.sum(jnp.sin(x * fad.broadcast(w * one_contact(w, x)))), name="second")


def branches(w, x):
    return jax.lax.cond(w[0] > 0, lambda w: one_contact(w, x), lambda w: w.sum(), w)


def counted(fun, has_aux=False):
    """The computation, and a list with an entry for every call of its function."""
    calls = []

    def noted(w, x):
        calls.append(None)
        value = fun(w, x)
        return (value, {"twice": 2 * value}) if has_aux else value

    return fad.computation(w=S, x=C)(noted), calls


MODES = ("forward", "reverse", "factored", "mixed", "blockwise", "auto")


@pytest.mark.sample(quick=12)
@pytest.mark.parametrize("has_aux", [False, True], ids=["alone", "aux"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fun", [one_contact, two_contacts, branches])
def test_the_function_is_called_once_however_it_is_differentiated(fun, mode, has_aux):
    for derive in (fad.grad, fad.value_and_grad, fad.jacobian):
        computation, calls = counted(fun, has_aux)
        fad.trace(derive(computation, mode=mode, has_aux=has_aux), W, X[0])
        assert len(calls) == 1


@pytest.mark.parametrize(
    ("derive", "mode", "further"),
    [(fad.jvp, mode, W) for mode in ("forward", "mixed")]
    + [(fad.vjp, mode, 1.0) for mode in MODES[1:5]],
)
def test_the_function_is_called_once_for_products_with_its_jacobian(derive, mode, further):
    computation, calls = counted(two_contacts)
    fad.trace(derive(computation, mode=mode), W, X[0], further)
    assert len(calls) == 1


@pytest.mark.parametrize("outer", MODES[:4])
@pytest.mark.parametrize("inner", MODES[:4])
def test_the_function_is_called_once_for_a_second_derivative(inner, outer):
    computation, calls = counted(one_contact)
    fad.trace(fad.jacobian(fad.grad(computation, mode=inner), mode=outer), W, X[0])
    assert len(calls) == 1


def test_values_of_an_outer_trace_have_their_derivatives_in_an_inner_computation():
    """The traced program captures a value that is itself differentiated."""

    @fad.computation(w=S, x=C)
    def slope(w, x):
        closed = fad.computation(v=S, x=C)(lambda v, x: one_contact(v * w, x))
        return jnp.sum(fad.grad(closed)(w, x))

    def central(w):
        value = lambda v: jnp.mean(jnp.sum(jnp.sin(X * v * w), 1))
        return jnp.sum(jax.grad(value)(w))

    for mode in ("forward", "reverse"):
        found = fad.simulate(fad.grad(slope, mode=mode))(W, X)
        np.testing.assert_allclose(found, jax.grad(central)(W), rtol=1e-5)


def test_derivative_rules_of_the_function_are_those_of_the_program():
    @jax.custom_vjp
    def identity(x):
        return x

    identity.defvjp(lambda x: (x, None), lambda _, g: (3 * g,))
    computation = fad.computation(w=S, x=C)(lambda w, x: one_contact(identity(w), x))
    plain = fad.computation(w=S, x=C)(one_contact)
    found, expected = (fad.simulate(fad.grad(c))(W, X) for c in (computation, plain))
    np.testing.assert_allclose(found, 3 * expected, rtol=1e-5)


def test_a_computation_of_a_user_is_a_function_with_placements():
    fields = {"fun", "placements", "name", "defaults", "made"}
    assert set(fad.Computation.__dataclass_fields__) == fields
