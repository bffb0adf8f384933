"""Sums in nested programs: the verdict, a measured witness, and what happens if a walk skips a part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corpus_solvers import CASES
from verdicts import judged

import secfad as fad
from audits.bounds.looping import ControlFlow
from audits.bounds.proving import Prover
from audits.bounds.values.facts import Fact, everything

N = 6


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_sum_in_a_nested_program_is_judged_as_stated(case):
    report = judged(case)
    rules = {f.rule for f in report.findings}
    assert report.kind == case.kind, (report.kind, rules, [f.message for f in report.findings])
    if case.kind != "accept":
        assert rules & case.rules, rules


def run(case):
    """The program as a function of arrays with an axis of clients."""
    if case.style == "stacked":
        return case.fn
    places = {"server": fad.SERVER, "server_key": fad.SERVER, "clients": fad.CLIENTS}
    named = {name: places[placement] for name, _, _, placement in case.args}
    return fad.simulate(fad.computation(**named)(case.fn))


def inputs(case, client):
    """Ordinary arguments, in which the first client holds `client` times what it would hold."""
    rng = np.random.default_rng(0)
    made = []
    for _, shape, dtype, placement in case.args:
        if dtype == "key<fry>":
            made.append(jax.random.key(1))
            continue
        held = placement == "clients" and case.style == "native"
        value = rng.normal(size=(N, *shape) if held else shape).astype(np.float32)
        if placement == "clients":
            value[0] *= client
        made.append(jnp.asarray(value))
    return made


PRIMAL = [c for c in CASES if c.mode == "primal" and c.profile == "secagg+dp"]
# Its sum has no bound, but a solve with a larger matrix has a smaller result.
SMALLER = {"conjugate_gradients"}
UNBOUNDED = [c for c in PRIMAL if c.rules == {"FAD401"} and c.name not in SMALLER]
BOUNDED = [c for c in PRIMAL if c.kind != "reject"]


def moved(case):
    fun = run(case)
    one, other = fun(*inputs(case, 1.0)), fun(*inputs(case, 1e5))
    changes = [
        jnp.max(jnp.abs(a - b)) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other))
    ]
    return float(max(changes))


@pytest.mark.sample(quick=6)
@pytest.mark.parametrize("case", UNBOUNDED, ids=lambda c: c.name)
def test_one_client_moves_what_is_refused_without_limit(case):
    change = moved(case)
    assert not change < 1e3, change  # also where it is not a number any more


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("case", BOUNDED, ids=lambda c: c.name)
def test_one_client_moves_what_is_accepted_by_a_few_clips(case):
    assert moved(case) < 20.0


# A walk that skips a part: no program with sums in that part may pass.

NESTED = {
    "_solve": ("bounded_symmetric_solve", "bounded_stacked_solve", "bounded_loop_inside_a_solver"),
    "_scan": ("bounded_solve_inside_a_scan", "bounded_loop_inside_a_solver"),
    "_cond": ("bounded_solve_inside_a_branch",),
    "_while": ("bounded_conjugate_gradients",),
    "_call": ("bounded_solve_inside_a_jit", "bounded_solve_inside_a_checkpoint"),
}
SKIPPED = [
    pytest.param(part, name, id=f"{part}-{name}") for part in NESTED for name in NESTED[part]
]


@pytest.mark.parametrize(("part", "name"), SKIPPED)
def test_a_walk_that_skips_a_part_ends_in_a_refusal(part, name, monkeypatch):
    def skipped(self, site, path):
        out = site.equation.outvars
        return [
            Fact(self.number("skipped", path, k), everything(v.aval.dtype))
            for k, v in enumerate(out)
        ]

    (case,) = [c for c in CASES if c.name == name]
    assert judged(case).kind != "reject"
    monkeypatch.setattr(ControlFlow, part, skipped)
    report = judged(case)
    assert report.kind == "reject"
    assert "FAD401" in {f.rule for f in report.findings}


def test_a_sum_whose_operand_is_not_recorded_is_refused(monkeypatch):
    (case,) = [c for c in CASES if c.name == "noised_sum_and_a_solve_without_clients"]
    sums = Prover._sums

    def forgetful(self, site, path):
        facts = sums(self, site, path)
        self.records.operands.clear()
        return facts

    monkeypatch.setattr(Prover, "_sums", forgetful)
    assert "FAD401" in {f.rule for f in judged(case).findings}
