"""Operations of one form are one program, whose derivative JAX makes once; nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad._jax_interpreters import local_primitive
from secfad.jaxprs.digests import canonical
from secfad.jaxprs.repeats import with_shared_operations

X = jnp.asarray([0.5, -1.0])
NEGATIVE_ZERO = np.float32(-0.0)


def programs_called(fun, *args):
    """How many different programs the calls of a program have, and how many calls there are."""
    shared = with_shared_operations(jax.make_jaxpr(fun)(*args), often=1)
    calls = [e.params["jaxpr"] for e in shared.eqns if e.primitive.name == "jit"]
    return len({id(body) for body in calls}), len(calls)


def padded(x, filling):
    return jax.lax.pad(x, filling, [(1, 0, 0)])


ONE_FORM = {
    "operands": lambda x: (jnp.sin(x), jnp.sin(2 * x)),
    "literals": lambda x: (x * 2, x * 2),
    "reductions": lambda x: (x.sum(), (x * 3).sum()),
}
TWO_FORMS = {
    "repeated operand": lambda x: (jax.lax.mul(x, x), jax.lax.mul(x, x + 1)),
    "literals": lambda x: (x * 2.0, x * 3.0),
    "zeros": lambda x: (padded(x, np.float32(0)), padded(x, NEGATIVE_ZERO)),
    "shapes": lambda x: (jnp.sin(x), jnp.sin(x[0])),
    "parameters": lambda x: (jax.lax.integer_pow(x, 2), jax.lax.integer_pow(x, 3)),
    "dtypes": lambda x: (x.astype(jnp.int32), x.astype(jnp.int8)),
}


@pytest.mark.parametrize("fun", ONE_FORM.values(), ids=ONE_FORM)
def test_equations_of_one_form_call_one_program(fun):
    programs, calls = programs_called(fun, X)
    assert programs < calls


@pytest.mark.parametrize("fun", TWO_FORMS.values(), ids=TWO_FORMS)
def test_equations_that_differ_call_programs_of_their_own(fun):
    programs, calls = programs_called(fun, X)
    assert programs == calls > 1


def test_contexts_of_equations_are_kept():
    def fun(key):
        with jax.threefry_partitionable(True):
            one = jax.random.bits(key)
        with jax.threefry_partitionable(False):
            return one, jax.random.bits(key)

    assert programs_called(fun, jax.random.key(0)) == (2, 2)


def test_messages_calls_control_flow_and_effects_stay_as_they_are():
    def fun(x):
        jax.debug.print("{}", x)
        total = fad.sum(fad.broadcast(x))
        return jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, jax.nn.relu(total))

    names = [e.primitive.name for e in jax.make_jaxpr(fun)(X).eqns]
    shared = with_shared_operations(jax.make_jaxpr(fun)(X), often=1)
    kept = [e.primitive.name for e in shared.eqns if e.primitive.name != "jit"]
    found = ("federated_broadcast", "federated_sum", "cond", "custom_jvp_call")
    assert set(found) <= set(kept)
    assert len(shared.eqns) == len(names)
    assert any(e.effects for e in shared.eqns if e.primitive.name != "jit")


@pytest.mark.parametrize("derive", [jax.grad, jax.hessian, jax.jacfwd, lambda f: f])
def test_what_jax_makes_of_it_is_the_same_program(derive):
    def loss(x):
        for scale in (1.0, 2.0, -0.0, 0.0):
            x = jnp.tanh(x * scale + x) / jnp.maximum(x**2, 1.0)
        return x.sum()

    plain = jax.make_jaxpr(loss)(X)
    shared = with_shared_operations(plain, often=1)
    run = lambda closed: lambda x: jax.core.eval_jaxpr(closed.jaxpr, closed.consts, x)[0]
    found, expected = (jax.make_jaxpr(derive(run(c)))(X) for c in (shared, plain))
    assert canonical(found) == canonical(expected)


def test_lines_and_names_are_those_of_each_equation():
    def fun(x):
        with jax.named_scope("first"):
            x = jnp.sin(x)
        with jax.named_scope("second"):
            return jnp.sin(x)

    shared = with_shared_operations(jax.make_jaxpr(fun)(X), often=1)
    made = jax.make_jaxpr(lambda x: jax.core.eval_jaxpr(shared.jaxpr, (), x))(X)
    assert [str(e.source_info.name_stack) for e in made.eqns] == ["first", "second"]
    lines = [fad._jax.user_line(e) for e in made.eqns]
    assert lines[0] != lines[1]
    assert all("test_repeats.py" in line for line in lines)


def test_the_derivative_of_a_form_is_made_once_however_often_it_is_repeated():
    def asked(times):
        """How often JAX evaluates the reference of an operation, to trace and to differentiate."""
        calls = []

        def reference(x):
            calls.append(None)
            return [jnp.sin(x)]

        noted = local_primitive("noted", reference)

        @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
        def total(w, x):
            value = fad.broadcast(w) * x
            for _ in range(times):
                (value,) = noted.bind(value)
            return fad.sum(value)

        fad.trace(fad.grad(total), 1.0, 1.0)
        return len(calls)

    assert asked(24) == asked(12)


def test_nothing_is_shared_where_calls_are_disabled():
    program = jax.make_jaxpr(lambda x: jnp.sin(jnp.sin(jnp.sin(x))))(1.0)
    with jax.disable_jit():
        same = with_shared_operations(program, often=2)
        (value,) = jax.core.eval_jaxpr(same.jaxpr, same.consts, 0.5)
    assert value == jnp.sin(jnp.sin(jnp.sin(0.5)))
    assert all(e.primitive.name == "sin" for e in same.eqns)
