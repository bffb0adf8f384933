"""Each rule of the second walk against the primitive itself.

For every primitive that a rule names, random facts about its operands are drawn, then concrete values
that the facts allow, in every dtype down to eight bits; the primitive runs, jitted and equation by
equation, and its results must be what the walk states of them.
"""

import collections
import zlib

import jax
import numpy as np
import pytest
from abstract_inputs import Scene
from abstract_soundness import Refused, contradictions, walk
from rule_cases import automatic, elsewhere, handled

from audits.bounds.domains import relations, stability
from audits.transfer.labels import Label, Place, data_axes

HANDLED = sorted(handled() - elsewhere())
SIZES = [
    pytest.param(3, id="short"),
    pytest.param(5, id="long", marks=pytest.mark.slow),
    pytest.param(300, id="night", marks=[pytest.mark.slow, pytest.mark.night]),
]
# What is known to be wrong: primitive and part of the fact. Delete an entry with its repair.
OPEN: dict[tuple[str, str], str] = {}
SCENES, RUNS = 20, 4
# Roundings of half a unit in the last place, each way, that one primitive makes; two otherwise.
ROUNDINGS = {
    "reduce_sum": 9,
    "dot_general": 9,
    "tanh": 8,
    "exp": 8,
    "erf_inv": 8,
    "sin": 4,
    "cos": 4,
    "logistic": 8,
    "integer_pow": 6,
    "erf": 8,
    "federated_clip": 8,
    "federated_clip_rows": 8,
}


def labels_of(operands):
    """One client's values, and copies of server scalars."""
    place = lambda o: Place.COPY if o.server else Place.CLIENT
    return [Label(place(o), data_axes(len(o.shape)), phase=0 if o.server else -1) for o in operands]


def equation_of(name, rng):
    """A random equation: its program and operands, or None if JAX has no such primitive for them."""
    function, operands = automatic(name)(rng)
    specs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, _ in operands]
    try:
        closed = jax.make_jaxpr(function)(*specs)
    except (TypeError, ValueError, NotImplementedError, AssertionError):
        return None
    if name not in {e.primitive.name for e in closed.jaxpr.eqns}:
        return None
    return closed, operands


def fuzz(name, equations, *, seed=0):
    """Contradictions of one primitive's rules, and what was tried."""
    found, seen = [], collections.Counter()
    for index in range(equations):
        rng = np.random.default_rng([zlib.crc32(name.encode()), seed, index])
        made = equation_of(name, rng)
        if made is None:
            continue
        closed, operands = made
        for _ in range(SCENES):
            scene = Scene(rng)
            scene.fill(operands)
            try:
                prover = walk(closed, labels_of(scene.operands), [o.fact for o in scene.operands])
            except Refused:
                seen["refused"] += 1
                continue
            note_parts(prover, seen)
            for run in range(RUNS):
                values, hidden, names = scene.sample(rng)
                replay = contradictions(
                    prover, closed, values, names=names, hidden=hidden, jitted=run % 2 == 1,
                    steps=ROUNDINGS.get(name, 2) / 2,
                )  # fmt: skip
                if any(path[-1:] == ("given",) for path, *_ in replay.found):
                    seen["drawn outside"] += 1  # an input that its fact does not allow
                    continue
                seen["draws"] += 1
                found += [(what, closed, scene, values, hidden, names) for what in replay.found]
    return found, seen


def note_parts(prover, seen):
    """Counts what the rules stated, so that a rule that states nothing is seen."""
    for facts in prover.made.values():
        for fact in facts:
            for part in ("norms", "relation", "scaled", "multiple", "amount", "part"):
                seen[part] += bool(getattr(fact, part))
            seen["interval"] += not (fact.interval.nan and fact.interval.inf)


def told(item):
    """A contradiction as text: the equation, the facts and values of its operands, the result."""
    (_, primitive, text, fact, value), closed, scene, values, hidden, names = item
    lines = [f"{primitive}: {text}", str(closed.jaxpr)]
    for operand, concrete in zip(scene.operands, values):
        lines.append(f"  operand {short(operand.fact)}\n    = {concrete!r}")
    lines += [f"  hidden {k} = {v!r}" for k, v in hidden.items()] + [f"  {names}"] * bool(names)
    lines.append(f"  result {short(fact)}\n    = {value!r}")
    return "\n".join(lines)


def short(fact):
    """A fact without its empty parts."""
    return {
        k: v for k, v in fact._asdict().items() if v not in (None, (), "", frozenset(), 0, False)
    }


def test_every_rule_has_a_case():
    missing = [name for name in HANDLED if automatic(name) is None]
    assert not missing, "add cases to rule_cases.py"


@pytest.mark.sample(quick=5)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", HANDLED)
def test_results_are_as_the_rules_state(name, size):
    found, seen = fuzz(name, size)
    new = [item for item in found if (item[0][1], part_of(item)) not in OPEN]
    assert not new, "\n\n".join(map(told, new[:3]))
    assert seen["draws"] > 9 * seen["drawn outside"]


def part_of(item):
    """The part of the fact that is contradicted."""
    return item[0][2].split(":")[0]


STATED = [(name, "relation") for name in relations._RULES] + [
    (name, "norms") for name in stability._RULES
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), [s for s in STATED if s[0] in HANDLED])
def test_every_rule_states_something_in_some_scene(name, part):
    for seed in range(40):
        if fuzz(name, 2, seed=seed)[1][part]:
            return
    pytest.fail(f"no scene in which the rule of {name} states {part}")


@pytest.mark.slow
@pytest.mark.parametrize("entry", OPEN)
def test_what_is_known_to_be_wrong_still_is(entry, request):
    request.applymarker(pytest.mark.xfail(reason=OPEN[entry], strict=True))
    found, _ = fuzz(entry[0], 20)
    assert entry not in {(item[0][1], part_of(item)) for item in found}
