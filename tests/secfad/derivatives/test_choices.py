"""Derivatives through a server's choice of communicating branches: exact, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from choice_programs import (
    Centralised,
    Federated,
    choice,
    client_state,
    clients_choose_inside,
    constant_tangents,
    decided_before,
    in_scan,
    loop_of_unknown_length,
    own_or_public,
    solver_in_a_branch,
    three_branches,
)

import secfad as fad
from secfad.errors import ModeError, PlacementError
from secfad.jaxprs.inside import bodies

S, C = fad.SERVER, fad.CLIENTS
X = np.random.default_rng(0).normal(size=(5, 2))
# Both branches of every choice: the first one is taken above 0.1.
POINTS = 0.7, -0.4
# Rounding of a few hundred operations in float64.
TOLERANCE, TOLERANCE_OF_SECOND = 1e-10, 1e-8
MODES = ("forward", "reverse", "mixed", "factored", "blockwise")
JACOBIANS = ("mixed", "blockwise")

pytestmark = pytest.mark.usefixtures("double_precision", "quick_compilation")

PROGRAMS = [choice, in_scan, three_branches, decided_before, client_state, clients_choose_inside]
PROGRAMS += [constant_tangents, own_or_public, loop_of_unknown_length, solver_in_a_branch]
# Programs that send Jacobians in no mode, and why.
REFUSED = {
    client_state: "through which clients carry",
    solver_in_a_branch: "data-dependent loop",
}
QUICK = [(p, "reverse") for p in (in_scan, three_branches, client_state, constant_tangents)]
QUICK += [(p, "mixed") for p in (choice, decided_before, own_or_public)]
QUICK += [(p, "forward") for p in (client_state, constant_tangents, own_or_public)]
FIRST = [(p, m) for p in PROGRAMS for m in MODES if p not in REFUSED or m not in JACOBIANS]
# The last entry differentiates the derivative that the middle one made.
QUICK_SECOND = [(constant_tangents, "forward", "reverse"), (choice, "reverse", "mixed")]
SECOND = [
    (program, inner, outer)
    for program in (choice, three_branches, constant_tangents, own_or_public)
    for inner in MODES[:3]
    for outer in MODES[:3]
    # Clients keep something between the rounds of the first derivative's loops.
    if (program, inner, outer) != (three_branches, "reverse", "mixed")
]


def named(rows, quick):
    """Parameters of tests; those that are not quick run in the nightly profile."""
    for row in rows:
        marks = () if row in quick else (pytest.mark.slow,)
        yield pytest.param(*row, marks=marks, id="-".join(getattr(v, "__name__", v) for v in row))


def computation(program):
    return fad.computation(w=S, x=C)(lambda w, x: program(Federated(), w, x))


def centralised(program):
    return lambda w: program(Centralised(len(X)), w, X)


def traced(derivative):
    return fad.trace(derivative, jnp.zeros(()), X[0])


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for body in bodies(equation):
            yield from primitives(body)


def assert_right(derivative, oracle, tolerance=TOLERANCE):
    """At both points, simulated and message by message."""
    program = traced(derivative)
    for point in map(jnp.asarray, POINTS):
        with jax.disable_jit():
            expected = oracle(point)
        simulated = fad.simulate(derivative)(point, X)
        executed = fad.execute(program, point, X)
        np.testing.assert_allclose(simulated, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(executed, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize(("program", "mode"), [*named(FIRST, QUICK)])
def test_derivative_equals_the_centralised_derivative(program, mode):
    derivative = fad.value_and_grad(computation(program), mode=mode)
    assert_right(derivative, jax.value_and_grad(centralised(program)))


@pytest.mark.parametrize(("program", "inner", "outer"), [*named(SECOND, QUICK_SECOND)])
def test_second_derivative_equals_the_centralised_one(program, inner, outer):
    second = fad.grad(fad.grad(computation(program), mode=inner), mode=outer)
    assert_right(second, jax.grad(jax.grad(centralised(program))), TOLERANCE_OF_SECOND)


@pytest.mark.parametrize("program", [*REFUSED], ids=lambda p: p.__name__)
@pytest.mark.parametrize("mode", JACOBIANS)
def test_a_mode_that_does_not_exist_is_refused_with_one_that_does(program, mode):
    with pytest.raises(ModeError, match=REFUSED[program]) as caught:
        traced(fad.grad(computation(program), mode=mode))
    assert "mode='forward'" in str(caught.value)
    assert "choice_programs.py" in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
def test_a_choice_is_kept_by_values_and_by_forward_mode_only(mode):
    assert "cond" in primitives(traced(computation(three_branches)).jaxpr.jaxpr)
    derivative = traced(fad.grad(computation(three_branches), mode=mode))
    assert ("cond" in primitives(derivative.jaxpr.jaxpr)) == (mode == "forward")


def test_costs_count_the_messages_of_all_branches():
    value = traced(computation(three_branches)).costs
    gradient = traced(fad.value_and_grad(computation(three_branches))).costs
    # Two sums in a loop in one branch, two in another; the gradient adds one of cotangents to each.
    assert (value.sums, gradient.sums) == (2, 2 * (2 + 2))


def both(w, x):
    first = lambda: fad.mean(jnp.sin(fad.broadcast(w, name="model") * x), name="delta")
    second = lambda: fad.mean(jnp.exp(fad.broadcast(-w, name="model") * x), name="delta")
    return jax.lax.cond(w.sum() > 0, first, second).sum()


def test_messages_that_all_branches_send_are_sent_once():
    made = fad.computation(w=S, x=C)(both)
    value, gradient = (fad.trace(f, X[0], X[0]).costs for f in (made, fad.value_and_grad(made)))
    assert (value.sums, value.rounds) == (1, 1)
    # The sum of the value, and that of the cotangents; the index and two cotangents go down.
    assert (gradient.sums, gradient.rounds) == (2, 2)


def test_a_branch_that_is_not_taken_may_spoil_reverse_mode_but_not_forward_mode():
    """The trap of `jnp.where`: zero times an infinite slope."""

    def rooted(means, w, x):
        root = lambda w: jnp.sqrt(means.mean(lambda x, w: (x * 0 * w).sum(), x, means.broadcast(w)))
        return jax.lax.cond(w > 9.0, root, lambda w: w**3, w)

    expected = jax.grad(centralised(rooted))(0.7)
    found = {
        mode: fad.execute(traced(fad.grad(computation(rooted), mode=mode)), 0.7, X)
        for mode in ("forward", "reverse")
    }
    np.testing.assert_allclose(found["forward"], expected, rtol=TOLERANCE)
    assert np.isnan(found["reverse"])


def test_derivative_with_respect_to_client_values():
    derivative = fad.grad(computation(in_scan), argnums=1)
    expected = jax.grad(lambda x: in_scan(Centralised(len(X)), 0.7, x))(jnp.asarray(X))
    np.testing.assert_allclose(fad.execute(traced(derivative), 0.7, X), expected, rtol=TOLERANCE)


def test_a_loop_of_unknown_length_in_a_branch_has_no_reverse_mode():
    def program(means, w, x):
        def rounds(w):
            return jax.lax.while_loop(lambda v: v < 3.0, lambda v: v + 1 + means.squares(v, x), w)

        return jax.lax.cond(w > 0.1, rounds, lambda w: w, w)

    with pytest.raises(ModeError, match="while loop is not known"):
        traced(fad.grad(computation(program)))


def test_own_derivative_of_jax_inside_a_computation_is_refused_with_what_to_use():
    @fad.computation(w=S, x=C)
    def by_jax(w, x):
        return jax.grad(lambda w: three_branches(Federated(), w, x))(w)

    with pytest.raises(PlacementError, match=r"use secfad\.grad of a computation"):
        traced(by_jax)


def test_secfads_derivative_inside_a_computation():
    @fad.computation(w=S, x=C)
    def inside(w, x):
        return w * fad.grad(computation(decided_before))(w, x)

    assert_right(inside, lambda w: w * jax.grad(centralised(decided_before))(w))


@jax.custom_vjp
def hundredfold(w, x):
    return fad.sum((fad.broadcast(w) * x).sum())


hundredfold.defvjp(lambda w, x: (hundredfold(w, x), None), lambda _, g: (100.0 * g, None))


def test_a_custom_rule_around_communication_is_kept_in_and_beside_a_choice():
    def program(w, x):
        chosen = jax.lax.cond(w > 0.1, hundredfold, lambda w, x: fad.sum(x.sum()), w, x)
        return hundredfold(w, x) + chosen + choice(Federated(), w, x)

    made = fad.grad(fad.computation(w=S, x=C)(program))
    oracle = jax.grad(centralised(choice))
    assert_right(made, lambda w: 100.0 + 100.0 * (w > 0.1) + oracle(w))
