"""Checkpoints do not repeat messages: what cannot be saved has no reverse mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.errors import ModeError

S, C = fad.SERVER, fad.CLIENTS
W, X = jnp.array([0.5, -1.0, 2.0]), jnp.arange(12.0).reshape(4, 3) / 7
MODES = ("forward", "reverse", "factored", "mixed", "blockwise", "auto")

LOOPS = {
    "at the server": lambda w, x: jax.lax.while_loop(
        lambda s: jnp.sum(s) > 0.1, lambda s: s - fad.mean(fad.broadcast(s) * x**2), w
    ),
    "inside of a scan": lambda w, x: jax.lax.scan(
        lambda w, _: (LOOPS["at the server"](w, x), None), w, None, length=2
    )[0],
    "of other values": lambda w, x: w * LOOPS["at the server"](jnp.ones(3), x),
    "at clients": lambda w, x: fad.sum(
        jax.lax.while_loop(
            lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * fad.broadcast(w)), (0, x)
        )[1]
    ),
}


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_checkpoint_around_a_communicating_loop_of_unknown_length_has_forward_mode_only(
    loop, mode
):
    def program(around):
        return fad.computation(w=S, x=C)(
            lambda w, x: jnp.sum(around(lambda w: LOOPS[loop](w, x))(w) ** 2)
        )

    own = fad.grad(program(jax.checkpoint), mode=mode)
    # Mixed mode leaves a loop alone that the argument does not reach.
    apart = loop == "of other values" and mode in ("mixed", "blockwise")
    if mode not in ("forward", "auto") and not apart:
        words = "jax.checkpoint.*sent again" if mode in ("reverse", "factored") else "loop"
        with pytest.raises(ModeError, match=words):
            fad.trace(own, W, X[0])
        return
    expected = fad.simulate(fad.grad(program(lambda f: f), mode="forward"))(W, X)
    np.testing.assert_allclose(fad.simulate(own)(W, X), expected, rtol=1e-6)
