"""The rule table and the transfer rules: none missing, none superfluous."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
from corpus_programs import CASES
from verdicts import arguments, judged

from audits.checking import checking
from audits.checking.frontends import trace_mode
from audits.rules.catalogue import RULES
from audits.rules.families import ACCEPTING, DECISIONS
from audits.transfer import axis, registry
from audits.transfer.labels import Label, Place, data_axes
from audits.transfer.styles import STYLES
from audits.transfer.transfer import TRANSFER, mutated
from secfad._jax import ClosedJaxpr, Primitive, sub_jaxprs
from secfad.jaxprs.origins import registered

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DrJAX asks for an old mesh
DOCS = Path(__file__).parents[3] / "docs" / "rules"


def families_of(case):
    """The families whose rules a program needs."""
    try:
        traced = trace_mode(
            case.fn, arguments(case), style=STYLES[case.style], mode=case.mode, wrt=case.wrt
        )
    except Exception:
        return {"untraceable"}
    found = set()

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            found.add(registry.family(equation.primitive, style=case.style))
            for value in equation.params.values():
                for body in sub_jaxprs(value):
                    visit(body.jaxpr if isinstance(body, ClosedJaxpr) else body)

    visit(traced.closed.jaxpr)
    return found


@functools.cache
def needs():
    return [(case, families_of(case)) for case in CASES]


# Primitives that older versions of JAX do not have: no program can need their rules there.
NEWER = {"stack", "unstack"} - {name for _, name in registered().values()}


@pytest.mark.parametrize("family", sorted(set(TRANSFER) - NEWER))
def test_every_transfer_rule_is_needed(family, monkeypatch):
    programs = needs()
    monkeypatch.setattr(checking, "TRANSFER", mutated(family, None))
    for case, needed in programs:
        if family in needed:
            report = judged(case)
            rules = {f.rule for f in report.findings}
            if report.kind != case.kind or (case.kind != "accept" and not rules & case.rules):
                return
    pytest.fail(f"no program of the corpus notices that the rule of {family} is gone")


def passing(step):
    """A rule that checks nothing: what comes out is like what went in, wherever it fits."""
    made = []
    for variable in step.equation.outvars:
        rank = len(variable.aval.shape)
        alike = [label for label in step.inputs if len(label.axes) == rank]
        place = max((label.place for label in step.inputs), default=Place.PUBLIC)
        made.append(alike[0] if alike else Label(place, data_axes(rank)))
    return made


def forget_axes(monkeypatch, family):
    """Lets the walk ask the table nothing about the primitives of a family."""
    asked, agrees = axis.asked, axis.agrees
    others = lambda step, of: None if of == family else asked(step, of)
    monkeypatch.setattr(axis, "asked", others)
    free = lambda step, found, of, out: of == family or agrees(step, found, of, out)
    monkeypatch.setattr(axis, "agrees", free)


REFUSALS = sorted({
    "elementwise", "reshape", "reduce_sum", "reduce_other", "ordered", "sort", "top_k", "dot_general",
    "taken", "dynamic_slice", "pad", "gather", "scatter", "concatenate", "conv", "window", "scan",
    "cond", "while", "federated_broadcast", "federated_sum", "psum", "extremum_collective",
    "axis_index", "collective", "callback", "kernel", "reference", "drjax_sum", "bitcast",
    "call", "linear_solve", "federated_clip",
})  # fmt: skip


@pytest.mark.parametrize("family", REFUSALS)
def test_a_rule_that_refuses_nothing_is_noticed(family, monkeypatch):
    programs = needs()
    monkeypatch.setattr(checking, "TRANSFER", mutated(family, passing))
    forget_axes(monkeypatch, family)
    for case, needed in programs:
        if family not in needed:
            continue
        try:
            report = judged(case)
        except Exception:
            return  # the check itself fails
        rules = {f.rule for f in report.findings}
        if report.kind != case.kind or (case.kind == "reject" and not rules & case.rules):
            return
    pytest.fail(f"no program of the corpus notices that the rule of {family} lets everything pass")


def test_every_accepting_family_has_a_rule():
    assert set(TRANSFER) >= ACCEPTING


PRIMITIVES = """
from jax._src.interpreters import ad, batching, mlir
from jax.experimental import multihost_utils  # registers primitives when imported
import secfad
registries = (mlir._lowerings, ad.primitive_jvps, ad.primitive_transposes,
              batching.fancy_primitive_batchers)
print(*{p.name for r in registries for p in r if "jax" in type(p).__module__}, sep="\\n")
"""


def test_every_primitive_of_the_installed_jax_has_a_decision():
    # A process of its own: libraries that other tests import register primitives of theirs.
    run = subprocess.run(
        [sys.executable, "-c", PRIMITIVES], capture_output=True, check=True, text=True
    )
    names = set(run.stdout.split())
    own = ("federated_", "broadcast_", "sum_from_", "mean_from_", "add_client_", "remove_client_")
    undecided = {n for n in names if n not in DECISIONS and not n.startswith(own)}
    assert not undecided - {"fake", "sum_from_clients"}, sorted(undecided)


def test_accepted_primitives_are_known_by_identity():
    missing = []
    for name, family in DECISIONS.items():
        if family in ACCEPTING and name not in {n for _, n in registered().values()}:
            missing.append(name)
    # Names of other JAX versions, and of primitives that only reverse mode makes.
    assert set(missing) <= {
        "pjit", "core_call", "call", "checkpoint", "remat", "remat2", "custom_vjp_call_jaxpr",
        "custom_jvp_call", "pvary", "scatter_add", "scatter_sub", "scatter_mul", "scatter_min",
        "scatter_max", "random_clone", "geqrf", "custom_linear_solve", "linear_solve",
        "reduce_and_scatter", "select_and_scatter_add", "psum2", "mulhi", "stack", "unstack",
    }, missing  # fmt: skip


@pytest.mark.parametrize("name", ["add", "federated_sum", "federated_broadcast", "psum", "jit"])
def test_primitive_with_a_borrowed_name_is_an_impostor(name):
    assert registry.family(Primitive(name), style="native") == registry.IMPOSTOR


def test_unheard_of_primitive_is_unknown():
    assert registry.family(Primitive("fresh_from_the_lab"), style="native") == registry.UNKNOWN


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda r: r.id)
def test_rule_card_is_complete(rule):
    assert rule.message[0] in "`{" or rule.message[0].islower()
    assert not rule.message.endswith(".")
    assert len(rule.why) > 20
    assert rule.example
    assert rule.remedy[0].isupper()


def test_rule_pages_are_those_of_the_table():
    from audits.rules.pages import pages

    stated = pages()
    assert {p.name for p in DOCS.glob("*.md")} == set(stated)
    for name, text in stated.items():
        assert (DOCS / name).read_text() == text, f"run python -m audits.rules.pages: {name}"
