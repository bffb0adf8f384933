"""The facts of a certificate are those of the program: rounds, bytes, and the same clients."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import pytest
import random_drawing
import random_programs
from law_programs import CASES
from test_random_programs import arguments, specs

import audits
import secfad as fad
from audits.certifying import check_modes
from audits.checking.checking import check_program
from audits.checking.contacts import phases
from audits.proofs.pairs import goes_back
from audits.proofs.places import Places
from audits.proofs.programs import Program as Data
from audits.proofs.state import State
from audits.proofs.timing import Timing
from secfad.errors import SecfadError

USUAL = {"fedavgm_fig4", "scan_of_rounds", "kept_between_rounds", "server_cond", "implicit_ridge"}
ROWS = [
    pytest.param(
        case.name, mode, marks=() if case.name in USUAL else pytest.mark.slow, id=f"{name}-{mode}"
    )
    for name, case in CASES.items()
    for mode in ("value", *(m for m in case.modes() if m != "auto"))
]
S = jax.ShapeDtypeStruct((3,), jnp.float32)


@functools.cache
def program(name, mode):
    case = CASES[name]
    made = case.computation if mode == "value" else case.derivative(mode)
    return fad.trace(made, *case.specs())


def require_equal_facts(report, program):
    """Every figure that the trace knows; of a while loop the walk states the limit."""
    facts, costs = report.facts, program.costs
    sums = [e for e in (*facts.events, *facts.alternatives) if e.kind == "sum"]
    pairs = {
        "rounds": (facts.rounds, costs.rounds),
        "latest phase": (max((e.depth for e in sums), default=0), costs.rounds),
        "sums": (facts.sums, costs.sums),
        "broadcasts": (facts.broadcasts, costs.broadcasts),
        "up": (facts.up_bytes, costs.up_bytes),
        "down": (facts.down_bytes, costs.down_bytes),
        "released": (facts.released_scalars, costs.released),
        "state": (facts.residual_bytes, costs.state_bytes),
    }
    wrong = {k: pair for k, pair in pairs.items() if pair[0] != pair[1] < math.inf}
    assert not wrong
    assert facts.readdress == costs.readdressed
    assert ("FAD306" in {f.rule for f in report.findings}) == costs.readdressed


def require_derived_facts(report, program):
    """What the verifier derives from the program as data, by code of its own."""
    places = Places(report.facts.evidence, frozenset({"FAD204", "FAD205"}))
    body = Data.read(program.canonical).body
    places.confirm(body, ["C" if p is fad.CLIENTS else "S" for p in program.in_placements])
    timing = Timing(places)
    table, state = timing.timetable(body), State(timing)
    found = state.costs(table)
    assert found.rounds == program.costs.rounds
    assert found.state_bytes == program.costs.state_bytes
    assert (found.state_bytes > 0 or goes_back(timing, table)) == program.costs.readdressed
    assert list(state.phases(table)) == phases(program.schedule)


@pytest.mark.sample(quick=8)
@pytest.mark.parametrize(("name", "mode"), ROWS)
def test_certified_facts_are_those_of_the_trace(name, mode):
    traced = program(name, mode)
    report = check_program(traced)
    if report.kind != "reject":
        require_equal_facts(report, traced)
        require_derived_facts(report, traced)


def conjugate_gradients(steps):
    @fad.computation(b=fad.SERVER, x=fad.CLIENTS)
    def solve(b, x):
        product = lambda v: v + fad.sum(x * jnp.dot(x, fad.broadcast(v)))
        start = fad.sum(x) + b

        def step(state, _):
            v, r, p = state
            q = product(p)
            a = jnp.dot(r, r) / jnp.dot(p, q)
            new = r - a * q
            return (v + a * p, new, new + jnp.dot(new, new) / jnp.dot(r, r) * p), None

        return jax.lax.scan(step, (0 * b, start, start), None, length=steps)[0][0]

    return solve


@pytest.mark.parametrize("steps", [1, 5])
def test_a_round_for_every_step_of_conjugate_gradients(steps):
    traced = fad.trace(conjugate_gradients(steps), S, S)
    report = check_program(traced)
    require_equal_facts(report, traced)
    assert report.facts.rounds == steps + 1
    certificate = audits.certify(traced)
    assert max(m.phase for m in certificate.schedule["primal"]) == steps + 1


def test_one_contact_in_reverse_mode_needs_nobody_again():
    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def loss(w, x):
        return fad.sum(jnp.sum((x - fad.broadcast(w)) ** 2))

    for mode, (report, traced) in check_modes(loss, S, S, modes=("primal", "mixed")).items():
        assert traced is not None
        require_equal_facts(report, traced)
        assert traced.costs.contacts == 1, mode
        assert not report.facts.readdress


def test_a_check_of_a_function_states_the_costs_of_its_schedule():
    args = [audits.Arg("b", (3,), "float32", "server"), audits.Arg("x", (3,), "float32", "clients")]
    computation = conjugate_gradients(5)
    require_equal_facts(audits.check(computation, args), fad.trace(computation, S, S))


def test_a_constant_beside_a_server_value_in_a_barrier_is_not_sent():
    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def program(w, x):
        pair = jax.lax.optimization_barrier((w, jnp.zeros(3)))
        moved = jax.device_put((fad.sum(x), jnp.ones(3)))
        return fad.sum(x * fad.broadcast(pair[1])) + fad.sum(x * fad.broadcast(moved[1])) + pair[0]

    traced = fad.trace(program, S, S)
    assert traced.costs.broadcasts == 0
    require_equal_facts(check_program(traced), traced)
    ones = functools.partial(jnp.ones, dtype=jnp.float32)
    assert jnp.allclose(fad.execute(traced, ones(3), ones((5, 3))), 6.0)


def traces(seed):
    """The value and the derivatives of a random program, as far as they exist."""
    drawn = random_drawing.program(seed, 2, 6)
    made = random_programs.computation(drawn.steps)
    spec = specs(arguments(drawn.dtype))
    for mode in ("value", "forward", "reverse", "mixed"):
        fun = made if mode == "value" else fad.value_and_grad(made, argnums=drawn.wrt, mode=mode)
        try:
            yield fad.trace(fun, *spec)
        except SecfadError:
            continue


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("seeds", [range(k, k + 20) for k in range(0, 400, 20)], ids=str)
@pytest.mark.sample(quick=1)
def test_the_verifier_derives_the_costs_of_random_programs(seeds):
    derived = 0
    for traced in itertools.chain.from_iterable(map(traces, seeds)):
        report = check_program(traced)
        if report.kind != "reject":
            require_derived_facts(report, traced)
            derived += 1
    assert derived > len(seeds)
