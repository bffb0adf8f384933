"""How values are grouped into messages changes no number, no byte, no contact and no release.

Messages of the law programs and of random ones are taken apart, into single values or by chance, and every
mode and derivative is compared with that of the program as it was written.
"""

import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_drawing
import random_programs
from law_programs import CASES
from test_random_programs import arguments, specs

import secfad as fad
from secfad import primitives
from secfad.errors import SecfadError

# A backward rule of one of the law programs is not linear; the law holds for it as well.
pytestmark = pytest.mark.filterwarnings("ignore::secfad.derivatives.jacobians.NonlinearRuleWarning")

MODES = ("forward", "reverse", "factored", "mixed", "blockwise")
USUAL = {"fedavgm_fig4"}
COUNTED = ("contacts", "rounds", "broadcasts", "sums", "down_bytes", "up_bytes", "released")


@dataclasses.dataclass
class Apart:
    """Stands for a primitive whose operands travel in several messages."""

    primitive: object
    groups: object

    def bind(self, *operands, name):
        results = [None] * len(operands)
        for group in self.groups(len(operands)):
            moved = self.primitive.bind(*(operands[i] for i in group), name=name)
            for i, value in zip(group, moved):
                results[i] = value
        return results


def singly(count):
    return [[i] for i in range(count)]


def by_chance(seed):
    draw = random.Random(seed)

    def groups(count):
        rows = {}
        for i in draw.sample(range(count), count):
            rows.setdefault(draw.randrange(1 + count // 2), []).append(i)
        return list(rows.values())

    return groups


GROUPINGS = {"singly": singly, "by chance": by_chance(0)}


def regrouped(monkeypatch, groups):
    """From here on, messages are taken apart."""
    for name in ("broadcast_p", "sum_p"):
        monkeypatch.setattr(primitives, name, Apart(getattr(primitives, name), groups))


def counted(program):
    return {name: getattr(program.costs, name) for name in COUNTED}


def derived(computation, wrt, take, mode):
    """A derivative of a function of its own, so that no trace is remembered."""
    fun = computation.fun
    computation = dataclasses.replace(computation, fun=lambda *args: fun(*args))
    if mode == "value":
        return computation
    return take(computation, argnums=wrt, mode=mode)


def traced(computation, spec):
    try:
        return fad.trace(computation, *spec)
    except SecfadError as error:
        return type(error)


@pytest.mark.sample(quick=8, slow=45)
@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        pytest.param(n, m, marks=() if n in USUAL else pytest.mark.slow, id=f"{n}-{m}")
        for n in CASES
        for m in ("value", *MODES)
    ],
)
def test_messages_taken_apart_cost_and_give_the_same(monkeypatch, name, mode, grouping):
    case = CASES[name]
    take = fad.grad if case.is_scalar() else fad.jacobian
    made = lambda: derived(case.computation, case.wrt, take, mode)
    written = traced(made(), case.specs())
    regrouped(monkeypatch, GROUPINGS[grouping])
    apart = traced(made(), case.specs())
    if isinstance(written, type):
        assert apart is written
        return
    assert counted(apart) == counted(written)


D = 7


def hypergradient(send):
    """Fig. 4 by a rate and a momentum, with everything that clients receive in messages by `send`."""
    S, C = fad.SERVER, fad.CLIENTS

    @fad.computation(h=S, w=S, m=S, x=C)
    def computation(h, w, m, x):
        (model, aux), rate = send((w, m), h["rate"])
        loss = lambda w: jnp.mean((jnp.tanh(x @ w) - 0.1 * jnp.sum(aux)) ** 2)
        delta, size = fad.mean((rate * jax.grad(loss)(model), jnp.sum(aux * model)))
        moved = w - h["momentum"] * m - delta * jnp.tanh(size)
        later, again = send(moved, h["rate"])
        return fad.mean(jnp.mean(jnp.tanh(x @ later) ** 2) * jnp.exp(-again))

    return computation


SENT = {
    "in one": lambda a, b: fad.broadcast((a, b)),
    "nested": lambda a, b: (lambda t: (t["x"][0], t["y"]["z"]))(
        fad.broadcast({"y": {"z": b}, "x": [a]})
    ),
    "in two": lambda a, b: (fad.broadcast(a), fad.broadcast(b)),
    "singly": lambda a, b: (jax.tree.map(fad.broadcast, a), jax.tree.map(fad.broadcast, b)),
}


@pytest.mark.sample(quick=0)
@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(m, marks=() if m in ("value", "mixed") else pytest.mark.slow)
        for m in ("value", *MODES)
    ],
)
def test_what_clients_receive_together_and_apart(mode):
    random = np.random.default_rng(0)
    one = {"rate": 0.3, "momentum": 0.8}, random.normal(size=D), random.normal(size=D)
    x = random.normal(size=(3, 4, D))
    found = {}
    for name, send in SENT.items():
        made = derived(hypergradient(send), 0, fad.value_and_grad, mode)
        program = fad.trace(made, *one, x[0])
        found[name] = counted(program), fad.execute(program, *one, x)
    costs, values = zip(*found.values())
    assert all(c == costs[0] for c in costs)
    for other in values[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), other, values[0])


@pytest.mark.sample(quick=0, slow=12)
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_messages_taken_apart_cost_the_same(monkeypatch, seed):
    drawn = random_drawing.program(seed, 2, 6)
    made = random_programs.computation(drawn.steps)
    spec = specs(arguments(drawn.dtype))
    programs = lambda: [
        traced(derived(made, drawn.wrt, fad.value_and_grad, mode), spec)
        for mode in ("forward", "factored", "mixed")
    ]
    written = programs()
    regrouped(monkeypatch, by_chance(seed))
    for before, after in zip(written, programs()):
        if isinstance(before, type):
            assert after is before
        else:
            assert counted(after) == counted(before)
