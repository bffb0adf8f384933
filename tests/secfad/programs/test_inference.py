"""Placement errors name the kind, the user's line and the remedy; legal programs are placed."""

import jax
import jax.numpy as jnp
import pytest

import secfad as fad
from secfad.errors import PlacementError

S, C = fad.SERVER, fad.CLIENTS
ROW = jnp.zeros(3)


def traced(fun, *placements):
    names = fun.__code__.co_varnames[: fun.__code__.co_argcount]
    computation = fad.computation(**dict(zip(names, placements)))(fun)
    return fad.trace(computation, *[ROW] * len(names))


def forgotten_broadcast(w, x):
    return fad.sum(w * x)


def broadcast_of_a_client_value(w, x):
    return fad.sum(fad.broadcast(x) * fad.broadcast(w))


def sum_of_a_server_value(w, x):
    return fad.sum(w) + fad.sum(x)


def sum_inside_client_code(w, x):
    return fad.sum(fad.sum(x) * x)


def client_decides_communication(w, x):
    return jax.lax.cond(x[0] > 0, lambda: fad.sum(x), lambda: w)


def client_decides_for_the_server(w, x):
    return jax.lax.cond(jnp.sum(x) > 0, lambda w: w, lambda w: 2 * w, w)


def client_decides_the_number_of_rounds(w, x):
    return jax.lax.while_loop(
        lambda s: jnp.sum(s[1]) > 0, lambda s: (s[0] + fad.sum(s[1]), s[1] - 1), (w, x)
    )[0]


def server_chooses_between_client_values(w, x):
    return fad.sum(jax.lax.cond(w[0] > 0, lambda x: x, lambda x: 2 * x, x))


def carry_changes_sides(w, x):
    return jax.lax.scan(lambda c, _: (fad.sum(x), None), x, None, length=2)[0]


def broadcast_too_late(w, x):
    return fad.sum(fad.broadcast(w * x))


ILLEGAL = [
    (forgotten_broadcast, "implicit-broadcast", "`broadcast`"),
    (broadcast_of_a_client_value, "addressed-broadcast", "`sum` first"),
    (sum_of_a_server_value, "misplaced-operand", "`broadcast` if clients"),
    (sum_inside_client_code, "implicit-broadcast", "sum `sum`"),
    (client_decides_communication, "client-control", "jnp.where"),
    (client_decides_for_the_server, "client-branch", "jnp.where"),
    (client_decides_the_number_of_rounds, "client-control", "Decide on a `sum`"),
    (server_chooses_between_client_values, "implicit-broadcast", "argument `w`"),
    (carry_changes_sides, "implicit-broadcast", "Broadcast or sum"),
    (broadcast_too_late, "implicit-broadcast", "argument `x`"),
]


@pytest.mark.parametrize(
    ("fun", "kind", "words"), ILLEGAL, ids=lambda v: getattr(v, "__name__", "")
)
def test_illegal_use_is_an_error_of_its_kind_at_the_users_line(fun, kind, words):
    with pytest.raises(PlacementError) as caught:
        traced(fun, S, C)
    assert caught.value.kind == kind
    assert words in str(caught.value)
    assert f"test_inference.py:{fun.__code__.co_firstlineno + 1}" in str(caught.value)
    assert fun.__name__ in caught.value.line


def test_error_inside_a_helper_names_the_helpers_line():
    def helper(w, x):
        return jnp.vdot(w, x)

    with pytest.raises(PlacementError, match=r"test_inference\.py:\d+:\d+ \(.*helper\)"):
        traced(lambda w, x: fad.sum(jax.jit(helper)(w, x)), S, C)


def chosen_by_where(w, x):
    return fad.sum(jnp.where(x > 0, x, w))


def clipped(w, x):
    return fad.sum(jnp.clip(x, w))


def with_a_rule_of_its_own(w, x):
    return fad.sum(jnp.logaddexp(x, w))


def in_a_loop_of_jax(w, x):
    return fad.sum(jnp.searchsorted(w, x))


@pytest.mark.parametrize(
    "fun", [chosen_by_where, clipped, with_a_rule_of_its_own, in_a_loop_of_jax]
)
def test_error_inside_a_function_of_jax_names_the_line_that_calls_it(fun):
    with pytest.raises(PlacementError) as caught:
        traced(fun, S, C)
    assert f"test_inference.py:{fun.__code__.co_firstlineno + 1}" in caught.value.line
    assert fun.__name__ in caught.value.line


def test_error_in_a_derivative_names_the_users_line():
    def fun(w, x):
        return fad.sum(jnp.sum(w * x))

    computation = fad.computation(w=S, x=C)(fun)
    with pytest.raises(PlacementError, match=r"test_inference\.py"):
        fad.trace(fad.grad(computation), ROW, ROW)


def test_simulation_refuses_what_trace_refuses():
    computation = fad.computation(w=S, x=C)(forgotten_broadcast)
    with pytest.raises(PlacementError, match="Wrap the server value"):
        fad.simulate(computation)(ROW, jnp.zeros((2, 3)))


def test_a_jitted_helper_is_used_on_both_sides():
    double = jax.jit(lambda v: 2 * v)
    program = traced(lambda w, x: (double(w), fad.sum(double(x))), S, C)
    assert program.out_placements == (S, S)


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint])
def test_a_constant_that_a_helper_returns_is_known_on_both_sides(wrap):
    helper = wrap(lambda v: (jnp.sin(v), jnp.cos(jnp.arange(3.0))))

    def of_server(w, x):
        value, constant = helper(w)
        return fad.sum(constant * x) + value

    def of_clients(w, x):
        value, constant = helper(x)
        return fad.sum(value) + constant * w

    assert traced(of_server, S, C).out_placements == (S,)
    assert traced(of_clients, S, C).out_placements == (S,)


def test_a_constant_carry_becomes_a_client_value():
    def fun(w, x):
        return jax.lax.scan(lambda c, _: (c + x, fad.sum(c)), jnp.zeros(3), None, length=2)

    assert traced(fun, S, C).out_placements == (C, S)


def test_results_are_placed_where_they_were_made():
    program = traced(lambda w, x: (w, x, fad.sum(x), fad.broadcast(w), jnp.ones(())), S, C)
    assert program.out_placements == (S, C, S, C, None)


def test_a_broadcast_of_a_constant_sends_nothing():
    program = traced(lambda w, x: fad.sum(fad.broadcast(jnp.ones(3)) * x), S, C)
    assert program.costs.down_bytes == 0


def test_captured_array_is_a_constant_of_both_sides():
    captured = jnp.arange(3.0)
    program = traced(lambda w, x: w * captured + fad.sum(captured * x), S, C)
    assert program.out_placements == (S,)
