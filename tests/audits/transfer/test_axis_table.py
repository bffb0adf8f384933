"""The walk accepts what the table of the translator accepts, with the axis of clients at one place.

Every equation of random stacked programs is asked of both: what the table refuses, the walk refuses,
what the table keeps, the walk keeps at the same position, and what needs equal rows, both refuse
without them.
"""

import collections

import numpy as np
import pytest
from axis_operations import OPERATIONS, N

import audits
from audits.checking import checking
from audits.checking.checking import walk
from audits.checking.frontends import trace_mode
from audits.transfer.axis import has_rows
from audits.transfer.labels import CLIENT_AXIS, MERGED, Place, public
from audits.transfer.styles import STYLES
from audits.transfer.transfer import mutated
from secfad.inner import Literal
from secfad.interop.axes import effect
from secfad.interop.axis_rules import Kept, Refused

CONTROL = {"scan", "while", "cond", "jit", "pjit", "checkpoint", "custom_jvp_call",
           "custom_vjp_call", "custom_linear_solve"}  # fmt: skip
DRAWS = [pytest.param(3, id="short"), pytest.param(60, id="long", marks=pytest.mark.slow)]


def equations_with_labels(checker):
    """Equations on values with an axis of clients, with the labels of operands and results."""
    for path, labels in checker.evidence.items():
        for equation in checker.programs[path].eqns:
            of = [None if isinstance(v, Literal) else labels[v] for v in equation.invars]
            known = [x for x in of if x is not None]
            clean = not any(x.poisoned or MERGED in x.tags for x in known)
            if clean and any(CLIENT_AXIS in x.tags for x in known):
                yield equation, of, [labels[v] for v in equation.outvars]


def answered(equation, labels):
    """What the table says: the axes of the results, "sum", "refused" or "unknown"."""
    axes = [None if x is None else x.client_axis for x in labels]
    try:
        found = effect(equation, axes, N)
    except Refused as reason:
        return "unknown" if reason.kind == "unknown" else "refused"
    for index, axis in found.takes.items():
        shape = equation.invars[index].aval.shape
        if not has_rows(labels[index] or public(len(shape)), shape, axis):
            return "refused"
    return found.axes if isinstance(found, Kept) else "sum"


def read(labels):
    """What the walk says of the results."""
    if any(x.poisoned for x in labels):
        return "refused"
    if all(x.place == Place.SERVER for x in labels):
        return "sum"
    return tuple(x.client_axis for x in labels)


@pytest.mark.sample(quick=8)
@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_walk_and_the_table_agree(name, draws):
    argument = audits.Arg("x", (N, N, N), "float32", "clients")
    differ = collections.Counter()
    for seed in range(draws):
        fun = lambda x: OPERATIONS[name](np.random.default_rng(seed), x)  # noqa: B023
        try:
            traced = trace_mode(fun, [argument], style=STYLES["stacked"], mode="primal", wrt=())
        except (TypeError, ValueError):
            continue
        checker, _ = walk(traced, STYLES["stacked"])
        for equation, of, made in equations_with_labels(checker):
            if equation.primitive.name in CONTROL or any(MERGED in x.tags for x in made):
                continue
            table = answered(equation, of)
            if table == "sum" and equation.primitive.name == "conv_general_dilated":
                continue  # the walk takes no convolution over clients for a sum
            if table not in ("unknown", read(made)):
                differ[equation.primitive.name, table, read(made)] += 1
    assert not differ


def test_a_rule_that_has_the_clients_elsewhere_is_refused(monkeypatch):
    lost = lambda step: step.inputs[0]
    monkeypatch.setattr(checking, "TRANSFER", mutated("transpose", lost))
    argument = audits.Arg("x", (N, N, N), "float32", "clients")
    report = audits.check(lambda x: x.transpose(1, 0, 2).sum(1), [argument], style="stacked")
    assert [f.rule for f in report.findings] == ["FAD001"]
