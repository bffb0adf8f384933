"""The dataflow engine: calls, branches and loops, on sets as bits."""

import jax
import jax.numpy as jnp
import pytest

import secfad as fad
from secfad.jaxprs.dataflow import Marks
from secfad.jaxprs.equations import view


def marks(fun, *given, specs=None):
    """What the results depend on, given the marks of scalar arguments."""
    specs = specs or [jax.ShapeDtypeStruct((), jnp.float32)] * len(given)
    return Marks().results(jax.make_jaxpr(fun)(*specs), given)


def rotated(a, b, c):
    step = lambda carry, _: ((carry[1], carry[2], carry[0]), carry[0])
    return jax.lax.scan(step, (a, b, c), None, length=9)


def never(a, b):
    return jax.lax.scan(lambda c, _: (b, None), a, None, length=0)[0]


def waiting(a, b, c):
    return jax.lax.while_loop(lambda s: s[0] < c, lambda s: (s[0] + 1, -s[1]), (a, b))


def chosen(a, b, c):
    return jax.lax.switch(jnp.int32(a), [lambda: (b, b), lambda: (c, -b)])


def messages(a, b):
    return fad.sum(fad.broadcast((a, b)))


@pytest.mark.parametrize(
    ("fun", "given", "expected"),
    [
        (rotated, [1, 2, 4], [7, 7, 7, 7]),
        (never, [1, 2], [3]),
        (waiting, [1, 2, 4], [5, 7]),
        (chosen, [1, 2, 4], [7, 3]),
        (messages, [1, 2], [1, 2]),
        (jax.jit(lambda a, b: (b, a)), [1, 2], [2, 1]),
        (jax.checkpoint(lambda a, b: (a * b, jnp.sin(b))), [1, 2], [3, 2]),
        (lambda a: jnp.zeros(()), [1], [0]),
    ],
)
def test_results_have_the_marks_of_what_they_depend_on(fun, given, expected):
    assert marks(fun, *given) == expected


def test_every_body_is_read_once_for_the_same_operands():
    class Counting(Marks):
        read = 0

        def transfer(self, equation, given):
            self.read += equation.primitive.name == "sin"
            return super().transfer(equation, given)

    inner = jax.jit(jnp.sin)
    analysis = Counting()
    body = jax.make_jaxpr(lambda a, b: (inner(a), inner(a), inner(b)))(1.0, 2.0)
    assert analysis.results(body, [1, 2]) == [1, 1, 2]
    assert analysis.read == 2


def test_what_enters_a_loop_is_what_enters_any_of_its_iterations():
    jaxpr = jax.make_jaxpr(rotated)(1.0, 2.0, 3.0).jaxpr
    (loop,) = map(view, jaxpr.eqns)
    assert Marks().entering(loop, [1, 2, 4]) == [7, 7, 7]


def test_variables_of_a_program_are_known():
    jaxpr = jax.make_jaxpr(lambda a, b: jnp.sin(a) * b)(1.0, 2.0).jaxpr
    known = Marks().variables(jaxpr, [1, 2])
    assert [known[v] for e in jaxpr.eqns for v in e.outvars] == [1, 3]
