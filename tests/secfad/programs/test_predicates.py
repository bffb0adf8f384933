"""Loops of the server whose predicate is an array: `vmap` and forward mode by several tangents."""

import jax
import numpy as np
import pytest

import secfad as fad
from secfad.jaxprs.equations import Broadcast, While

pytestmark = pytest.mark.usefixtures("double_precision")
S, C = fad.SERVER, fad.CLIENTS
SCALES = np.array([0.1, 1.0, 3.0])
X = np.array([0.5, 1.0, 1.5, 2.0])


@fad.computation(scales=S, x=C)
def walked(scales, x):
    """Steps until the square is large; clients keep what they have received."""

    def walk(scale):
        def step(carry):
            place, own = carry
            own = own + x * fad.broadcast(place, name="place")
            return place + fad.mean(own, name="own") + scale, own

        return jax.lax.while_loop(lambda carry: carry[0] ** 2 < 50, step, (scale, 0 * x))

    place, own = jax.vmap(walk)(scales)
    return place, fad.sum(own**2, name="squares")


def alone(scale):
    place, own, steps = scale, 0 * X, 0
    while place**2 < 50:
        own = own + X * place
        place, steps = place + np.mean(own) + scale, steps + 1
    return place, np.sum(own**2), steps


@pytest.mark.parametrize(
    "run",
    [
        lambda *args: fad.simulate(walked)(*args),
        lambda *args: fad.simulate(walked, chunk_size=2)(*args),
        lambda *args: fad.execute(fad.trace(walked, SCALES, X[0]), *args),
    ],
    ids=["fused", "in chunks", "by messages"],
)
def test_every_entry_of_a_batched_loop_stops_by_itself(run):
    places, squares, steps = zip(*map(alone, SCALES))
    assert len(set(steps)) == len(SCALES)
    for got, expected in zip(run(SCALES, X), (places, squares)):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_clients_are_told_which_entries_go_on():
    program = fad.trace(walked, SCALES, X[0])
    (loop,) = [step for step in program.placed.steps if isinstance(step, While)]
    names = [s.name for s in program.placed.inside(loop.body).steps if isinstance(s, Broadcast)]
    assert "unfinished" in names
    assert "unfinished" in program.table()


def test_a_loop_without_client_state_sends_nothing_more():
    @fad.computation(scales=S, x=C)
    def grown(scales, x):
        def step(scale):
            return scale + fad.mean(x * fad.broadcast(scale, name="place"), name="step")

        return jax.vmap(lambda s: jax.lax.while_loop(lambda s: s < 5, step, s))(scales)

    program = fad.trace(grown, SCALES, X[0])
    assert "unfinished" not in program.table()
    factor = 1 + np.mean(X)
    expected = [next(s * factor**k for k in range(99) if s * factor**k >= 5) for s in SCALES]
    np.testing.assert_allclose(fad.execute(program, SCALES, X), expected, rtol=1e-12)
