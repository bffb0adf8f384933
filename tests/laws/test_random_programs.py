"""Every mode of every random program is placed, closed and exact, whoever drops out."""

import itertools

import jax
import numpy as np
import pytest
import random_drawing
import random_programs
from dropping import sum_of

import secfad as fad
from secfad.engines.simulation import fused_leaves
from secfad.errors import ModeError, PlacementError, TracingError
from secfad.jaxprs.inside import bodies, communicates
from secfad.programs.normalization import normalise

MODES = ("forward", "reverse", "factored", "mixed")
RNG = np.random.default_rng(0)
W, BIAS, X = RNG.normal(size=3), RNG.normal(size=2), RNG.normal(size=(4, 3))
LABELS = np.array([2, 0, 1, 1], np.int32)
# Arguments of a computation that are at the clients.
CLIENT_ARGUMENTS = slice(2, 4)


def arguments(dtype):
    """Of four clients."""
    h = {"rate": np.asarray(0.8, dtype), "bias": BIAS.astype(dtype)}
    return (W.astype(dtype), h, X.astype(dtype), LABELS)


def chosen(args, clients):
    """Arguments of some of the clients."""
    args = list(args)
    args[CLIENT_ARGUMENTS] = [a[np.array(clients)] for a in args[CLIENT_ARGUMENTS]]
    return args


def specs(args):
    """What the server or one client holds."""
    one = [*args[:2], *(a[0] for a in args[CLIENT_ARGUMENTS])]
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), one)


def close(got, expected, tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def names(jaxpr, talks=None):
    """Name and parameters of every equation, and whether it communicates."""
    talks = talks or communicates
    for equation in jaxpr.eqns:
        yield equation.primitive.name, equation.params, talks(equation)
        for body in bodies(equation):
            yield from names(body, talks)


def value_and_gradient(fun, wrt):
    """Of the oracle, in forward mode, which exists for every program."""

    def both(*args):
        value = fun(*args)
        return value, value

    def taken(*args):
        gradients, value = jax.jacfwd(both, argnums=(0, 1), has_aux=True)(*args)
        return value, gradients[wrt] if isinstance(wrt, int) else tuple(gradients[i] for i in wrt)

    return taken


def traced_modes(drawn, made, spec, modes):
    """The derivative in the modes that exist; those that must exist do."""
    programs = {}
    for mode in modes:
        derivative = fad.value_and_grad(made, argnums=drawn.wrt, mode=mode)
        try:
            programs[mode] = fad.trace(derivative, *spec)
        except (ModeError, PlacementError) as error:
            # Mixed mode has no derivative of what clients carry through a loop.
            carried = "has a loop through which clients carry a value" in str(error)
            if mode not in drawn.refused and not (carried and mode == "mixed"):
                raise
    return programs


def by_messages(program, args, survivors):
    """What the server gets if only the survivors answer."""
    aggregate = sum_of([survivors])
    return fad.execute(program, *args, aggregate=aggregate, public_size=len(survivors))


def in_one(program, args, survivors):
    """What a simulation of the survivors gives."""
    results = fused_leaves(program)(*jax.tree.leaves(chosen(args, survivors)))
    return jax.tree.unflatten(program.out_tree, results)


WAYS = (by_messages, in_one)


def is_no_program(drawn, made, spec, error):
    """What may be drawn and is refused, by docs/limitations.md."""
    if "what only a loop before it knows" in str(error):
        return True
    if "the server would choose between client values" not in str(error):
        return False
    # A choice that returns client values and whose messages have no use sends none.
    normal = normalise(made.traced(tuple(spec))[0], erase_rules=True)
    found = list(names(normal.jaxpr))
    drawn_choices = [
        s for s, _ in random_drawing.instructions(drawn.steps) if s.kind in random_drawing.CHOICES
    ]
    return sum(name == "cond" and talks for name, _, talks in found) < len(drawn_choices)


def check(drawn, modes=MODES, ways=WAYS):
    made = random_programs.computation(drawn.steps)
    args = arguments(drawn.dtype)
    spec = specs(args)
    try:
        contacts_of_value = fad.trace(made, *spec).costs.contacts
    except (TracingError, PlacementError) as error:
        if is_no_program(drawn, made, spec, error):
            return
        raise
    traced = traced_modes(drawn, made, spec, modes)
    survivors = drawn.survivors
    # Without compilation: these programs are tiny and each runs a few times only.
    with jax.disable_jit():
        oracle = random_programs.oracle(drawn.steps, len(survivors))
        expected = value_and_gradient(oracle, drawn.wrt)(*chosen(args, survivors))
        for program, way in itertools.product(traced.values(), ways):
            close(way(program, args, survivors), expected, drawn.tolerance)
    for program in traced.values():
        assert fad.CLIENTS not in program.out_placements
        for name, params, _ in names(program.jaxpr.jaxpr):
            assert "axis_name" not in params, name
            assert not name.startswith("psum"), name
    contacts = {mode: program.costs.contacts for mode, program in traced.items()}
    if "mixed" in contacts:
        assert contacts["mixed"] <= contacts_of_value
    if {"factored", "reverse"} <= set(contacts):
        assert contacts["factored"] <= contacts["reverse"]


def examine(seed, depth, most, modes=MODES, ways=WAYS):
    """Checks the program of a seed; says which smaller program fails in the same way."""
    drawn = random_drawing.program(seed, depth, most)

    def failure(smaller):
        try:
            check(smaller, modes, ways)
        except Exception as error:
            return error
        return None

    found = failure(drawn)
    if found is not None:
        least = random_drawing.reduced(drawn, lambda p: type(failure(p)) is type(found))
        found.add_note(f"Seed {seed}; the smallest program that fails so: {least}")
        raise found


@pytest.mark.sample(quick=2, slow=20)
@pytest.mark.parametrize("seed", range(50))
def test_fifty_random_programs_obey_the_law(seed):
    # One mode and one way each; the nightly profile takes all of them.
    examine(seed, 1, 3, (MODES[seed % 4],), (WAYS[seed // 4 % 2],))


@pytest.mark.sample(quick=0, slow=40)
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(600))
def test_six_hundred_random_programs_obey_the_law(seed):
    examine(seed, 2, 6)


def test_random_programs_contain_every_instruction():
    drawn = [random_drawing.program(seed, 2, 6) for seed in range(600)]
    seen = {(step.kind, step.op) for p in drawn for step, _ in random_drawing.instructions(p.steps)}
    assert seen == random_drawing.every_instruction()
    assert {kind for kind, _ in seen} == set(random_programs.HANDLERS)
