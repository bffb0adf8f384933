"""Federated programs whose control flow depends on data; they add themselves to the table."""

import jax
import jax.numpy as jnp
from federated_programs import entry, loss, normal, over, regression

import secfad as fad


def _server_while_oracle(w, x):
    def step(state):
        w, i = state
        return w - 0.1 * jnp.mean(over(lambda x: jnp.cos(w * x) * x, 0)(x), 0), i + 1

    return jnp.sum(jax.lax.while_loop(lambda s: (s[1] < 3) & (s[0][0] > -9), step, (w, 0))[0] ** 2)


@entry(
    "sc",
    lambda n: (normal(0, 3), normal(1, n, 3)),
    _server_while_oracle,
    refused=(("reverse", "while"), ("mixed", "data-dependent loop")),
)
def server_while(w, x):
    def step(state):
        w, i = state
        g = fad.mean(jnp.cos(fad.broadcast(w) * x) * x, name="gradient")
        return w - 0.1 * g, i + 1

    w, _ = jax.lax.while_loop(lambda s: (s[1] < 3) & (s[0][0] > -9), step, (w, 0))
    return jnp.sum(w**2)


def _branch_oracle(flag):
    def oracle(w, x, y):
        value = jnp.mean(over(loss, None, 0, 0)(w, x, y))
        other = jnp.mean(over(lambda x: jnp.sum(jnp.sin(x @ w)), 0)(x))
        return jnp.where(flag(w), value, other) * 2.0

    return oracle


@entry("scc", regression, _branch_oracle(lambda w: w[0] > 0))
def server_cond(w, x, y):
    def first(w):
        return fad.mean(loss(fad.broadcast(w), x, y), name="loss")

    def second(w):
        return fad.mean(jnp.sum(jnp.sin(x @ fad.broadcast(w))), name="sine")

    return jax.lax.cond(w[0] > 0, first, second, w) * 2.0


@entry("scc", regression, _branch_oracle(lambda w: w[0] < 0))
def cond_on_received_value(w, x, y):
    received = fad.broadcast(w, name="model")

    def first():
        return fad.mean(loss(received, x, y), name="loss")

    def second():
        return fad.mean(jnp.sum(jnp.sin(x @ received)), name="sine")

    return jax.lax.cond(w[0] < 0, first, second) * 2.0


def _switch_oracle(w, index, x):
    values = [
        jnp.mean(jnp.sum(x * w, 1)),
        jnp.sum(w**2),
        jnp.mean(jnp.sum(jnp.exp(-x * w), 1)) ** 2,
    ]
    return jnp.stack(values)[index]


@entry("ssc", lambda n: (normal(0, 3), jnp.array(2), normal(1, n, 3)), _switch_oracle)
def server_switch(w, index, x):
    branches = [
        lambda w: fad.mean(jnp.sum(x * fad.broadcast(w)), name="linear"),
        lambda w: jnp.sum(w**2),
        lambda w: fad.mean(jnp.sum(jnp.exp(-x * fad.broadcast(w))), name="exponential") ** 2,
    ]
    return jax.lax.switch(index, branches, w)


def _cond_in_scan_oracle(w, x, y):
    for i in range(4):
        g = jnp.mean(over(jax.grad(loss), None, 0, 0)(w, x, y), 0)
        w = w - 0.3 * g if i % 2 == 0 else 0.5 * w
    return jnp.sum(w**2)


@entry("scc", regression, _cond_in_scan_oracle)
def cond_in_scan(w, x, y):
    def descend(w):
        return w - 0.3 * fad.mean(jax.grad(loss)(fad.broadcast(w), x, y), name="gradient")

    def step(w, i):
        return jax.lax.cond(i % 2 == 0, descend, lambda w: 0.5 * w, w), None

    return jnp.sum(jax.lax.scan(step, w, jnp.arange(4))[0] ** 2)


def _received_scan_oracle(w, x, y):
    total = 0.0
    for i in range(3):
        total = jnp.tanh(total) + jnp.mean(over(loss, None, 0, 0)(w * (i + 1.0), x, y))
    return total


@entry("scc", regression, _received_scan_oracle)
def scan_on_received_value(w, x, y):
    received = fad.broadcast(w, name="model")

    def step(total, i):
        return jnp.tanh(total) + fad.mean(loss(received * (fad.broadcast(i) + 1.0), x, y)), None

    return jax.lax.scan(step, 0.0, jnp.arange(3.0))[0]
