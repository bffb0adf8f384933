"""Mutation of accepted programs: no accepted mutant leaks, in any style.

The programs of the corpus that are accepted are changed at one place; every mutant that the checker
still accepts is handed to the oracles, which execute it and compare what the server sees.
"""

import collections

import jax
import numpy as np
import pytest
from corpus_programs import CASES
from mutations import Inapplicable, random_mutant
from oracles import examine
from verdicts import arguments, judged
from worlds import Leak, Undecided

import audits
from audits.checking.frontends import trace_mode
from audits.transfer.styles import STYLES

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # DrJAX asks for an old mesh
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # hostile numbers overflow
]
SHARES = {"native": 20, "stacked": 8, "drjax": 6, "spmd": 6}
SIZES = [
    pytest.param(1, id="short"),
    pytest.param(51, id="long", marks=[pytest.mark.slow, pytest.mark.night]),
]


def originals(style):
    return [c for c in CASES if c.style == style and c.kind != "reject"]


def mutants(style, count, seed):
    """Mutants that are programs, with the case that each comes from."""
    rng = np.random.default_rng(seed)
    cases, traced, made = originals(style), {}, 0
    while made < count:
        case = cases[int(rng.integers(len(cases)))]
        if case.name not in traced:
            traced[case.name] = trace_mode(
                case.fn, arguments(case), style=STYLES[style], mode="primal", wrt=()
            ).closed
        name, fn = random_mutant(traced[case.name], np.random.default_rng(rng.integers(2**31)))
        try:
            report = judged(case, fn)
        except Inapplicable:
            continue
        if {f.rule for f in report.findings} & {"FAD007", "FAD304"}:
            continue  # no program at all
        made += 1
        yield case, name, fn, report


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("style", SHARES)
def test_no_accepted_mutant_leaks(style, size):
    seen = collections.Counter()
    for case, name, fn, report in mutants(style, SHARES[style] * size, seed=size):
        seen[report.kind] += 1
        if report.kind == "reject":
            continue
        try:
            examine(fn, arguments(case), report, style=style, mode=case.mode, wrt=case.wrt)
        except Leak as leak:
            pytest.fail(f"{case.name}, {name}: accepted, but {leak}")
        except Undecided:
            seen["undecided"] += 1
    print(f"{style}: {dict(seen)}")
    assert seen["undecided"] <= 0.02 * seen.total()


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("style", SHARES)
def test_originals_pass_the_oracles(style):
    for case in originals(style)[::12]:
        report = judged(case)
        examine(case.fn, arguments(case), report, style=style, mode=case.mode, wrt=case.wrt)


# The oracles themselves: what they must see.

LEAKS = {
    "value": lambda total, v: total + v[0],
    "branch": lambda total, v: jax.lax.cond(v[0] > 0, lambda: total, lambda: -total),
    "bit": lambda total, v: total * (1 + (v[0] > 0)),
    "index": lambda total, v: total + jax.numpy.arange(8.0)[jax.numpy.int32(abs(9 * v[0])) % 8],
    "loop": lambda total, v: jax.lax.while_loop(
        lambda c: c[1] < abs(9 * v[0]), lambda c: (c[0] + 1, c[1] + 1), (total, 0.0)
    )[0],
}


@pytest.mark.parametrize("way", LEAKS)
def test_the_oracle_sees_a_client_value_beside_the_sum(way):
    import secfad as fad

    case = next(c for c in CASES if c.name == "native_round")
    fn = lambda w, v: LEAKS[way](fad.sum(fad.broadcast(w) * v), v)
    with pytest.raises(Leak):
        examine(fn, arguments(case), judged(case), style="native")


def test_the_oracle_sees_a_server_value_that_was_not_sent():
    import secfad as fad

    case = next(c for c in CASES if c.name == "native_round")
    with pytest.raises(Leak, match="server data"):
        examine(lambda w, v: fad.sum(w * v), arguments(case), judged(case),
                style="native")  # fmt: skip


def test_the_oracle_sees_missing_noise():
    case = next(c for c in CASES if c.name == "next_key_returned")
    report = judged(case)
    quiet = lambda key, x: (jax.numpy.sum(jax.numpy.tanh(x), axis=0), key)
    with pytest.raises(Leak, match="noise"):
        examine(quiet, arguments(case), _with_events_of(case, quiet, report), style="stacked")


def _with_events_of(case, fn, report):
    """The report of a program with noise, where the sums of another one are."""
    import dataclasses

    own = audits.check(fn, arguments(case), style="stacked").facts
    facts = dataclasses.replace(report.facts, events=own.events, bounds=())
    return dataclasses.replace(report, facts=facts)
