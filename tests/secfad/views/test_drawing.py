"""A picture is well-formed, names every message, and nothing in it lies on anything else."""

import itertools
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import pytest

import secfad as fad
from secfad.views.layout import LETTER, WIDTH, cells

S, C = fad.SERVER, fad.CLIENTS
ROW = jax.ShapeDtypeStruct((3,), jnp.float32)


def two_rounds(w, x):
    first = fad.mean(jnp.sin(fad.broadcast(w, name="model") * x), name="first")
    return fad.mean(jnp.sum(fad.broadcast(w - first, name="new") * x) ** 2, name="loss")


def many_leaves(w, x):
    parts = [fad.broadcast(w * i, name=f"a_layer_with_a_long_name_{i}") for i in range(30)]
    return fad.mean(jnp.sum(jnp.sin(sum(parts) * x)), name="loss")


def thirty_rounds(w, x):
    for i in range(30):
        w = w - fad.mean(jnp.sin(fad.broadcast(w, name=f"model{i}") * x), name=f"gradient{i}")
    return jnp.sum(w)


def nested_loops(w, x):
    inner = lambda w, _: (w - fad.mean(jnp.sin(fad.broadcast(w) * x), name="gradient"), None)
    outer = lambda w, _: (0.9 * jax.lax.scan(inner, w, None, length=4)[0], None)
    return jnp.sum(jax.lax.scan(outer, w, None, length=3)[0])


def branches(w, x):
    first = lambda: fad.mean(jnp.sum(jnp.sin(fad.broadcast(w, name="one") * x)), name="sine")
    second = lambda: fad.mean(jnp.sum(jnp.cos(fad.broadcast(w, name="two") * x)), name="cosine")
    return jax.lax.cond(w[0] > 0, first, second)


def special_names(w, x):
    """XML's own characters, wide ones, and one that XML cannot hold."""
    received = fad.broadcast(w, name='<b> & "q" é')
    return fad.mean(jnp.sum(received * x), name="損失\x07")


def without_messages(w, x):
    return jnp.sum(w**2)


PROGRAMS = [two_rounds, many_leaves, thirty_rounds, nested_loops, branches, special_names]


def picture(fun, mode=None):
    computation = fad.computation(w=S, x=C)(fun)
    derived = fad.value_and_grad(computation, mode=mode) if mode else computation
    return fad.trace(derived, ROW, ROW)


def parts(program, kind):
    root = ElementTree.fromstring(program.to_svg())
    return root, [e for e in root.iter() if e.tag.endswith(kind)]


def span(text):
    """Left and right end of a text, by the width of a letter that the layout counts on."""
    x, width = float(text.get("x")), 0.9 * LETTER * cells(text.text or "")
    left = {"start": 0.0, "middle": width / 2, "end": width}[text.get("text-anchor", "start")]
    return x - left, x - left + width


def overlapping(texts):
    """Pairs of texts that lie on each other."""
    for a, b in itertools.combinations(texts, 2):
        near = abs(float(a.get("y")) - float(b.get("y"))) < 10
        if near and span(a)[0] < span(b)[1] and span(b)[0] < span(a)[1]:
            yield a.text, b.text


@pytest.mark.sample(quick=6)
@pytest.mark.parametrize("mode", [None, "reverse", "mixed"])
@pytest.mark.parametrize("fun", [*PROGRAMS, without_messages])
def test_nothing_lies_on_anything_else_or_outside(fun, mode):
    program = picture(fun, mode)
    root, texts = parts(program, "text")
    assert not list(overlapping(texts))
    for text in texts:
        left, right = span(text)
        assert 0 <= left < right <= float(root.get("width"))
        assert 0 < float(text.get("y")) < float(root.get("height"))
    boxes = [e for e in root.iter() if e.get("class") in ("server", "client")]
    for a, b in itertools.combinations(boxes, 2):
        starts = sorted(float(e.get("x")) for e in (a, b))
        assert a.get("y") != b.get("y") or starts[0] + float(a.get("width")) <= starts[1]


@pytest.mark.parametrize("mode", [None, "forward", "reverse", "mixed"])
@pytest.mark.parametrize("fun", [two_rounds, branches, nested_loops, thirty_rounds])
def test_every_message_is_named(fun, mode):
    program = picture(fun, mode)
    words = " ".join(e.text or "" for e in parts(program, "text")[1])
    sent = {
        line.split()[1]
        for line in program.table().splitlines()
        if line.split()[0] in ("up", "down")
    }
    assert sent
    for name in sent:
        assert name in words


def test_the_rest_of_many_messages_is_summed_up():
    words = [e.text for e in parts(picture(many_leaves), "text")[1]]
    assert "and 26 more" in words
    assert f"{26 * 12} B" in words


def test_a_long_program_goes_on_in_the_next_row():
    root, _ = parts(picture(thirty_rounds), "text")
    assert float(root.get("width")) < WIDTH + 200
    lanes = [e for e in root.iter() if e.get("class") == "lane"]
    assert len(lanes) > 10


def test_loops_are_framed_and_say_what_clients_keep():
    words = [e.text for e in parts(picture(nested_loops, "reverse"), "text")[1]]
    assert words.count("repeat 3 times") == words.count("repeat 4 times") == 2
    assert "keeps 144 B" in words


def test_branches_are_framed_apart():
    words = [e.text for e in parts(picture(branches), "text")[1]]
    assert {"one of 2 branches", "branch 0", "branch 1"} <= set(words)


def test_characters_that_xml_cannot_hold_are_replaced():
    words = [e.text for e in parts(picture(special_names), "text")[1]]
    assert "損失\ufffd" in words


def test_styles_touch_no_other_picture_of_a_page():
    root, _ = parts(picture(two_rounds), "text")
    style = next(e for e in root.iter() if e.tag.endswith("style")).text
    rules = [rule for rule in style.split("}") if rule]
    assert all(rule.startswith(".secfad ") for rule in rules)
