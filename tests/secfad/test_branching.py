"""Reverse mode through a server's choice of communicating branches, wherever the choice stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from branching_programs import (
    Centralised,
    Federated,
    branch_in_branch,
    checkpoint_in_scan,
    choice,
    chosen_by_a_sum,
    client_state,
    clients_choose_inside,
    constant_tangents,
    constants_decided_before,
    decided_before,
    in_checkpoint,
    in_nested_scans,
    in_scan,
    integers_of_clients,
    kept_by_clients,
    loop_in_cond,
    loop_of_unknown_length,
    own_or_public,
    plain,
    scan_in_checkpoint,
    three_branches,
    with_constants,
    with_numbers_and_loops,
)
from jax.scipy.sparse.linalg import cg

import secfad as fad
from secfad.engines.simulation import fuse
from secfad.errors import ModeError, PlacementError
from secfad.jaxprs.equations import bodies

S, C = fad.SERVER, fad.CLIENTS
X = np.random.default_rng(0).normal(size=(5, 2))
# Both branches of every choice: the first one is taken above 0.1.
POINTS = 0.7, -0.4
# Rounding of a few hundred operations in float64.
TOLERANCE, TOLERANCE_OF_SECOND = 1e-10, 1e-8


pytestmark = pytest.mark.usefixtures("double_precision", "quick_compilation")


QUICK = [plain, in_scan, checkpoint_in_scan, with_numbers_and_loops, three_branches]
QUICK += [decided_before, with_constants, constants_decided_before, client_state]
QUICK += [clients_choose_inside, loop_of_unknown_length, integers_of_clients]
SLOW = [in_nested_scans, in_checkpoint, scan_in_checkpoint, branch_in_branch, chosen_by_a_sum]
SLOW += [kept_by_clients, loop_in_cond, constant_tangents, own_or_public]
# Mixed mode does not see through a loop of unknown length.
NOT_MIXED = [loop_of_unknown_length]
PAPER = ("forward", "reverse", "mixed")
MODES = (*PAPER, "factored")
FIRST = [(p, "reverse") for p in QUICK] + [(decided_before, "mixed")]
EVERY_FIRST = [(p, m) for p in QUICK + SLOW for m in MODES if p not in NOT_MIXED or m != "mixed"]
# The last entry differentiates the derivative that the middle one made.
SECOND = [
    (in_scan, "reverse", "reverse"),
    (decided_before, "reverse", "mixed"),
    (decided_before, "mixed", "reverse"),
    (clients_choose_inside, "mixed", "reverse"),
    (loop_of_unknown_length, "reverse", "reverse"),
    (with_constants, "reverse", "forward"),
    (constant_tangents, "reverse", "reverse"),
    (constant_tangents, "factored", "forward"),
]
EVERY_SECOND = [(constant_tangents, "factored", outer) for outer in MODES]
EVERY_SECOND += [
    (p, inner, outer)
    for p in QUICK + SLOW
    for inner in PAPER
    for outer in PAPER
    if "mixed" not in (inner, outer) or p not in NOT_MIXED
]


def named(quick, every):
    """Parameters of tests; those that are not quick run in the nightly profile."""
    rows = []
    for row in every:
        marks = () if row in quick else (pytest.mark.slow,)
        rows.append(
            pytest.param(*row, marks=marks, id="-".join(getattr(v, "__name__", v) for v in row))
        )
    return rows


def computation(program):
    return fad.computation(w=S, x=C)(lambda w, x: program(Federated(), w, x))


def centralised(program):
    return lambda w: program(Centralised(len(X)), w, X)


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for body in bodies(equation):
            yield from primitives(body)


def assert_right(derivative, oracle, tolerance):
    """At both points, simulated and message by message, by the two primitives only."""
    traced = fad.trace(derivative, jnp.zeros(()), X[0])
    assert not [name for name in primitives(traced.jaxpr.jaxpr) if name.startswith("psum")]
    for point in map(jnp.asarray, POINTS):
        with jax.disable_jit():
            expected = oracle(point)
            simulated = fuse(traced)(point, X)
            executed = fad.execute(traced, point, X)
        np.testing.assert_allclose(simulated, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(executed, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("program", "mode"), named(FIRST, EVERY_FIRST))
def test_derivative_equals_the_centralised_derivative(program, mode):
    derivative = fad.value_and_grad(computation(program), mode=mode)
    assert_right(derivative, jax.value_and_grad(centralised(program)), TOLERANCE)


@pytest.mark.parametrize(("program", "inner", "outer"), named(SECOND, EVERY_SECOND))
def test_second_derivative_equals_the_centralised_one(program, inner, outer):
    second = fad.grad(fad.grad(computation(program), mode=inner), mode=outer)
    assert_right(second, jax.grad(jax.grad(centralised(program))), TOLERANCE_OF_SECOND)


@pytest.mark.parametrize("program", [constant_tangents, own_or_public])
@pytest.mark.parametrize("mode", MODES)
def test_clients_are_told_what_the_server_chose_without_a_message(program, mode):
    derivative = fad.grad(computation(program), mode=mode)
    assert_right(derivative, jax.grad(centralised(program)), TOLERANCE)


def test_reverse_mode_repeats_no_sum_and_leaves_nothing_with_clients():
    """Three rounds, each with its sum and the sum of its cotangent."""
    traced = fad.trace(fad.grad(computation(in_scan)), jnp.zeros(()), X[0])
    assert (traced.costs.sums, traced.costs.state_bytes) == (6, 0)


def test_jacobian_of_a_vector_result():
    def program(means, w, x):
        return jnp.stack([choice(means, w, x), jnp.sin(w)])

    derivative = fad.jacobian(computation(program))
    assert_right(derivative, jax.jacobian(centralised(program)), TOLERANCE)


def test_derivative_with_respect_to_client_values():
    derivative = fad.grad(computation(in_scan), argnums=1)
    traced = fad.trace(derivative, jnp.zeros(()), X[0])
    expected = jax.grad(lambda x: in_scan(Centralised(len(X)), 0.7, x))(jnp.asarray(X))
    np.testing.assert_allclose(fad.execute(traced, 0.7, X), expected, rtol=TOLERANCE)


def test_a_hyperparameter_of_the_server_is_mapped():
    def program(means, w, x):
        rates = jnp.array([1.0, 2.0])
        return jax.vmap(lambda rate: choice_at(means, w, w * rate, x))(rates).sum()

    def choice_at(means, w, v, x):
        return jax.lax.cond(w > 0.1, means.sines, means.squares, v, x)

    derivative = fad.grad(computation(program))
    assert_right(derivative, jax.grad(centralised(program)), TOLERANCE)


@pytest.mark.parametrize("outer", ["forward", "reverse", "mixed"])
def test_a_choice_that_only_the_outer_derivative_sees(outer):
    made = fad.computation(w=S, u=S, x=C)(
        lambda w, u, x: Federated().sines(w, x) * choice(Federated(), u, x)
    )
    cross = fad.jacobian(fad.grad(made, argnums=0), argnums=1, mode=outer)
    w, u = jnp.asarray(0.3), jnp.asarray(0.7)
    expected = jax.grad(Centralised(len(X)).sines)(w, X) * jax.grad(
        lambda v: choice(Centralised(len(X)), v, X)
    )(u)
    with jax.disable_jit():
        got = fuse(fad.trace(cross, w, u, X[0]))(w, u, X)
        np.testing.assert_allclose(got, expected, rtol=TOLERANCE_OF_SECOND)


def test_a_loop_of_unknown_length_in_a_branch_has_no_reverse_mode():
    def program(means, w, x):
        def rounds(w):
            return jax.lax.while_loop(lambda v: v < 3.0, lambda v: v + 1 + means.squares(v, x), w)

        return jax.lax.cond(w > 0.1, rounds, lambda w: w, w)

    with pytest.raises(ModeError, match="while loop is not known"):
        fad.trace(fad.grad(computation(program)), jnp.zeros(()), X[0])


def test_own_derivative_of_jax_inside_a_computation_is_refused_with_what_to_use():
    @fad.computation(w=S, x=C)
    def by_jax(w, x):
        return jax.grad(lambda w: decided_before(Federated(), w, x))(w)

    with pytest.raises(PlacementError, match=r"use secfad\.grad of a computation"):
        fad.trace(by_jax, jnp.zeros(()), X[0])


@pytest.mark.parametrize("program", [decided_before, with_constants])
def test_secfads_derivative_inside_a_computation(program):
    @fad.computation(w=S, x=C)
    def inside(w, x):
        return w * fad.grad(computation(program))(w, x)

    assert_right(inside, lambda w: w * jax.grad(centralised(program))(w), TOLERANCE)


@jax.custom_vjp
def hundredfold(w, x):
    return fad.sum((fad.broadcast(w) * x).sum())


hundredfold.defvjp(lambda w, x: (hundredfold(w, x), None), lambda _, g: (100.0 * g, None))


def test_a_custom_rule_around_communication_is_kept_beside_a_choice():
    both = fad.computation(w=S, x=C)(lambda w, x: hundredfold(w, x) + plain(Federated(), w, x))
    oracle = jax.grad(centralised(plain))
    assert_right(fad.grad(both), lambda w: 100.0 + oracle(w), TOLERANCE)


def solved(means, w, x):
    """The solution of a linear system whose matrix is an average over clients."""

    def product(v):
        return v + 0.3 * means.mean(lambda x, v: x * (x @ v), x, means.broadcast(v))

    return cg(product, jnp.stack([w, w**2]), tol=1e-14)[0].sum()


def test_a_linear_solver_beside_a_choice():
    def program(means, w, x):
        return solved(means, w, x) * choice(means, w, x)

    assert_right(fad.grad(computation(program)), jax.grad(centralised(program)), TOLERANCE)


def test_a_linear_solver_in_a_branch_is_refused_with_a_mode_that_works():
    def program(means, w, x):
        return jax.lax.cond(
            w > 0.1, lambda w: solved(means, w, x), lambda w: means.squares(w, x), w
        )

    with pytest.raises(ModeError, match="mode='forward'"):
        fad.trace(fad.grad(computation(program)), jnp.zeros(()), X[0])
    forward = fad.grad(computation(program), mode="forward")
    assert_right(forward, jax.grad(centralised(program)), TOLERANCE)
