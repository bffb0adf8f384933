"""Trees, names and public arrays as arguments of `audits.check`, and reports that show themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corpus_programs import CASES
from verdicts import judged

import audits
import secfad as fad
from audits.reports.text import render_texts
from audits.rules.native_hints import HINTS
from audits.rules.rules import Severity
from audits.transfer.labels import constant_digest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DrJAX asks for an old mesh
MODEL = {"w": jax.ShapeDtypeStruct((3,), "float32"), "b": jax.ShapeDtypeStruct((), "float32")}
BATCH = {"x": jax.ShapeDtypeStruct((8, 3), "float32"), "y": jax.ShapeDtypeStruct((8,), "float32")}
TABLE = np.arange(3.0, dtype="float32")


def stacked(model, batch):
    errors = batch["x"] @ model["w"] + model["b"] - batch["y"]
    return jnp.sum(errors**2, axis=0) / errors.shape[0]


def flat_stacked(b, w, x, y):
    return stacked({"w": w, "b": b}, {"x": x, "y": y})


def one_client(model, batch):
    return jax.lax.psum(jnp.sum(batch["x"] @ model["w"] + model["b"] - batch["y"]), "clients")


def native(model, batch):
    sent = fad.broadcast(model, name="model")
    return fad.sum(jnp.sum((batch["x"] @ sent["w"] + sent["b"] - batch["y"]) ** 2), name="loss")


def arguments(batch=BATCH):
    return [audits.Arg.tree("model", MODEL, "server"), audits.Arg.tree("batch", batch, "clients")]


def scheduled(report):
    return [(e.kind, e.shape, e.dtype, e.bytes, e.depth, e.count) for e in report.facts.events]


@pytest.mark.parametrize("mode", ["primal", "forward", "reverse"])
def test_tree_is_checked_like_its_leaves(mode):
    """The law: a program of trees has the verdict and the facts of the program of its leaves."""
    of_trees = audits.check(stacked, arguments(), style="stacked", mode=mode, wrt=["model"])
    leaves = [leaf for tree in arguments() for leaf in jax.tree.leaves(tree)]
    of_leaves = audits.check(flat_stacked, leaves, style="stacked", mode=mode, wrt=[0, 1])
    assert of_trees.kind == of_leaves.kind
    assert scheduled(of_trees) == scheduled(of_leaves)
    assert [f.rule for f in of_trees.findings] == [f.rule for f in of_leaves.findings]


@pytest.mark.parametrize(("fn", "style"), [(native, "native"), (one_client, "spmd")])
def test_programs_of_one_client_take_trees(fn, style):
    batch = {name: jax.ShapeDtypeStruct(s.shape[1:], s.dtype) for name, s in BATCH.items()}
    report = audits.check(fn, arguments(batch), style=style)
    assert report.kind != "reject", str(report)
    assert report.facts.sums == 1


def test_findings_name_the_leaf_and_the_line_of_the_function():
    def leaks(model, batch):
        return model["w"] + jnp.max(batch["x"], axis=0)

    report = audits.check(leaks, arguments(), style="stacked")
    assert report.kind == "reject"
    assert report.findings[0].source == "client value `batch['x']`"
    assert "test_check_arguments.py" in report.findings[0].line


@pytest.mark.parametrize("wrt", [["nothing"], [2], [-1]])
def test_argument_that_does_not_exist_is_refused(wrt):
    with pytest.raises(ValueError, match="in `wrt`, got"):
        audits.check(stacked, arguments(), style="stacked", mode="forward", wrt=wrt)


def test_arguments_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"Write audits\.Arg\.tree"):
        audits.check(stacked, [MODEL, BATCH], style="stacked")


def captures(x):
    return fad.sum(x * TABLE)


@pytest.mark.parametrize("public", [[TABLE], [{"a": TABLE}], [constant_digest(TABLE)]])
def test_public_array_may_be_captured(public):
    args = [audits.Arg("x", (3,), "float32", "clients")]
    assert audits.check(captures, args).findings[0].rule == "FAD005"
    assert audits.check(captures, args, public=public).kind == "accept"
    others = [TABLE + 1]
    assert audits.check(captures, args, public=others).kind == "reject"


def test_certificate_of_a_program_with_a_public_array():
    made = fad.computation(x=fad.CLIENTS)(captures)
    spec = jax.ShapeDtypeStruct((3,), "float32")
    with pytest.raises(audits.CertificationError, match="FAD005"):
        audits.certify(made, spec)
    assert audits.certify(made, spec, public=[TABLE]).digests


def test_array_of_double_precision_is_public_as_captured():
    table = np.arange(3.0)  # captured as float32
    args = [audits.Arg("x", (3,), "float32", "clients")]
    assert audits.check(lambda x: fad.sum(x * jnp.asarray(table)), args, public=[table]).kind == (
        "accept"
    )


@pytest.mark.parametrize("public", [[jax.random.key(0)], [3.0]])
def test_keys_and_numbers_are_not_public_arrays(public):
    args = [audits.Arg("x", (3,), "float32", "clients")]
    with pytest.raises(ValueError, match="Expected arrays or digests in `public`"):
        audits.check(captures, args, public=public)


def test_report_prints_itself():
    report = audits.check(captures, [audits.Arg("x", (3,), "float32", "clients")])
    assert str(report) == render_texts({"primal": report})


def test_rejections_of_array_programs_say_how_a_native_program_has_the_line():
    without, native = set(), set()
    for case in CASES:
        for item in judged(case).findings:
            if case.style == "native":
                native.add(item.native)
            elif item.severity == Severity.REJECT and item.rule[:4] in ("FAD1", "FAD2"):
                without |= set() if item.native else {item.rule}
    assert native == {""}
    assert not without


NATIVE_FORMS = {
    "FAD101": lambda w, x: fad.mean(x, name="value"),
    "FAD102": lambda w, x: fad.sum(fad.broadcast(w, name="model") * x),
    "FAD103": lambda w, x: fad.sum(x, name="delta"),
    "FAD105": lambda w, x: fad.sum(jax.nn.one_hot(x[0].astype(int), 4), name="histogram"),
    "FAD106": lambda w, x: fad.sum((x < fad.broadcast(w)).astype(jnp.float32)),
    "FAD107": lambda w, x: fad.sum(jnp.where(x > 0, x, 0.0), name="delta"),
    "FAD112": lambda w, x: fad.sum(jnp.outer(x, x), name="second_moment"),
    "FAD201": lambda w, x: jax.lax.cond(fad.sum(x[0]) > 0, lambda: w, lambda: 2 * w),
}


@pytest.mark.parametrize("rule", NATIVE_FORMS)
def test_hints_are_forms_that_the_checker_accepts(rule):
    args = [audits.Arg("w", (3,), "float32", "server"), audits.Arg("x", (3,), "float32", "clients")]
    assert rule in HINTS
    assert audits.check(NATIVE_FORMS[rule], args).kind != "reject"
