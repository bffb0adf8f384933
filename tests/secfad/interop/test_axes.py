"""What the table says of the axis of clients is what the primitives do.

The oracle knows nothing of the table. It evaluates the equation on all clients' rows and the equation
of one client on each row alone, permutes clients, and changes one of them.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from axis_cases import CLIENTS, GENERATORS, PRIMITIVES

from secfad import _jax
from secfad._jax import Primitive
from secfad.interop.axes import effect, one_client, table
from secfad.interop.axis_rules import Refused, Replicated, Summed
from secfad.jaxprs.inside import every_equation

SEEDS, ASSIGNMENTS = 6, 6
# Compiled for long.
LARGE = {"random_gamma", "igamma", "igammac", "igamma_grad_a", "zeta"}


def is_key(value):
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def taken(value, axis, rows):
    """Some rows, or one, of an array of numbers or keys."""
    if is_key(value):
        words = np.take(np.asarray(jax.random.key_data(value)), rows, axis)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(value))
    return jnp.asarray(np.take(np.asarray(value), rows, axis))


def of_client(value, axis, client):
    return value if axis is None else taken(value, axis, client)


def plain(value):
    return np.asarray(jax.random.key_data(value) if is_key(value) else value)


def same(a, b):
    a, b = plain(a), plain(b)
    return a.shape == b.shape and np.allclose(a, b, rtol=2e-5, atol=2e-5, equal_nan=True)


class Problem:
    """An equation, data for its operands, and where they have the axis of clients."""

    def __init__(self, equation, data, axes):
        self.equation, self.data, self.axes = equation, data, axes

    def __repr__(self):
        return f"{self.equation} with clients at {self.axes}"

    def evaluated(self, data):
        return _jax.evaluate(self.equation, data)

    def reordered(self, order):
        return [x if k is None else taken(x, k, order) for x, k in zip(self.data, self.axes)]

    def exchanged(self, others, clients):
        """Rows of these clients from other data."""
        which = [c in clients for c in range(CLIENTS)]
        rows = [c + CLIENTS * w for c, w in enumerate(which)]
        both = [
            x if k is None else taken(together(x, y, k), k, rows)
            for x, y, k in zip(self.data, others, self.axes)
        ]
        return self.evaluated(both)


def together(x, y, axis):
    if is_key(x):
        words = np.concatenate([plain(x), plain(y)], axis)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
    return jnp.concatenate([x, y], axis)


def problems(name, seed):
    """Equations of a primitive with every possible axis of clients, or a sample of them."""
    make = GENERATORS[name]
    fun, data = make(np.random.default_rng(seed), name)
    found = [e for e, _ in every_equation(jax.make_jaxpr(fun)(*data).jaxpr)]
    (equation,) = [e for e in found if e.primitive is PRIMITIVES[name]]
    assert [x.shape for x in data] == [v.aval.shape for v in equation.invars], equation
    rng = np.random.default_rng(seed)
    places = [[None, *(k for k, d in enumerate(x.shape) if d == CLIENTS)] for x in data]
    choices = [axes for axes in itertools.product(*places) if any(k is not None for k in axes)]
    for index in rng.permutation(len(choices))[:ASSIGNMENTS]:
        yield Problem(equation, data, choices[index])


def check(problem):
    """The answer of the table, checked; the kind of a refusal."""
    try:
        found = effect(problem.equation, problem.axes, CLIENTS)
    except Refused as reason:
        return reason.kind
    assert not isinstance(found, Replicated)
    # Where the table asks for equal rows, there are.
    for i, axis in found.takes.items():
        if axis is not None and problem.axes[i] is None:
            problem.data[i] = taken(problem.data[i], axis, [0] * CLIENTS)
        assert problem.axes[i] in (None, axis), problem
    whole, takes = problem.evaluated(problem.data), found.takes.items()
    own = [
        one_client(found, problem.equation, [of_client(problem.data[i], k, c) for i, k in takes])
        for c in range(CLIENTS)
    ]
    if isinstance(found, Summed):
        for result, parts in zip(whole, zip(*own)):
            assert same(result, sum(parts)), problem
        assert all(map(same, whole, problem.evaluated(problem.reordered([2, 0, 1])))), problem
        return "summed"
    assert len(found.axes) == len(whole) == len(own[0]), problem
    for result, axis, parts in zip(whole, found.axes, zip(*own)):
        for c, part in enumerate(parts):
            assert same(result if axis is None else taken(result, axis, c), part), problem
    return "kept"


def treats_clients_apart(problem, others):
    """Whether some axis of every result has one row for each client, of it alone."""
    whole = problem.evaluated(problem.data)
    orders = [[2, 0, 1], [0, 2, 1]]
    moved = [problem.evaluated(problem.reordered(order)) for order in orders]
    changed = [problem.exchanged(others, {c}) for c in range(CLIENTS)]

    def apart(result, axis, index):
        if result.shape[axis] != CLIENTS:
            return False
        for order, permuted in zip(orders, moved):
            if not same(taken(result, axis, order), permuted[index]):
                return False
        rest = [[d for d in range(CLIENTS) if d != c] for c in range(CLIENTS)]
        return all(
            same(taken(result, axis, rows), taken(new[index], axis, rows))
            for rows, new in zip(rest, changed)
        )

    return all(
        any(apart(result, axis, i) for axis in range(result.ndim)) for i, result in enumerate(whole)
    )


def adds_up(problem, others):
    """Whether the order of clients is of no matter, and no two of them meet."""
    whole = problem.evaluated(problem.data)
    if not all(map(same, whole, problem.evaluated(problem.reordered([1, 2, 0])))):
        return False
    one, two, both = (problem.exchanged(others, c) for c in ({0}, {1}, {0, 1}))
    if any(is_key(x) for x in whole):
        return False
    return all(
        same(plain(a) * 1.0 - plain(b), plain(c) * 1.0 - plain(d))
        for a, b, c, d in zip(both, one, two, whole)
    )


def test_every_primitive_of_the_table_is_tried():
    assert {primitive.name for primitive in table()} == set(GENERATORS) | {"stop_gradient"} & {
        p.name for p in table()
    }


@pytest.mark.sample(quick=4)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in sorted(GENERATORS)]
)
def test_the_table_says_what_each_primitive_does(name):
    answers = [
        check(problem)
        for seed in range(1 if name in LARGE else SEEDS)
        for problem in problems(name, seed)
    ]
    assert "kept" in answers


def other(value):
    """Different data of the same kind."""
    if is_key(value):
        words = plain(value) + np.uint32(77)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(value))
    rng = np.random.default_rng(7)
    if jnp.issubdtype(value.dtype, jnp.floating):
        return value * rng.uniform(0.3, 0.9, value.shape).astype(value.dtype)
    return jnp.asarray(rng.permutation(plain(value).ravel()).reshape(value.shape) ^ 1)


REARRANGING = [
    "slice",
    "pad",
    "rev",
    "split",
    "unstack",
    "concatenate",
    "sort",
    "cumsum",
    "cumprod",
    "cummax",
    "reduce_prod",
    "dot_general",
    "fft",
    "cholesky",
    "add",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", REARRANGING)
def test_what_is_refused_keeps_no_clients_apart_and_adds_none_up(name):
    refused = 0
    for seed in range(SEEDS):
        for problem in problems(name, seed):
            if check(problem) in ("kept", "summed"):
                continue
            refused += 1
            others = [other(x) for x in problem.data]
            assert not treats_clients_apart(problem, others), problem
            assert not adds_up(problem, others), problem
    assert refused


def test_another_primitive_of_a_known_name_is_refused():
    impostor = Primitive("add")
    impostor.def_abstract_eval(lambda x, y: x)
    impostor.def_impl(lambda x, y: x)
    x = jnp.ones(CLIENTS)
    (equation,) = jax.make_jaxpr(impostor.bind)(x, x).jaxpr.eqns
    with pytest.raises(Refused) as caught:
        effect(equation, [0, 0], CLIENTS)
    assert caught.value.kind == "unknown"


@pytest.mark.parametrize(
    "fun", [lambda: jax.lax.iota(jnp.int32, CLIENTS), lambda: jnp.zeros((CLIENTS, 2))]
)
def test_of_rows_without_clients_only_equal_ones_are_replicated(fun):
    (equation,) = jax.make_jaxpr(fun)().jaxpr.eqns
    found = effect(equation, [None] * len(equation.invars), CLIENTS)
    assert isinstance(found, Replicated)
    assert (found.axis is None) == (equation.primitive.name == "iota")
