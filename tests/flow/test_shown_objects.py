"""Programs, plans, reports, certificates and ledgers show themselves, as text and in notebooks."""

import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import pytest

import audits
import privacy
import secfad as fad

HOSTILE = "<script>alert('x')</script>"
ONE = jax.ShapeDtypeStruct((3,), "float32")
VOID = {"br", "meta", "rect", "path", "line", "circle"}


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def step(w, x):
    return w - fad.mean(fad.broadcast(w, name="model") - x, name=HOSTILE)


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def loss(w, x):
    return fad.mean(jnp.sum((fad.broadcast(w) - x) ** 2), name=HOSTILE)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    mechanism = privacy.Gaussian(noise_multiplier=4.0, clip_norm=2.0)
    private = privacy.privatize(step, ONE, ONE, mechanism=mechanism)
    certificate = audits.certify(private)
    query = privacy.Query(private, certificate)
    path = tmp_path_factory.mktemp("shown") / "ledger.db"
    slots = [query.slot(privacy.FullParticipation(population=5), 5)]
    budget = privacy.Budget(epsilon=5.0, delta=1e-5)
    with privacy.Ledger.create(path, budget, population=5, slots=slots) as ledger:
        yield {
            "program": private.program,
            "plan": fad.plan(loss, ONE, ONE),
            "report": audits.check(
                lambda w, x: w + x,
                [
                    audits.Arg("w", (3,), "float32", "server"),
                    audits.Arg("x", (3,), "float32", "clients"),
                ],
            ),
            "certificate": certificate,
            "ledger": ledger,
        }


# What a reader looks for.
SAID = {
    "program": ("round 1", "model", "contacts 1, rounds 1", "12 B"),
    "plan": ("derivative of loss by `w`", "cheapest: mixed", "forward"),
    "report": ("rejected", "FAD1"),
    "certificate": (
        "certificate of step",
        "secagg+dp",
        "digest",
        "broadcast",
        "norm",
        "noise_multiplier",
    ),
    "ledger": ("5 clients", "training", "epsilon", "spent: released", "0.0000"),
}


class Checker(HTMLParser):
    """Every element is closed, none is a script, nothing is loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "img", "iframe")
        assert not any(name in ("src", "href") or name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", SAID)
def test_text_says_what_matters(shown, name):
    text = str(shown[name])
    assert all(word in text for word in SAID[name]), text
    assert not re.search(r" at 0x[0-9a-f]+", text)


@pytest.mark.parametrize("name", SAID)
def test_html_is_closed_escaped_and_loads_nothing(shown, name):
    page = shown[name]._repr_html_()
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert "<script" not in page
    assert "url(http" not in page
    assert "@import" not in page
    for word in {"report": ("rejected", "FAD1"), "ledger": SAID["ledger"]}.get(name, ()):
        assert word in checker.text


@pytest.mark.parametrize("name", ["program", "certificate"])
def test_names_of_sums_are_shown_as_they_are(shown, name):
    checker = Checker()
    checker.feed(shown[name]._repr_html_())
    assert "<script>" in checker.text


def test_a_closed_ledger_shows_its_budget(tmp_path):
    budget = privacy.Budget(epsilon=5.0, delta=1e-5)
    with privacy.Ledger.create(tmp_path / "l.db", budget, population=5) as ledger:
        assert repr(ledger).startswith(f"<Ledger {ledger.id[:12]} of 5 clients at ")
    for text in (str(ledger), ledger._repr_html_()):
        assert "closed" in text
        assert "5.0" in text


def test_a_program_that_cannot_be_bound_shows_itself():
    def called(w, x):
        jax.debug.callback(lambda a: None, w)
        return fad.mean(fad.broadcast(w) * x)

    program = fad.trace(fad.computation(w=fad.SERVER, x=fad.CLIENTS)(called), ONE, ONE)
    assert "called" in repr(program)
    assert "called" in str(program)
