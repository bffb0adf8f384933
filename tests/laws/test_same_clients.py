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
from dropping import sum_of
from law_programs import CASES

import secfad as fad
from secfad.errors import ModeError, PlacementError, TracingError

EACH, ROUNDS = 2, 16
CLIENTS = EACH * ROUNDS
STEP = 1e-6
WRONG = 1e-3
RANDOM = np.random.default_rng(0)
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


def follows_the_law(computation, args, wrt, mode):
    """A derivative with its value: wrong with other clients if and only if it needs the same."""
    question = Question(computation, args, wrt)
    if question.program.costs.readdressed:
        pytest.skip("the value needs the same clients itself")
    if mode != "forward" and question.program.placed.has_branches():
        pytest.skip("branches that are not taken have their rounds too")
    found, program, value = question.derivative(mode)
    # The rounds of the value are the first ones of the derivative.
    assert inner(question.weights, value) == pytest.approx(inner(question.weights, question.value))
    return differ(found, question.differences()) == program.costs.readdressed


@pytest.mark.sample(quick=2, slow=25)
@pytest.mark.parametrize(("name", "mode"), ROWS)
def test_a_derivative_is_wrong_with_other_clients_if_it_needs_the_same(name, mode):
    case = CASES[name]
    assert follows_the_law(case.computation, case.args(CLIENTS), case.wrt, mode)


S, C = fad.SERVER, fad.CLIENTS


@fad.computation(w=S, x=C)
def linear_part(w, x):
    """What is linear in the model could be answered a round before the loss that it is a part of."""
    centre = fad.sum(x, name="centre")
    return fad.sum(x * fad.broadcast(w) + jnp.sin(fad.broadcast(centre)), name="loss").sum()


@fad.computation(w=S, x=C)
def linear_round(w, x):
    """So could the whole derivative of the second round."""
    centre = fad.sum(x, name="centre")
    return fad.sum(x * fad.broadcast(centre * w), name="loss").sum()


@fad.computation(w=S, x=C)
def two_parts(w, x):
    """One answer of a client with parts of the derivatives of sums in two rounds."""
    received = fad.broadcast(w)
    first = fad.sum(x * received)
    centre = fad.sum(jnp.sin(x))
    return (fad.sum(x**2 * received * fad.broadcast(centre)) + first**2).sum()


@fad.computation(w=S, x=C)
def pulled_later(w, x):
    """The program takes its own derivative, where the server has chosen to."""
    value, pull = jax.vjp(lambda w: fad.sum(jnp.vdot(x, fad.broadcast(w))), w)
    step = jax.lax.cond(value > 1e3, lambda: pull(1.0)[0], lambda: pull(2.0)[0])
    return value + jnp.vdot(step, w)


@fad.computation(w=S, x=C)
def trained_and_judged(w, x):
    """Gradient steps and then a loss, by one function: every round may have its own clients."""
    loss = lambda w: fad.mean(jnp.sum(jnp.sin(x * fad.broadcast(w))))
    w = jax.lax.scan(lambda w, _: (w - 0.1 * jax.grad(loss)(w), None), w, length=3)[0]
    return loss(w)


@fad.computation(w=S, x=C)
def gradient_of_a_choice(w, x):
    """Its derivative is a second one, of a choice of which only the derivative is left."""
    sums = lambda fun: lambda w: fad.sum(fun(x * fad.broadcast(w))).sum()
    chosen = fad.computation(w=S, x=C)(lambda w, x: jax.lax.cond(w[0] > 0, *map(sums, FUNS), w))
    return fad.grad(chosen)(w, x).sum()


@fad.computation(w=S, x=C)
def called_twice(w, x):
    """Two rounds by one line of a function, which have to be told apart."""
    moments = lambda w: fad.sum(x * fad.broadcast(w))
    first = moments(w)
    second = moments(jnp.sign(first))
    return (first**2 + second**2).sum()


FUNS = jnp.sin, jnp.cos
OWN = [linear_part, linear_round, two_parts, trained_and_judged, gradient_of_a_choice, called_twice]


@pytest.mark.sample(quick=2, slow=25)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("computation", OWN, ids=lambda c: c.name)
def test_answers_that_come_before_or_after_their_part_of_the_value(computation, mode):
    # Numbers of its own, whichever tests ran before: by chance, wrong clients may give close numbers.
    args = np.array([0.3, -0.2, 0.5]), np.random.default_rng(0).normal(size=(CLIENTS, 3))
    assert follows_the_law(computation, args, 0, mode)


def test_a_program_that_takes_its_own_derivative_later_needs_the_same_clients():
    assert fad.trace(pulled_later, np.ones(3), np.ones(3)).costs.readdressed


ARGS = (
    RANDOM.normal(size=3),
    {"rate": np.asarray(0.8), "bias": RANDOM.normal(size=2)},
    RANDOM.normal(size=(CLIENTS, 3)),
    RANDOM.integers(0, 3, CLIENTS).astype(np.int32),
)


@pytest.mark.sample(quick=0, slow=20)
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
