"""What a refusal advises works."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.errors import ModeError

S, C = fad.SERVER, fad.CLIENTS
W, X = np.array([0.5, -1.0], np.float32), np.ones((3, 2), np.float32)


def ruled(fun):
    """The function with its derivative as a custom_vjp."""
    made = jax.custom_vjp(fun)
    made.defvjp(lambda *x: (fun(*x), x), lambda x, g: jax.vjp(fun, *x)[1](g))
    return made


def total(w, x):
    return fad.mean(jnp.sum(jnp.sin(fad.broadcast(w)) * x), name="total")


PROGRAMS = {
    "around communication": ruled(total),
    "at the clients": lambda w, x: fad.mean(
        ruled(lambda w: jnp.sum(w**2))(fad.broadcast(w)) * x[0]
    ),
    "at the server": lambda w, x: ruled(jnp.sin)(total(w, x)),
}


@pytest.mark.parametrize("derive", [fad.grad, fad.jacobian, fad.jvp])
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_every_mode_that_a_refused_forward_mode_advises_exists(program, derive):
    made = fad.computation(w=S, x=C)(lambda w, x: program(w, x))
    tangents = (W,) if derive is fad.jvp else ()
    with pytest.raises(ModeError, match=r"custom_vjp.*Use secfad.grad or secfad.vjp") as refusal:
        fad.trace(derive(made, mode="forward"), W, X[0], *tangents)
    modes = re.findall(r"mode='(\w+)'", str(refusal.value))
    assert modes
    for mode in modes:
        fad.trace(fad.grad(made, mode=mode), W, X[0])
        fad.trace(fad.vjp(made, mode=mode), W, X[0], 1.0)
