"""Views of equations: regions, their order, and rebuilt equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kinds_of_equations import PROGRAMS, X

import secfad as fad
from secfad import _jax
from secfad._jax import ClosedJaxpr, Var
from secfad.jaxprs.equations import Call, Cond, Message, Plain, Scan, While, view
from secfad.jaxprs.inside import any_inside, communicates, every_equation, with_bodies
from secfad.jaxprs.rewriting import Rewriter, renamed

CALLS = ["solve", "jit", "remat", "custom_jvp", "custom_vjp"]


def traced(name):
    """The program of a name, and the view of the equation that it is about."""
    fun, kind = PROGRAMS[name]
    closed = jax.make_jaxpr(fun)(X)
    return closed, [v for v in map(view, closed.jaxpr.eqns) if type(v) is kind][-1]


def require_same(closed, equation, replacement):
    """Checks that the program means the same with one equation replaced."""
    eqns = [replacement if e is equation else e for e in closed.jaxpr.eqns]
    changed = _jax.eval_jaxpr(closed.jaxpr.replace(eqns=eqns), closed.consts, X)
    for got, expected in zip(changed, _jax.eval_jaxpr(closed.jaxpr, closed.consts, X)):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_equation_rebuilt_from_its_regions_means_the_same(name):
    closed, viewed = traced(name)
    match viewed:
        case Scan(consts=consts, carry=carry, xs=xs):
            made = viewed.with_(body=renamed(viewed.body), consts=consts, carry=carry, xs=xs)
        case While(predicate=predicate, carry=carry):
            made = viewed.with_(predicate=renamed(predicate), carry=carry)
        case Cond(branches=branches):
            made = viewed.with_(branches=[renamed(b) for b in branches])
        case Call(body=body):
            made = viewed.with_(body=renamed(body))
    require_same(closed, viewed.equation, made)


@pytest.mark.parametrize("name", ["scan", "while"])
def test_regions_in_order_are_the_operands(name):
    _, viewed = traced(name)
    numbers = list(range(len(viewed.equation.invars)))
    assert [i for part in viewed.split(numbers) for i in part] == numbers


@pytest.mark.parametrize("name", CALLS)
def test_the_operands_of_a_call_fit_its_body(name):
    _, viewed = traced(name)
    assert viewed.split(viewed.equation.invars) == viewed.operands
    assert [v.aval for v in viewed.operands] == [v.aval for v in viewed.body.jaxpr.invars]


def test_a_loop_takes_a_further_constant():
    closed, loop = traced("scan")
    extra = Var(loop.carry[0].aval)
    first, carry, xs = loop.split(loop.body.jaxpr.invars)
    body = loop.body.jaxpr.replace(invars=[*first, extra, *carry, *xs])
    consts = [*loop.consts, loop.carry[0]]
    made = loop.with_(body=ClosedJaxpr(body, loop.body.consts), consts=consts)
    assert [len(part) for part in view(made).split(made.invars)] == [len(consts), 1, 1]
    require_same(closed, loop.equation, made)


def test_messages_are_found_at_any_depth():
    fun = lambda x: jax.lax.fori_loop(0, 3, lambda i, c: fad.sum(fad.broadcast(c, name="m")), x)
    jaxpr = jax.make_jaxpr(fun)(X).jaxpr
    assert communicates(jaxpr.eqns[-1])
    assert communicates.in_jaxpr(jaxpr)
    names = [view(e).name for e, _ in every_equation(jaxpr) if isinstance(view(e), Message)]
    assert names[0] == "m"
    assert len(names) == 2
    quiet = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, c: jnp.sin(c), x))(X).jaxpr
    assert not communicates.in_jaxpr(quiet)
    assert any_inside(quiet, lambda e: e.primitive.name == "sin")


def test_every_branch_is_changed_in_order():
    _, viewed = traced("cond")
    seen = []
    with_bodies(viewed.equation, lambda body: seen.append(body) or body)
    assert seen == [b.jaxpr for b in viewed.branches]
    assert type(view(seen[0].eqns[0])) is Plain


def test_a_body_may_share_variables_with_the_program_around_it():
    shared = jax.make_jaxpr(lambda x: jnp.sin(x) * 2)(1.0)
    rewriter = Rewriter()
    rewriter.read(shared.jaxpr)
    kept = rewriter.now(shared.jaxpr.outvars)
    rewriter.inline(shared, kept)
    assert rewriter.now(shared.jaxpr.outvars) == kept


def test_a_called_function_is_emitted_with_its_constants():
    closed = jax.make_jaxpr(jnp.sin)(X)
    rewriter = Rewriter()
    rewriter.read(closed.jaxpr)
    results = rewriter.call(lambda y: 2 * y + X, *rewriter.now(closed.jaxpr.outvars))
    made = rewriter.program(closed.jaxpr.invars, results)
    (got,) = _jax.eval_jaxpr(made.jaxpr, made.consts, X)
    np.testing.assert_allclose(got, 2 * np.sin(X) + X, rtol=1e-6)
