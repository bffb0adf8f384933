"""What a beginner does wrong is said at the line, with the cause and what to write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.errors import ArgumentError, CohortError, PlacementError, SecfadError, TracingError

S, C = fad.SERVER, fad.CLIENTS
W, X = np.ones(3, np.float32), np.arange(60, dtype=np.float32).reshape(5, 4, 3)
Y = np.ones((5, 4), np.float32)


def loss(w, x):
    return jnp.mean((x @ fad.broadcast(w)) ** 2)


def decides(w, x):
    value = loss(w, x)
    return fad.mean(value * 0.5 if value > 1 else value)


def repeats(w, x):
    value = loss(w, x)
    while value > 1:
        value = value / 2
    return fad.mean(value)


VALUES_ASKED_FOR = {
    "an if": (decides, 2, r"Python's `if`.* in `return fad.mean\(.* if value > 1 .*jax.lax.cond"),
    "a while": (repeats, 2, r"Python's `if`, `while`.* in `while value > 1:`.*jax.lax.while_loop"),
    "float": (
        lambda w, x: fad.mean(float(loss(w, x))),
        0,
        "Python number.*Leave the value an array",
    ),
    "int": (lambda w, x: fad.mean(int(loss(w, x))), 0, "Python number.*Leave the value an array"),
    "item": (lambda w, x: fad.mean(loss(w, x).item()), 0, r"\.item\(\).*Leave the value an array"),
    "numpy": (lambda w, x: fad.mean(np.mean(np.asarray(x))), 0, "NumPy computes.*Use jax.numpy"),
    "a function of numpy": (lambda w, x: fad.mean(np.linalg.norm(x)), 0, "Use jax.numpy"),
    "range": (lambda w, x: fad.mean(sum(range(w[0].astype(int)))), 0, "jax.lax.fori_loop"),
    "an index": (lambda w, x: fad.mean([1.0, 2.0][w[0].astype(int)]), 0, "index a jnp array"),
    "a shape": (lambda w, x: fad.mean(jnp.ones(x[0, 0].astype(int))), 0, "constant"),
    "a mask": (lambda w, x: fad.mean(jnp.sum(x[x > 0])), 0, "jnp.where"),
    "an axis of clients": (
        lambda w, x: fad.mean(jnp.mean(loss(w, x), axis=0)),
        0,
        "without an axis of clients .w: float32.3., x: float32.4,3.*secfad.mean",
    ),
}


@pytest.mark.parametrize("case", VALUES_ASKED_FOR)
@pytest.mark.parametrize("mode", [None, "forward", "reverse", "mixed", "auto"])
def test_a_function_that_cannot_be_traced_is_told_why_at_its_line(case, mode):
    fun, offset, words = VALUES_ASKED_FOR[case]
    if mode not in (None, "auto") and case not in ("an if", "an axis of clients"):
        pytest.skip("the modes trace alike")
    made = fad.computation(w=S, x=C)(fun)
    line = fun.__code__.co_firstlineno + offset
    place = rf"test_explanations\.py:{line}:\d+ \(" if case != "an axis of clients" else r"\.py:\d+"
    with pytest.raises(TracingError, match=rf"{place}.*cannot be traced: .*{words}"):
        fad.simulate(fad.grad(made, mode=mode) if mode else made)(W, X)


def test_the_arguments_that_decide_are_named():
    made = fad.computation(w=S, x=C)(decides)
    with pytest.raises(TracingError, match="which depends on w, x;"):
        fad.trace(made, W, X[0])


MISFITS = {
    "shapes": (lambda w, x: fad.mean(x @ jnp.ones(7)), r"dot_general .* \(3,\) and \(7,\) in `"),
    "a key": (lambda w, x: fad.mean(x["features"]), "JAX|no entry|index"),
    "a member of an array": (lambda w, x: fad.mean(x.features), "no attribute"),
    "a number called": (lambda w, x: fad.mean(x(w)), "not callable"),
    "a carry": (
        lambda w, x: fad.mean(jax.lax.fori_loop(0, 3, lambda i, c: c[:1], x)),
        "carry .* differ: .* has type float32",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_function_that_does_not_fit_its_arguments_is_told_so_at_its_line(case):
    fun, words = MISFITS[case]
    place = rf"test_explanations\.py:{fun.__code__.co_firstlineno}:\d+ \("
    hint = r"one client holds, .*\(w: float32\[3\], x: float32\[4,3\]\)\. Give"
    with pytest.raises(TracingError, match=rf"{place}.*cannot be traced: .*({words}).*{hint}") as e:
        fad.simulate(fad.computation(w=S, x=C)(fun))(W, X)
    assert e.value.line
    assert str(e.value).startswith(e.value.line)


def test_a_tree_is_shown_with_its_names():
    made = fad.computation(w=S, x=C)(lambda w, x: fad.mean(x["y"]))
    with pytest.raises(TracingError, match=r"no entry 'y'.* x\['z'\]: float32\[4,3\]\)"):
        fad.simulate(made)(W, {"z": X})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((3,), r"`w` is a tuple of Python numbers: .*ShapeDtypeStruct.*jnp\.array"),
        ([0.0, 1.0], "`w` is a list of Python numbers"),
        (None, r"w: no array.*Give `w` an array"),
    ],
)
def test_an_argument_that_is_likely_meant_as_something_else_is_named(given, words):
    made = fad.computation(w=S, x=C)(lambda w, x: fad.mean(x - w.reshape(3)))
    with pytest.raises(TracingError, match=words):
        fad.trace(made, given, X[0])


def _fails(error):
    raise error


@pytest.mark.parametrize("error", [RuntimeError("no data"), ValueError("no"), KeyError("no")])
def test_errors_that_a_function_raises_itself_pass_with_a_note(error):
    made = fad.computation(w=S, x=C)(lambda w, x: _fails(error))
    with pytest.raises(type(error)) as caught:
        fad.simulate(made)(W, X)
    assert "sees what the server or one client holds" in "".join(caught.value.__notes__)


def test_a_misspelt_member_of_a_module_is_pythons_to_say():
    with pytest.raises(AttributeError, match="summ"):
        fad.simulate(fad.computation(w=S, x=C)(lambda w, x: jnp.summ(x)))(W, X)


def test_a_fault_of_our_own_is_not_blamed_on_the_function(monkeypatch):
    monkeypatch.setattr("secfad.primitives._require_arrays", None)
    with pytest.raises(TypeError, match="not callable") as caught:
        fad.simulate(fad.computation(w=S, x=C)(lambda w, x: fad.mean(x)))(W, X)
    assert not isinstance(caught.value, SecfadError)


two = fad.computation(w=S, x=C, y=C)(
    lambda w, x, y: fad.mean(jnp.sum(fad.broadcast(w) * x) + jnp.sum(y))
)


def test_arguments_of_different_cohorts_are_told_how_many_each_has():
    words = "different numbers of clients: `x` has 5, `y` has 3. Give every client"
    with pytest.raises(CohortError, match=words):
        fad.simulate(two)(W, X, Y[:3])
    with pytest.raises(CohortError, match=words):
        fad.execute(fad.trace(two, W, X[0], Y[0]), W, X, Y[:3])
    with pytest.raises(CohortError, match=r"`x` has 4, `y` has 5\..*list.*jnp.stack\(x\)"):
        fad.simulate(two)(W, list(X), Y)


@pytest.mark.parametrize(
    "call",
    [lambda: two(W, X, Y), lambda: jax.grad(two)(W, X, Y), lambda: fad.simulate(two(W, X, Y))],
)
def test_a_computation_that_is_called_by_itself_is_told_what_runs_it(call):
    words = (
        r"test_explanations\.py:\d+.*`<lambda>` was called on arrays.*secfad.simulate.*secfad.grad"
    )
    with pytest.raises(PlacementError, match=words) as caught:
        call()
    assert caught.value.kind == "outside-computation"


def test_a_program_traced_with_the_data_of_all_clients_is_told_so_when_it_runs():
    with pytest.raises(ArgumentError, match=r"traced with the data of all clients.*x\[0\]"):
        fad.execute(fad.trace(two, W, X, Y), W, X, Y)


@pytest.mark.parametrize(
    ("fun", "words"),
    [
        (lambda w, x: fad.mean(loss(w, x), weights=x), r"one number per client .* \(4, 3\)"),
        (lambda w, x: fad.mean(loss(w, x), weights=[1]), "one number per client .* list"),
        (lambda w, x: fad.sum(x > 0), r"numbers, got dtype bool.*\.astype"),
        (lambda w, x: fad.sum(x, name=3), "name of type str, got 3"),
        (lambda w, x: fad.sum("text"), "tree of arrays, got a str"),
    ],
)
def test_messages_that_cannot_be_sent_are_refused_at_their_line(fun, words):
    line = fun.__code__.co_firstlineno
    with pytest.raises(ArgumentError, match=rf"test_explanations\.py:{line}:.*{words}"):
        fad.simulate(fad.computation(w=S, x=C)(fun))(W, X)


@pytest.mark.parametrize(
    ("size", "error"), [(0, CohortError), (-1, CohortError), (2.5, ArgumentError)]
)
def test_a_chunk_of_no_clients_is_refused(size, error):
    with pytest.raises(error, match="chunk_size"):
        fad.simulate(two, chunk_size=size)
