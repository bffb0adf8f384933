"""Every round is answered by clients of its own: what is then the derivative of what?

A derivative that does not need the same clients again is that of the value that was computed, whoever
computed it: of what the very same cohorts, each in its round, make of a changed argument. If it does
need them, clients who never answered for the value answer for its derivative, and it is wrong.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_drawing
import random_programs
from law_programs import CASES

import secfad as fad
from secfad.engines.local import sum_of
from secfad.errors import ModeError, PlacementError, TracingError

EACH, ROUNDS = 2, 16
CLIENTS = EACH * ROUNDS
STEP = 1e-6
WRONG = 1e-3
USUAL = {"fedavgm_fig4", "learned_weighting", "server_switch", "cond_in_scan"}
MODES = ("forward", "reverse", "factored", "mixed")
ROWS = [
    pytest.param(name, mode, marks=() if name in USUAL else pytest.mark.slow, id=f"{name}-{mode}")
    for name, case in CASES.items()
    for mode in MODES
    if {"factored": "reverse"}.get(mode, mode) in case.modes()
]


def traced(computation, args):
    def held(arg, place):
        return jax.tree.map(lambda x: x[0], arg) if place is fad.CLIENTS else arg

    program = fad.trace(computation, *map(held, args, computation.placements.values()))
    if program.costs.rounds > ROUNDS:
        pytest.skip("it has more rounds than there are cohorts")
    return program


def evaluated(program, args):
    """Every round is answered by two clients who answer in no other."""
    cohorts = sum_of([[EACH * r + i for i in range(EACH)] for r in range(ROUNDS)])
    return fad.execute(program, *args, aggregate=cohorts, public_size=EACH)


def inner(a, b):
    return sum(float(jnp.vdot(x, y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


class Question:
    """A direction of the differentiated arguments and weights of the results, to compare numbers by."""

    def __init__(self, computation, args, wrt):
        self.computation, self.args, self.wrt = computation, args, wrt
        self.program = traced(computation, args)
        self.value = evaluated(self.program, args)
        random = np.random.default_rng(5)
        noise = lambda tree: jax.tree.map(lambda x: random.normal(size=jnp.shape(x)), tree)
        self.directions = {i: noise(args[i]) for i in ((wrt,) if isinstance(wrt, int) else wrt)}
        self.weights = noise(self.value)

    def along(self, step):
        """The value at arguments moved along the direction."""
        args = list(self.args)
        for i, direction in self.directions.items():
            args[i] = jax.tree.map(lambda x, d: np.asarray(x + step * d), args[i], direction)
        return inner(self.weights, evaluated(self.program, args))

    def differences(self):
        """The derivative, by differences of the value."""
        return (self.along(STEP) - self.along(-STEP)) / (2 * STEP)

    def derivative(self, mode):
        """The derivative in a mode, the program, and the value that comes with it."""
        if mode == "forward":
            made = fad.jvp(self.computation, self.wrt)
            args = (*self.args, *self.directions.values())
        else:
            made = fad.vjp(self.computation, self.wrt, mode=mode)
            args = (*self.args, self.weights)
        program = traced(made, args)
        value, found = evaluated(program, args)
        if mode == "forward":
            return inner(self.weights, found), program, value
        return inner(found, list(self.directions.values())), program, value


def differ(a, b):
    return abs(a - b) > WRONG * max(abs(a), abs(b), WRONG)


@pytest.mark.parametrize(("name", "mode"), ROWS)
def test_a_derivative_is_wrong_with_other_clients_if_it_needs_the_same(name, mode):
    case = CASES[name]
    question = Question(case.computation, case.args(CLIENTS), case.wrt)
    if question.program.costs.readdressed:
        pytest.skip("the value needs the same clients itself")
    found, program, value = question.derivative(mode)
    # The rounds of the value are the first ones of the derivative.
    assert inner(question.weights, value) == pytest.approx(inner(question.weights, question.value))
    assert differ(found, question.differences()) == program.costs.readdressed


RANDOM = np.random.default_rng(0)
ARGS = (
    RANDOM.normal(size=3),
    {"rate": np.asarray(0.8), "bias": RANDOM.normal(size=2)},
    RANDOM.normal(size=(CLIENTS, 3)),
    RANDOM.integers(0, 3, CLIENTS).astype(np.int32),
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(150))
def test_random_derivatives_that_do_not_need_the_same_clients_are_right_with_others(seed):
    # Forward mode goes back to nobody; differences would see what `stop_gradient` hides.
    drawn = random_drawing.program(seed, 2, 6)
    made = random_programs.computation(drawn.steps)
    if drawn.dtype != "float64" or drawn.flavour == "single":
        pytest.skip("single precision")
    with jax.disable_jit():
        try:
            question = Question(made, ARGS, drawn.wrt)
            expected, forward, value = question.derivative("forward")
        except (ModeError, PlacementError, TracingError):
            pytest.skip("refused")
        assert inner(value, 1.0) == pytest.approx(inner(question.value, 1.0))
        assert forward.costs.readdressed == question.program.costs.readdressed
        if forward.costs.readdressed:
            pytest.skip("the value needs the same clients itself")
        for mode in ("reverse", "factored", "mixed", "blockwise"):
            try:
                found, program, value = question.derivative(mode)
            except (ModeError, PlacementError):
                continue
            # Where a mode has fewer rounds than the value, others answered for it.
            if inner(value, 1.0) == pytest.approx(inner(question.value, 1.0)):
                assert program.costs.readdressed or not differ(found, expected), mode
