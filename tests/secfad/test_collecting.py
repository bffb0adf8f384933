"""The garbage collector rests while a program is traced, and only then."""

import gc

import jax.numpy as jnp
import pytest

import secfad as fad
from secfad.errors import PlacementError

ROW = jnp.zeros(3)
seen = []


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def loss(w, x):
    seen.append(gc.isenabled())
    return fad.mean(jnp.sum(fad.broadcast(w) * x))


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def misplaced(w, x):
    return fad.mean(jnp.sum(w * x))


def test_tracing_is_not_interrupted():
    seen.clear()
    fad.trace(loss, ROW, ROW)
    assert seen == [False]


def test_the_collector_is_on_again_after_success_and_failure():
    assert fad.trace(loss, ROW, ROW).schedule is not None
    assert gc.isenabled()
    with pytest.raises(PlacementError):
        fad.trace(misplaced, ROW, ROW)
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        assert fad.trace(loss, ROW, ROW).schedule is not None
        assert not gc.isenabled()
    finally:
        gc.enable()
