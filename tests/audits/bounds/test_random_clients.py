"""Random client functions: every stated fact holds, and what is accepted is as small as stated.

Three oracles on hostile inputs: the facts of all intermediate values against the values themselves,
equation by equation and compiled; and for an accepted program the largest norm that a client sends
against the stated bound, compiled and equation by equation.
"""

import collections

import jax
import numpy as np
import pytest
from abstract_soundness import Refused, contradictions, one_client, walk
from client_functions import ARGS, ClientFunction
from hostile_values import hostile

import audits
from audits.checking.frontends import trace_mode
from audits.transfer.styles import STYLES
from secfad._jax import Literal

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
SIZES = [
    pytest.param(2, id="short"),
    pytest.param(30, id="long", marks=pytest.mark.slow),
    pytest.param(50_000, id="night", marks=[pytest.mark.slow, pytest.mark.night]),
]
ROUNDED = 40  # roundings of half a unit that a value and its bound may be apart


def inputs(rng):
    """Arguments of one client; the server's are finite."""
    scalar = np.float32(rng.choice([1.0, -2.0, 0.9, 1e-3, 300.0, 1e-8, 0.5]))  # as bounds assume
    return [scalar, *(hostile(rng, a.shape, a.dtype) for a in ARGS[1:])]


def traced_at(seed, small=False):
    """A random function and its trace; None if JAX refuses it."""
    fn = ClientFunction(seed, small)
    try:
        return fn, trace_mode(fn, ARGS, style=STYLES["native"], mode="primal", wrt=())
    except (TypeError, ValueError, IndexError, NotImplementedError):
        return None


def wrong_facts(traced, rng, runs=3):
    """The facts that do not hold in some run."""
    labels = [a.label(STYLES["native"]) for a in traced.inputs]
    try:
        prover = walk(traced.closed, labels)
    except Refused:
        return []
    for run in range(runs):
        replay = contradictions(
            prover, traced.closed, inputs(rng), jitted=run % 3 == 2, steps=ROUNDED / 2
        )
        if replay.found:
            return replay.found[:1]
    return []


def sent(closed):
    """What a client sends: the operand of the only sum."""

    def run(*values):
        jaxpr = closed.jaxpr
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *values]))
        for equation in jaxpr.eqns:
            known = [a.val if isinstance(a, Literal) else env[a] for a in equation.invars]
            if equation.primitive.name == "federated_sum":
                return known[0]
            env.update(zip(equation.outvars, one_client(equation, known)))
        raise ValueError("no sum")

    return run


def largest_norm(closed, rng, runs=60):
    """The largest norm over hostile inputs, with the share of those that are not finite."""
    function = sent(closed)
    fast, worst, endless = jax.jit(function), 0.0, 0
    for run in range(runs):
        values = inputs(rng)
        result = np.asarray((function if run < 3 else fast)(*values), np.float64)
        size = float(np.linalg.norm(result.ravel()))
        endless += not np.isfinite(size)
        if np.isfinite(size):
            worst = max(worst, size)
            yield size, values
    yield (np.inf if endless else worst), None


def exceeded(fn, traced, rng):
    """Why an accepted program sends more than stated; empty if it does not."""
    report = audits.check(fn, ARGS, style="native", profile="secagg+dp")
    if report.kind == "reject":
        return report.kind, ""
    (bound,) = report.facts.bounds
    said = {f.rule for f in report.findings}
    for size, values in largest_norm(traced.closed, rng):
        limit = None if values is None else limit_of(bound.amount, values[0])
        if values is None:
            if size == np.inf and "FAD407" not in said:
                return report.kind, "not finite, and FAD407 is not said"
        elif limit is not None and size > limit * max(bound.slack, 1 + 1e-5) + 1e-30:
            return report.kind, f"sends {size}, stated is {bound.amount} = {limit}, for {values}"
    return report.kind, ""


def limit_of(amount, scalar):
    """The stated bound, if it speaks of numbers and of the server's argument only."""
    total = amount.factor
    for name, power in amount.powers:
        if name not in ("s", "x0"):
            return None
        total = total * abs(float(scalar)) ** power if scalar or power > 0 else np.inf
    return total


def outcome(seed, small=False):
    """Verdict of one random program, and what is wrong with it."""
    made = traced_at(seed, small)
    if made is None:
        return "no program", ""
    fn, traced = made
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        wrong = wrong_facts(traced, rng)
        if wrong:
            path, name, text, fact, value = wrong[0]
            stated = {k: v for k, v in fact._asdict().items() if v}
            return "fact", f"{name} at {path}: {text}\n{stated}\n{value!r}\n{traced.closed.jaxpr}"
        kind, text = exceeded(fn, traced, rng)
    return kind, f"{text}\n{traced.closed.jaxpr}" if text else ""


@pytest.mark.parametrize("count", SIZES)
def test_facts_hold_and_accepted_programs_send_what_is_stated(count):
    seen, wrong = collections.Counter(), []
    for seed in range(count):
        kind, text = outcome(seed, small=seed % 2 == 0)
        seen[kind] += 1
        if text:
            wrong.append(f"seed {seed}: {text}")
    print(f"{count} programs: {dict(seen)}")
    assert not wrong, f"{len(wrong)} of {count}\n" + "\n\n".join(wrong[:3])
    assert seen["accept"] + seen["caveat"] > 0.1 * count or count < 50
