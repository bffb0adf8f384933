"""Loops over the axis of clients: the verdict, and the order of clients as the oracle for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corpus_loops import CASES
from verdicts import judged

from audits.transfer.loops import changing_carries, passed_on

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DrJAX asks for an old mesh
PRIMAL = [c for c in CASES if c.mode == "primal"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_loop_over_clients_is_judged_as_stated(case):
    report = judged(case)
    rules = {f.rule for f in report.findings}
    assert report.kind == case.kind, (report.kind, rules, [f.message for f in report.findings])
    if case.kind != "accept":
        assert rules & case.rules, rules


def drawn(spec, rng):
    _, shape, dtype, _ = spec
    if dtype == "key<fry>":
        return jax.random.key(1)
    if dtype == "int32":
        return jnp.asarray(rng.integers(0, 3, shape), jnp.int32)
    return jnp.asarray(rng.normal(size=shape) + 1.0, jnp.float32)


def moved_by_another_order(case):
    """The largest change of any result when the clients come in another order, states in theirs."""
    rng = np.random.default_rng(0)
    values = [drawn(spec, rng) for spec in case.args]
    order = np.array([3, 0, 5, 1, 4, 2])
    held = [spec[3].startswith("client") for spec in case.args]
    turned = [v[order] if h else v for v, h in zip(values, held)]
    one, other = case.fn(*values), case.fn(*turned)
    if any(spec[3] == "client_state" for spec in case.args):
        one = (one[0], one[1][order])
    return max(
        float(jnp.max(jnp.abs(a - b))) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other))
    )


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("case", PRIMAL, ids=lambda c: c.name)
def test_the_order_of_clients_shows_exactly_in_what_is_refused(case):
    moved = moved_by_another_order(case)
    if case.kind == "reject":
        assert moved > 1e-2, moved
    else:
        assert moved < 1e-4, moved


def test_a_carry_that_is_computed_again_changes_and_one_that_is_handed_on_does_not():
    body = jax.make_jaxpr(lambda a, b, c, r: (a, b * 1.0, c, r * a))(1.0, 2.0, 3, 4.0)
    assert changing_carries(body.jaxpr, constants=0, carries=3) == [False, True, False]


def test_carries_that_change_places_change():
    body = jax.make_jaxpr(lambda a, b, r: (b, a, r))(1.0, 2.0, 3.0)
    assert changing_carries(body.jaxpr, constants=0, carries=2) == [True, True]


def test_a_result_is_followed_through_calls_and_branches():
    def program(p, a, b):
        first = jax.checkpoint(lambda u, v: (v, u + v))(a, b)[0]
        return jax.lax.cond(p, lambda u, v: (u, v), lambda u, v: (u, u), first, a)

    jaxpr = jax.make_jaxpr(program)(True, 1.0, 2.0).jaxpr
    assert passed_on(jaxpr) == [2, None]
