"""Programs that make one call several times, whose messages share a name.

Each is given unnamed; `named` gives every call a name of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np

import secfad as fad

S, C = fad.SERVER, fad.CLIENTS
W = np.asarray([0.3, -0.2, 0.5])
X = np.asarray([0.7, 1.1, -0.4])


def _names(named):
    """Of the calls in order: None, or names."""
    return (name if named else None for name in ("first", "second", "third", "fourth"))


def linearised(named=False):
    """All values come first, all tangents after."""

    @fad.computation(w=S, x=C)
    def chain(w, x):
        names = _names(named)

        def step(w):
            name = next(names)
            return jnp.sin(fad.sum(x * fad.broadcast(w, name=name), name=name))

        value, along = jax.linearize(lambda w: step(step(step(w))), w)
        return value, along(jnp.ones_like(w))

    return chain


def linearised_loop(named=False):
    """Values and tangents are in different loops."""
    del named

    @fad.computation(w=S, x=C)
    def loop(w, x):
        step = lambda w, _: (jnp.sin(fad.sum(x * fad.broadcast(w))), None)
        value, along = jax.linearize(lambda w: jax.lax.scan(step, w, length=3)[0], w)
        return value, along(jnp.ones_like(w))

    return loop


def some_tangents(named=False):
    """The first sum has no tangent, and that of the second could travel before its value."""

    @fad.computation(w=S, x=C)
    def two(w, x):
        names = _names(named)

        def step(w, b):
            name = next(names)
            received = fad.broadcast(w, name=name)
            return fad.sum(x * received + jnp.sin(fad.broadcast(b, name="b")), name=name)

        start = step(jnp.ones(3), jnp.ones(3))
        value, along = jax.linearize(lambda w: step(w, start), w)
        return value, along(jnp.ones_like(w))

    return two


def linear_rounds(named=False):
    """Two rounds of linear client code, of which the second alone is differentiated."""

    @fad.computation(w=S, x=C)
    def rounds(w, x):
        names = _names(named)

        def product(w):
            name = next(names)
            return fad.sum(jnp.vdot(x, fad.broadcast(w, name=name)), name=name)

        first = product(jnp.sin(w))
        second, pull = jax.vjp(lambda w: product(w * first) * first, w)
        return first + second, pull(1.0)[0]

    return rounds


def descent(named=False):
    """Steps of gradient descent, each answered by whoever is there."""

    @fad.computation(w=S, x=C)
    def steps(w, x):
        for name, _ in zip(_names(named), range(3)):
            loss = lambda w, n=name: fad.sum(jnp.sin(jnp.vdot(x, fad.broadcast(w, name=n))), name=n)
            value, slope = jax.value_and_grad(loss)(w)
            w = w - 0.1 * slope - value
        return w

    return steps


def renamed_twice(named=False):
    """One value broadcast under two names, which is one message."""
    del named

    @fad.computation(w=S, x=C)
    def both(w, x):
        first = fad.sum(jnp.vdot(x, fad.broadcast(w, name="one")))
        total = lambda w: fad.sum(jnp.vdot(x, fad.broadcast(w, name="other")), name="total")
        value, pull = jax.vjp(total, w)
        return first, pull(value)[0]

    return both


REPEATED = (linearised, linearised_loop, some_tangents, linear_rounds, descent, renamed_twice)
