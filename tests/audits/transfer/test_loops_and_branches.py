"""Loops and branches with messages: their number, their order, and loops that the walk gives up."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import audits
import secfad as fad
from audits.transfer.interpreter import Checker
from audits.transfer.labels import Label, Place, data_axes
from audits.transfer.styles import STYLES
from audits.transfer.transfer import TRANSFER

W = audits.Arg("w", (), "float32", "server")
V = audits.Arg("v", (), "float32", "clients")
X = audits.Arg("x", (6,), "float32", "clients")

COUNTERS = {
    "lt": lambda i: lax.lt(i, 5),
    "le": lambda i: lax.le(i, 4),
    "gt": lambda i: lax.gt(5, i),
    "ge": lambda i: lax.ge(4, i),
}


@pytest.mark.parametrize("name", COUNTERS)
def test_loop_with_a_counter_has_its_number_of_rounds(name):
    def program(w, v):
        body = lambda c: (c[0] + 1, c[1] + fad.sum(v * fad.broadcast(c[1])))
        return lax.while_loop(lambda c: COUNTERS[name](c[0]), body, (0, w))[1]

    report = audits.check(program, [W, V], style="native")
    assert report.kind == "accept", report.findings
    assert report.facts.rounds == 5


def test_messages_of_a_branch_come_after_the_sum_that_decides_it():
    def program(x):
        again = lambda: jnp.sum(x * x, axis=0)
        return lax.cond(jnp.sum(x, axis=0) > 0, again, lambda: 2 * again())

    report = audits.check(program, [X], style="stacked")
    assert report.facts.rounds == 2


# More carries than passes: what comes in at one end has not reached the other.

ZEROS = [jnp.float32(0)] * 16


def shifted(carry):
    return (carry[0], *carry[:-1])


LONG = {
    "client": (
        lambda v: fad.sum(lax.while_loop(lambda c: c[0] < 0, shifted, (v, *ZEROS))[-1]),
        V,
        "native",
    ),
    "server": (
        lambda w: lax.while_loop(lambda c: c[-1] < 0, shifted, (w, *ZEROS))[-1],
        W,
        "native",
    ),
    "counted": (
        lambda v: fad.sum(lax.scan(lambda c, _: (shifted(c), None), (v, *ZEROS), length=20)[0][-1]),
        V,
        "native",
    ),
    "over clients": (
        lambda x: lax.scan(lambda c, r: (shifted((c[0] + 0 * r, *c[1:])), r), (*ZEROS,), x)[0][-1],
        X,
        "stacked",
    ),
}


@pytest.mark.parametrize("name", LONG)
def test_loop_whose_labels_do_not_settle_is_refused(name):
    program, arg, style = LONG[name]
    report = audits.check(program, [arg], style=style)
    assert {f.rule for f in report.findings} == {"FAD001"}


@pytest.mark.parametrize("ranks", [(), (0,), (2,), (1, 1)])
def test_rule_that_returns_other_axes_than_the_equation_is_refused(ranks):
    def misunderstood(step):
        return [Label(Place.CLIENT, step.inputs[0].axes[:1] * rank) for rank in ranks]

    rules = {**TRANSFER, "elementwise": misunderstood}
    closed = jax.make_jaxpr(lambda v: fad.sum(2.0 * v))(jnp.zeros(3))
    checker = Checker(STYLES["native"], rules, public=frozenset(), mode="primal")
    checker.run(closed, [Label(Place.CLIENT, data_axes(1))], ["v"])
    assert [f.rule for f in checker.findings] == ["FAD001"]
