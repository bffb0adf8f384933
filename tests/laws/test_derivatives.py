"""Every mode of every program is the centralised derivative, simulated and message by message."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dropping import sum_of
from law_programs import CASES, CLIENTS, C

import secfad as fad
from secfad.errors import ModeError
from secfad.jaxprs.inside import bodies

# Rounding of a few hundred operations in float64; a missing term is 1e-3 or more here.
TOLERANCE = 1e-10
MODES = [(c, mode) for c in CASES.values() for mode in c.modes() if mode != "auto"]
EACH_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
EACH_MODE = pytest.mark.parametrize(
    ("case", "mode"), MODES, ids=[f"{c.name}-{m}" for c, m in MODES]
)
# In the default profile, dropped clients meet one program of each kind; in the nightly one, all.
DROPPED = {"vector_result", "fedavgm_fig4", "scan_of_rounds", "server_switch", "scaffold_state"}
DROPPED |= {"kept_between_rounds", "integers_and_keys", "hessian_inside", "implicit_ridge"}


def with_drops(rows):
    """The rows of a table as parameters, those of further programs marked slow."""
    for row in rows:
        name = row[0].name
        marks = () if name in DROPPED else (pytest.mark.slow,)
        yield pytest.param(*row, marks=marks, id="-".join([name, *row[1:]]))


REFUSED = [(case, *pair) for case in CASES.values() for pair in case.refused]


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@functools.cache
def program(name, mode=None):
    case = CASES[name]
    return fad.trace(case.derivative(mode) if mode else case.computation, *case.specs())


@functools.cache
def expected(name, survivors=None, derivative=False):
    case = CASES[name]
    args = case.args()
    if survivors:
        args = some_clients(case, args, survivors)
    return jax.jit(case.expected_derivative if derivative else case.oracle)(*args)


def some_clients(case, args, chosen):
    places = case.computation.placements.values()
    return tuple(
        jax.tree.map(lambda x: x[jnp.asarray(chosen)], a) if p is C else a
        for a, p in zip(args, places)
    )


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name, equation.params
        for body in bodies(equation):
            yield from primitives(body)


@pytest.mark.sample(quick=2)
@EACH_CASE
def test_simulated_value_equals_the_centralised_value(case):
    args = case.args()
    assert_equal(fad.simulate(case.computation)(*args), expected(case.name))


@pytest.mark.sample(quick=2)
@EACH_CASE
def test_executed_value_equals_the_centralised_value(case):
    args = case.args()
    assert_equal(fad.execute(program(case.name), *args), expected(case.name))


@pytest.mark.sample(quick=2, slow=45)
@EACH_MODE
def test_simulated_derivative_equals_the_centralised_derivative(case, mode):
    got = fad.simulate(case.derivative(mode))(*case.args())
    assert_equal(got, expected(case.name, derivative=True))


@pytest.mark.sample(quick=2, slow=45)
@EACH_MODE
def test_executed_derivative_equals_the_centralised_derivative(case, mode):
    got = fad.execute(program(case.name, mode), *case.args())
    assert_equal(got, expected(case.name, derivative=True))


@pytest.mark.sample(quick=32)
@EACH_MODE
def test_derivative_communicates_by_broadcast_and_sum_only(case, mode):
    for name, params in primitives(program(case.name, mode).jaxpr.jaxpr):
        axes = params.get("axes", ()) if name.startswith("psum") else ()
        assert "axis_name" not in params, name
        assert all(isinstance(axis, int) for axis in axes), name


def definitions(placed):
    """Every variable that a placed program defines, at any depth, once per definition."""
    yield from (*placed.inputs, *placed.jaxpr.constvars)
    for step in placed.steps:
        yield from step.outputs
        for body in placed.bodies(step):
            yield from definitions(body)


@pytest.mark.sample(quick=8)
@EACH_MODE
def test_no_variable_of_a_placed_program_is_defined_twice(case, mode):
    for made in (program(case.name), program(case.name, mode)):
        defined = list(definitions(made.placed))
        assert len(defined) == len(set(defined))


def test_a_loop_that_is_called_twice_has_variables_for_each_call():
    @jax.jit
    def rounds(w, x):
        step = lambda w, _: (w - fad.mean(x * fad.broadcast(w)), None)
        return jax.lax.scan(step, w, None, length=2)[0]

    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def twice(w, x):
        return rounds(rounds(w, x), x)

    defined = list(definitions(fad.trace(twice, jnp.ones(3), jnp.ones(3)).placed))
    assert len(defined) == len(set(defined))


@pytest.mark.sample(quick=2)
@EACH_CASE
def test_auto_is_one_of_the_exact_modes(case):
    further = ["factored"] if "reverse" in case.modes() else []
    modes = [*further, *(mode for mode in case.modes() if mode != "auto")]
    exact = {program(case.name, mode).digest for mode in modes}
    assert program(case.name, "auto").digest in exact


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize(
    "case", list(with_drops([(c,) for c in CASES.values() if "reverse" in c.modes()]))
)
def test_factored_derivative_equals_the_centralised_derivative(case):
    got = fad.simulate(case.derivative("factored"))(*case.args())
    assert_equal(got, expected(case.name, derivative=True))


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize("case", list(with_drops([(c,) for c in CASES.values()])))
def test_value_of_survivors_equals_the_value_of_a_cohort_of_survivors(case):
    args, survivors = case.args(), (0, 2, 3)
    got = fad.execute(program(case.name), *args, aggregate=sum_of([survivors]), public_size=3)
    assert_equal(got, expected(case.name, survivors))


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize(("case", "mode"), list(with_drops(MODES)))
def test_derivative_of_survivors_equals_the_derivative_of_a_cohort_of_survivors(case, mode):
    args, survivors = case.args(), (1, 4)
    got = fad.execute(program(case.name, mode), *args, aggregate=sum_of([survivors]), public_size=2)
    assert_equal(got, expected(case.name, survivors, derivative=True))


@pytest.mark.parametrize(
    ("case", "mode", "words"), REFUSED, ids=[f"{c.name}-{m}" for c, m, _ in REFUSED]
)
def test_impossible_mode_is_refused_with_the_reason_and_another_mode(case, mode, words):
    with pytest.raises(ModeError, match=words) as caught:
        fad.trace(case.derivative(mode), *case.specs())
    assert "mode='" in str(caught.value)


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.contacts], ids=lambda c: c.name)
def test_value_takes_the_fewest_contacts(case):
    assert program(case.name).costs.contacts == case.contacts


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("name", ["jitted_helpers", "scan_of_rounds", "server_cond"])
@pytest.mark.parametrize("mode", [None, "reverse"])
def test_a_program_used_with_four_and_then_eight_clients_is_right_for_both(name, mode):
    case = CASES[name]
    run = fad.simulate(case.derivative(mode) if mode else case.computation)
    for clients in (4, 8):
        args = case.args(clients)
        oracle = case.expected_derivative if mode else case.oracle
        assert_equal(run(*args), jax.jit(oracle)(*args))


def test_the_table_holds_the_kinds_of_program_that_matter():
    assert len(CASES) >= 30
    assert CLIENTS > 2
