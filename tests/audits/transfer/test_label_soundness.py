"""The label of every primitive's result against replays of the primitive itself.

Operands get random labels: an axis of clients, copies of a broadcast, a server value, positions, one
public number. If the checker accepts the equation, its labels must survive two replays: one client's
row changes, and the clients change places. A row then depends on its own client alone, wherever it is,
a replicated axis has equal entries, and what is not at the clients does not change, but for a sum,
which is separable and symmetric.
"""

import collections
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from rule_cases import automatic, bound, elsewhere, pick, some_shape

from audits.rules.families import ACCEPTING, DECISIONS
from audits.transfer import axis
from audits.transfer.interpreter import Checker
from audits.transfer.labels import (
    CLIENT_AXIS,
    DATA,
    MERGED,
    POSITION,
    REPLICATED,
    Axis,
    Label,
    Place,
)
from audits.transfer.styles import STYLES
from audits.transfer.transfer import TRANSFER, mutated
from secfad.jaxprs.origins import registered

N = 3
SIZES = [
    pytest.param(3, id="short"),
    pytest.param(3, id="long", marks=pytest.mark.slow),
    pytest.param(1000, id="night", marks=[pytest.mark.slow, pytest.mark.night]),
]
CUBES = [(3, 3), (3, 3, 3), (2, 3, 3)]


def _cube(rng):
    return pick(rng, CUBES)


def _along(name, **params):
    def case(rng):
        shape = some_shape(rng, 1)
        axis = int(rng.integers(len(shape)))
        return (lambda x: bound(name, axis=axis, **params)(x)), [(shape, "float32", "any")]

    return case


def _sort(rng):
    shape, axis = _cube(rng), int(rng.integers(2))
    function = lambda x, y: lax.sort((x, y), dimension=axis)
    return function, [(shape, "float32", "any")] * 2


def _arg(name):
    def case(rng):
        shape = some_shape(rng, 1)
        axis = int(rng.integers(len(shape)))
        return (lambda x: getattr(lax, name)(x, axis, jnp.int32)), [(shape, "float32", "any")]

    return case


def _scatter(function):
    def case(rng):
        shape = _cube(rng)
        numbers = lax.ScatterDimensionNumbers(tuple(range(1, len(shape))), (0,), (0,))
        made = lambda x, i, u: function(x, i, u, numbers)
        return made, [
            (shape, "float32", "any"),
            ((3, 1), "int32", "any"),
            (shape, "float32", "any"),
        ]

    return case


def _update(rng):
    shape = _cube(rng)
    part = (*shape[:-1], 1)
    function = lambda x, u, i: lax.dynamic_update_slice(x, u, [i * 0] * (len(shape) - 1) + [i])
    return function, [(shape, "float32", "any"), (part, "float32", "any"), ((), "int32", "any")]


def _batched_gather(rng):
    shape = _cube(rng)
    axis = int(rng.integers(len(shape)))
    function = lambda x, i: jnp.take_along_axis(x, i % 3 * 0 + i, axis=axis)
    return function, [(shape, "float32", "any"), (shape, "int32", "any")]


def _top_k(rng):
    return (lambda x: lax.top_k(x, 2)), [(_cube(rng), "float32", "any")]


def _fft(rng):
    return (lambda x: lax.fft(x, "FFT", (3,))), [(_cube(rng), "complex64", "any")]


def _window(name):
    def case(rng):
        shape = _cube(rng)
        axis = int(rng.integers(len(shape)))
        sizes = tuple(2 if k == axis else 1 for k in range(len(shape)))
        ones = (1,) * len(shape)
        params = {"window_dimensions": sizes, "window_strides": ones, "padding": ((0, 0),) * len(shape),
                  "base_dilation": ones, "window_dilation": ones}  # fmt: skip
        return (lambda x: bound(name, **params)(x)), [(shape, "float32", "any")]

    return case


def _conv(rng):
    groups = int(pick(rng, [1, 3]))
    kernel = (3, 3 // groups, 2)
    function = lambda x, k: lax.conv_general_dilated(x, k, (1,), "SAME", feature_group_count=groups)
    return function, [((3, 3, 3), "float32", "any"), (kernel, "float32", "any")]


def _linalg(function, count=1):
    def case(rng):
        return function, [((3, 3, 3), "float32", "any")] * count

    return case


CASES = {
    **{n: _along(n, reverse=False) for n in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")},
    "sort": _sort,
    "argmax": _arg("argmax"),
    "argmin": _arg("argmin"),
    "scatter": _scatter(lax.scatter),
    "scatter-add": _scatter(lax.scatter_add),
    "scatter-mul": _scatter(lax.scatter_mul),
    "scatter-min": _scatter(lax.scatter_min),
    "scatter-max": _scatter(lax.scatter_max),
    "dynamic_update_slice": _update,
    "gather": _batched_gather,
    "top_k": _top_k,
    "fft": _fft,
    "conv_general_dilated": _conv,
    **{n: _window(n) for n in ("reduce_window_sum", "reduce_window_max", "reduce_window_min")},
    "qr": _linalg(lambda x: jnp.linalg.qr(x)[1]),
    "cholesky": _linalg(lambda x: lax.linalg.cholesky(x @ x.mT + jnp.eye(3), symmetrize_input=False)),
    "eigh": _linalg(lambda x: lax.linalg.eigh(x)[1]),
    "svd": _linalg(lambda x: lax.linalg.svd(x, compute_uv=False)[0]),
    "triangular_solve": _linalg(lambda a, b: lax.linalg.triangular_solve(a + 9 * jnp.eye(3), b), 2),
    "reduce_prod": lambda rng: (lambda x: jnp.prod(x, axis=0), [(some_shape(rng, 1), "float32", "any")]),
    "reduce_and": lambda rng: (lambda x: jnp.all(x, axis=0), [(some_shape(rng, 1), "bool", "any")]),
    "reduce_or": lambda rng: (lambda x: jnp.any(x, axis=0), [(some_shape(rng, 1), "bool", "any")]),
}  # fmt: skip


def case_of(name):
    """The case of a primitive, if there is one."""
    return CASES.get(name) or automatic(name)


def accepted():
    """The primitives that a rule may accept, with a case."""
    known = {n for _, n in registered().values() if DECISIONS.get(n) in ACCEPTING} - elsewhere()
    return sorted(n for n in known if case_of(n) is not None and not n.startswith("federated"))


def labelled(rng, shape, style):
    """A random label for a shape, and what the value is like: a function of a generator."""
    kinds = ["client", "client", "copy", "server", "one"]
    kind = pick(rng, kinds + ["position"] * bool(len(shape)))
    rows = [k for k, n in enumerate(shape) if n == N]
    axes = [Axis(DATA)] * len(shape)
    if kind == "client" and (rows or not STYLES[style].stacked):
        if STYLES[style].stacked:
            axes[pick(rng, rows)] = Axis(CLIENT_AXIS)
        return Label(Place.CLIENT, tuple(axes))
    if kind == "copy" and (rows or not STYLES[style].stacked):
        if STYLES[style].stacked:
            axes[pick(rng, rows)] = Axis(REPLICATED)
        return Label(Place.COPY, tuple(axes), phase=0)
    if kind == "server":
        return Label(Place.SERVER, tuple(axes))
    if kind == "position":
        axes = [Axis(REPLICATED)] * len(shape)
        axes[int(rng.integers(len(shape)))] = Axis(POSITION)
        return Label(Place.PUBLIC, tuple(axes))
    return Label(Place.PUBLIC, (Axis(REPLICATED),) * len(shape))


def value_of(rng, label, shape, dtype):
    """A value that its label allows."""
    small = tuple(1 if axis.tag == REPLICATED else n for axis, n in zip(label.axes, shape))
    if np.dtype(dtype).kind in "iu":
        value = rng.integers(0, 3, size=small)
    elif np.dtype(dtype).kind == "b":
        value = rng.random(size=small) < 0.5
    else:
        value = rng.normal(size=small) + (1j * rng.normal(size=small) if "complex" in dtype else 0)
    return np.broadcast_to(np.asarray(value).astype(dtype), shape).copy()


def replayed(labels, base, fresh, client=None, order=None):
    """The operands with one client's rows replaced, or with the clients in another order."""
    made = []
    for label, old, new in zip(labels, base, fresh):
        axis = label.client_axis
        if label.place == Place.CLIENT and axis is None:
            old = new if client is not None else old  # a program of one client: all of it changes
        elif axis is not None and client is not None:
            old = old.copy()
            at = (slice(None),) * axis + (client,)
            old[at] = new[at]
        elif axis is not None and order is not None:
            old = np.take(old, order, axis=axis)
        made.append(old)
    return made


def same(a, b):
    """Equal up to rounding, NaN included."""
    return np.allclose(a, b, rtol=2e-2, atol=2e-2, equal_nan=True)


def contradiction(closed, labels, outs, events, rng, specs):
    """What a replay shows that the labels exclude; empty if nothing."""
    run = jax.jit(lambda *v: jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *v))
    base = [value_of(rng, label, *spec) for label, spec in zip(labels, specs)]
    fresh = [value_of(rng, label, *spec) for label, spec in zip(labels, specs)]
    evaluate = lambda **how: [np.asarray(v) for v in run(*replayed(labels, base, fresh, **how))]
    before, order = evaluate(), np.asarray([1, 2, 0])
    turned, changed = evaluate(order=order), [evaluate(client=k) for k in range(N)]
    for position, label in enumerate(outs):
        old = before[position]
        for k, entry in enumerate(label.axes):
            if entry.tag == REPLICATED and not same(np.take(old, [0], axis=k), old):
                return f"axis {k} of {label.tags} is not replicated"
        where = next((k for k, a in enumerate(label.axes) if a.tag in (CLIENT_AXIS, MERGED)), None)
        for client in range(N):
            new = changed[client][position]
            if label.place < Place.CLIENT and not events and not same(old, new):
                return f"client {client} changes a value at {label.place.name}"
            if label.place == Place.CLIENT and any(x.client_axis is not None for x in labels):
                if where is None:
                    if not same(old, new):
                        return f"client {client} changes a value without an axis of clients"
                    continue
                block = old.shape[where] // N
                others = [k for k in range(old.shape[where]) if k // block != client]
                if not same(np.take(old, others, axis=where), np.take(new, others, axis=where)):
                    return f"client {client} changes another row of {label.tags}"
        if events and not same(turned[position], old):
            return "a sum depends on the order of clients"
        follows = where is not None and label.axes[where].tag == CLIENT_AXIS
        moved = np.take(old, order, axis=where) if follows else old
        if label.place == Place.CLIENT and follows and not same(turned[position], moved):
            return f"rows of {label.tags} do not follow their clients"
    return ""


def fuzz(name, count, style, rules=TRANSFER):
    """Contradictions of one primitive's labels, and the number of accepted equations."""
    found, seen = [], collections.Counter()
    for index in range(count):
        rng = np.random.default_rng([zlib.crc32(name.encode()), index, len(style)])
        function, operands = case_of(name)(rng)
        operands = [(s, str(jnp.dtype(d))) for s, d, _ in operands]
        if any("float8" in d or "float4" in d or d == "int4" for _, d in operands):
            continue
        try:
            closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(s, d) for s, d in operands))
        except (TypeError, ValueError, NotImplementedError, AssertionError):
            continue
        for _ in range(4):
            labels = [labelled(rng, shape, style) for shape, _ in operands]
            checker = Checker(STYLES[style], rules, public=frozenset(), mode="primal")
            outs = checker.run(closed, labels, [f"x{k}" for k in range(len(labels))])
            if checker.poisoned or any(label.poisoned for label in outs):
                seen["refused"] += 1
                continue
            seen["accepted"] += 1
            sums = [e for e in checker.recorded.values() if e.kind == "sum"]
            text = contradiction(closed, labels, outs, sums, rng, operands)
            if text:
                found.append(
                    f"{text}\n{closed.jaxpr}\n{[f'{x.place.name} {x.tags}' for x in labels]}"
                )
    return found, seen


STYLED = ["stacked", pytest.param("native", marks=[pytest.mark.slow, pytest.mark.night])]


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("style", STYLED)
@pytest.mark.parametrize("name", accepted())
def test_labels_survive_replays(name, style, size):
    found, _ = fuzz(name, size, style)
    assert not found, "\n\n".join(found[:3])


@pytest.mark.parametrize("name", ["cumsum", "rev", "reduce_max"])
def test_a_rule_that_keeps_every_label_is_seen(name, monkeypatch):
    monkeypatch.setattr(axis, "asked", lambda step, family: None)
    monkeypatch.setattr(axis, "agrees", lambda *_: True)

    def careless(step):
        gone = set(step.params.get("axes", ())) if name.startswith("reduce") else set()
        axes = tuple(a for k, a in enumerate(step.inputs[0].axes) if k not in gone)
        return step.inputs[0].replace(axes=axes)

    found, _ = fuzz(name, 5, "stacked", mutated(DECISIONS[name], careless))
    assert found


def test_most_accepted_primitives_have_a_case():
    known = {n for _, n in registered().values() if DECISIONS.get(n) in ACCEPTING} - elsewhere()
    assert len(accepted()) > 0.8 * len(known), sorted(known - set(accepted()))
