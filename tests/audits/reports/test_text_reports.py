"""What a person reads: the line of the misuse, where the client's value entered, one suggestion."""

import pytest

import audits
from audits.commands.certification import Outputs, certify_one
from audits.commands.requests import Request
from audits.commands.targets import Target
from audits.reports.html import render_html
from audits.reports.json import report_to_dict
from audits.reports.text import render_texts

MODEL = """\
import jax
import jax.numpy as jnp
import secfad as fad

table = jnp.arange(3.0)


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def implicit(w, x):
    scaled = x * 2.0
    return fad.mean(scaled * w)


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def printed(w, x):
    shifted = x + 1
    jax.debug.print("{}", shifted)
    return fad.mean(shifted) + w


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def captured(w, x):
    return fad.mean(x * table) + w


v = jax.ShapeDtypeStruct((3,), jnp.float32)
SPECS = {name: (v, v) for name in ("implicit", "printed", "captured")}
"""
IMPLICIT = """\
reject[FAD102] implicit-broadcast: `mul` expected values of one place, got a server value (argument `w`) \
and a client value (argument `x`)
  --> FILE:11:21 (implicit)
    |
 11 |     return fad.mean(scaled * w)
    |                     ^ client value `x` ends here
  ::: FILE:8:32 (implicit)
   |
 8 | @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
   |                                ^ client value `x` enters here
  = help: Wrap `w` in `fad.broadcast`
  = note: secfad certify --explain FAD102

implicit (primal): rejected."""
PRINTED = """\
reject[FAD003] host-callback: `debug_print` passes a client value to host Python
  --> FILE:17:5 (printed)
    |
 17 |     jax.debug.print("{}", shifted)
    |     ^ client value `x` ends here
  ::: FILE:16:15 (printed)
    |
 16 |     shifted = x + 1
    |               ^ client value `x` enters here
  = help: Remove the callback; return the value of interest through `fad.sum`
  = note: the same in the forward derivative
  = note: secfad certify --explain FAD003

printed (primal): rejected.
printed.jvp (forward): rejected."""


@pytest.fixture
def said(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)

    def run(name, modes):
        lines, request = [], Request(Target(str(path), name), modes=modes)
        assert certify_one(request, Outputs(write=lines.append)) == 1
        return "\n".join(lines).replace(str(path), "FILE")

    return run


def test_forgotten_broadcast_shows_both_ends_and_the_remedy(said):
    assert said("implicit", ("all",)) == IMPLICIT


def test_what_two_modes_share_is_said_once(said):
    assert said("printed", ("forward",)).replace("debug_callback", "debug_print") == PRINTED


def test_captured_array_names_the_line_that_uses_it(said):
    text = said("captured", ("primal",))
    assert "reject[FAD005]" in text
    assert "  --> FILE:23:21 (captured)" in text
    assert "return fad.mean(x * table) + w" in text


def lines_of(report):
    return [line.strip() for line in render_texts({"primal": report}).splitlines()]


def median(x):
    centred = x - 1.0
    return jax_median(centred)


def jax_median(x):
    import jax.numpy as jnp

    return jnp.median(x, axis=0)


def looped(w, x):
    import jax
    import jax.numpy as jnp

    def step(carry, _):
        inner = jnp.sin(x)
        return carry + inner[0], None

    return jax.lax.scan(step, w, None, length=2)[0]


ROWS = audits.Arg("x", (6, 3), "float32", "clients")
MODEL_ARG = audits.Arg("w", (3,), "float32", "server")


@pytest.mark.parametrize(
    ("fn", "args", "marked", "entry"),
    [
        (median, [ROWS], "return jnp.median(x, axis=0)", "centred = x - 1.0"),
        (looped, [MODEL_ARG, ROWS], "return carry + inner[0], None", "inner = jnp.sin(x)"),
    ],
)
def test_value_is_followed_out_of_functions_and_loops(fn, args, marked, entry):
    report = audits.check(fn, args, style="stacked")
    assert report.findings[0].source == "client value `x`"
    lines = lines_of(report)
    assert any(line.endswith(marked) for line in lines)
    assert any(line.endswith(entry) for line in lines)


def test_other_formats_know_where_it_entered():
    report = audits.check(median, [ROWS], style="stacked")
    body = report_to_dict(report)
    assert body["findings"][0]["source"] == "client value `x`"
    assert "(median)" in body["findings"][0]["entered"][0]
    page = render_html({"primal": report}, "median")
    assert "client value `x` enters" in page
    assert "centred = x - 1.0" in page
