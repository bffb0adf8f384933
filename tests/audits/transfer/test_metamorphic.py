"""Changes that mean nothing change nothing: verdict, messages and bounds stay what they were."""

import jax
import jax.numpy as jnp
import pytest
from corpus_programs import CASES
from verdicts import arguments, judged

import audits
import secfad as fad

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DrJAX asks for an old mesh
PRIMAL = [c for c in CASES if c.mode == "primal" and c.style != "drjax"]
MARKS = [() if k % 8 == 0 else pytest.mark.slow for k in range(len(PRIMAL))]


def with_dead_code(fn):
    def changed(*values):
        for value in values:
            if jnp.issubdtype(value.dtype, jnp.number):
                jnp.sort(value.ravel() * 2)
        return fn(*values)

    return changed


CHANGES = {
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "twice jit": lambda fn: jax.jit(jax.jit(fn)),
    "dead code": with_dead_code,
    "copies": lambda fn: lambda *v: jax.tree.map(lambda a: a, fn(*jax.lax.optimization_barrier(v))),
}


EFFECTS = ("mutable_cell", "printed_rows")  # cannot be wrapped in every way
WRAPPED = [
    pytest.param(case, change, id=f"{case.name}-{change}", marks=marks)
    for case, marks in zip(PRIMAL, MARKS, strict=True)
    for change in CHANGES
    if not (case.name in EFFECTS and change in ("remat", "copies"))
]


def schedule(report):
    return sorted((e.kind, e.shape, e.dtype, e.count, e.depth) for e in report.facts.events)


@pytest.mark.parametrize(("case", "change"), WRAPPED)
def test_wrapped_program_is_judged_alike(case, change):
    before, after = judged(case), judged(case, CHANGES[change](case.fn))
    assert after.kind == before.kind, [f.message for f in after.findings]
    if before.kind != "reject":
        assert schedule(after) == schedule(before)
        assert after.facts.sensitivity == before.facts.sensitivity


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.name, marks=marks) for c, marks in zip(PRIMAL, MARKS, strict=True)],
)
def test_order_of_arguments_does_not_matter(case):
    before = judged(case)
    after = judged(case, lambda *v: case.fn(*v[::-1]), arguments(case)[::-1])
    assert (after.kind, schedule(after)) == (before.kind, schedule(before))


W = audits.Arg("w", (3,), "float32", "server")
V = audits.Arg("v", (3,), "float32", "clients")


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_scaled_clip_scales_the_bound(scale):
    report = audits.check(lambda v: fad.sum(scale * fad.clip(v, 0.5)), [V], profile="secagg+dp")
    assert report.facts.sensitivity == (0.5 * scale,)


def test_forward_derivative_of_a_linear_program_sends_the_same_twice():
    linear = lambda w, v: fad.sum(fad.broadcast(w) * v)
    primal = audits.check(linear, [W, V])
    forward = audits.check(linear, [W, V], mode="jvp", wrt=(0,))
    assert schedule(forward) == sorted(2 * schedule(primal))


def test_reverse_of_reverse_is_a_program_of_sums_and_broadcasts():
    loss = lambda w, v: fad.mean(jnp.sum(jnp.sin(fad.broadcast(w) * v)))
    twice = lambda w, v: jnp.sum(jax.grad(loss)(w, v) ** 2)
    for mode in ("primal", "vjp", "jvp"):
        report = audits.check(twice, [W, V], mode=mode, wrt=() if mode == "primal" else (0,))
        assert report.kind != "reject", [f.message for f in report.findings]


def test_split_scan_sends_as_much_as_the_whole_one():
    def step(w, v):
        return w - 0.1 * fad.mean(jnp.sin(fad.broadcast(w) * v))

    def run(lengths):
        def program(w, v):
            for length in lengths:
                w = jax.lax.scan(lambda c, _: (step(c, v), None), w, None, length=length)[0]
            return w

        return audits.check(program, [W, V]).facts

    whole, parts = run([6]), run([2, 4])
    assert (whole.rounds, whole.sums, whole.up_bytes) == (parts.rounds, parts.sums, parts.up_bytes)
