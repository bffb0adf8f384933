"""Federated programs whose constants are read at both places; they add themselves to the table."""

import jax
import jax.numpy as jnp
from federated_programs import entry, loss, over, regression

import secfad as fad


def everywhere(w, x, y):
    return jnp.mean(over(loss, None, 0, 0)(w, x, y))


def steps(w0, w, x, y):
    for _ in range(3):
        gradient = jnp.mean(over(jax.grad(loss), None, 0, 0)(w0, x, y), 0)
        w0 = w0 - 0.3 * w * gradient
    return w0


@entry(
    "scc",
    regression,
    lambda w, x, y: everywhere(steps(jnp.zeros(3), w, x, y), x, y) / everywhere(jnp.zeros(3), x, y),
)
def warm_start(w, x, y):
    start = jnp.zeros(3)
    first = fad.mean(loss(fad.broadcast(start), x, y), name="first")

    def step(v, _):
        return v - 0.3 * w * fad.mean(jax.grad(loss)(fad.broadcast(v), x, y), name="gradient"), None

    v, _ = jax.lax.scan(step, start, None, length=3)
    return fad.mean(loss(fad.broadcast(v), x, y), name="last") / first


def _constant_choice_oracle(w, x, y):
    first = everywhere(jnp.ones(3), x, y)
    return jnp.where(first > 100, 3.0, everywhere(w, x, y))


@entry("scc", regression, _constant_choice_oracle)
def choice_on_a_constant(w, x, y):
    start = jnp.ones(3)
    first = fad.mean(loss(fad.broadcast(start), x, y), name="first")

    def learned(v):
        return fad.mean(loss(fad.broadcast(v * w), x, y), name="second")

    return jax.lax.cond(first > 100, jnp.sum, learned, start)


def _mapped_oracle(w, x, y):
    gradient = jnp.mean(over(jax.grad(loss), None, 0, 0)(w, x, y), 0)
    return jnp.stack([everywhere(w - rate * gradient, x, y) for rate in (0.1, 0.3, 0.7)])


@entry("scc", regression, _mapped_oracle)
def mapped_over_rates(w, x, y):
    gradient = fad.mean(jax.grad(loss)(fad.broadcast(w), x, y), name="gradient")

    def after(rate):
        return fad.mean(loss(fad.broadcast(w - rate * gradient), x, y), name="loss")

    return jax.lax.map(after, jnp.array([0.1, 0.3, 0.7]))


def _constant_result_oracle(w, x, y):
    scale = jnp.arange(3.0)
    return scale * x[:, 0].sum(0) * w, jnp.cos(scale)


@entry("scc", regression, _constant_result_oracle)
def constant_result(w, x, y):
    scale = jnp.arange(3.0)
    told = jnp.cos(scale)
    return fad.sum(scale * x[0] * fad.broadcast(w) + 0 * told, name="total"), told
