"""Federated programs of several rounds, some with client state; they add themselves to the table."""

import jax
import jax.numpy as jnp
from federated_programs import entry, hyper_regression, local_delta, loss, normal, over, regression

import secfad as fad


def _fig4_oracle(hyper, w, m, x, y, n):
    deltas = over(local_delta, None, 0, 0)(w, x, y)
    new = w - hyper[0] * (hyper[1] * m + n @ deltas / n.sum())
    return n @ over(loss, None, 0, 0)(new, x, y) / n.sum()


@entry(
    "sssccc",
    lambda n: (
        jnp.array([0.7, 0.4]),
        normal(0, 3),
        normal(5, 3),
        *regression(n)[1:],
        jnp.arange(1.0, n + 1),
    ),
    _fig4_oracle,
    contacts=2,
)
def fedavgm_fig4(hyper, w, m, x, y, n):
    delta = fad.mean(local_delta(fad.broadcast(w, name="model"), x, y), weights=n, name="delta")
    new = w - hyper[0] * (hyper[1] * m + delta)
    return fad.mean(loss(fad.broadcast(new, name="new_model"), x, y), weights=n, name="loss")


def client_rate_oracle(rate, w, x, y):
    deltas = over(lambda x, y: local_delta(w, x, y, rate), 0, 0)(x, y)
    return jnp.mean(over(loss, None, 0, 0)(w - deltas.mean(0), x, y))


@entry("sscc", lambda n: (jnp.array(0.2), *regression(n)), client_rate_oracle)
def client_learning_rate(rate, w, x, y):
    delta = local_delta(fad.broadcast(w), x, y, fad.broadcast(rate))
    new = w - fad.mean(delta, name="delta")
    return fad.mean(loss(fad.broadcast(new), x, y), name="loss")


def two_rounds_oracle(w, x, y):
    for _ in range(2):
        w = w - 0.5 * jnp.mean(over(jax.grad(loss), None, 0, 0)(w, x, y), 0)
    return jnp.mean(over(loss, None, 0, 0)(w, x, y))


@entry("scc", regression, two_rounds_oracle, contacts=3)
def two_rounds(w, x, y):
    for i in range(2):
        w = w - 0.5 * fad.mean(jax.grad(loss)(fad.broadcast(w), x, y), name=f"gradient{i}")
    return fad.mean(loss(fad.broadcast(w), x, y), name="loss")


def _scan_oracle(hyper, w, x, y):
    m = jnp.zeros(3)
    for _ in range(4):
        m = hyper[1] * m + jnp.mean(over(jax.grad(loss), None, 0, 0)(w, x, y), 0)
        w = w - hyper[0] * m
    return jnp.mean(over(loss, None, 0, 0)(w, x, y))


@entry("sscc", hyper_regression, _scan_oracle, contacts=5)
def scan_of_rounds(hyper, w, x, y):
    def step(state, _):
        w, m = state
        g = fad.mean(jax.grad(loss)(fad.broadcast(w, name="model"), x, y), name="gradient")
        m = hyper[1] * m + g
        return (w - hyper[0] * m, m), None

    (w, _), _ = jax.lax.scan(step, (w, jnp.zeros(3)), None, length=4)
    return fad.mean(loss(fad.broadcast(w), x, y), name="loss")


def _collected_oracle(w, x, y, rates):
    losses = []
    for rate in rates:
        losses.append(jnp.mean(over(loss, None, 0, 0)(w, x, y)))
        w = w - rate * jnp.mean(over(jax.grad(loss), None, 0, 0)(w, x, y), 0)
    return jnp.stack(losses)


@entry("sccs", lambda n: (*regression(n), jnp.array([0.1, 0.3, 0.2])), _collected_oracle, wrt=3)
def scan_over_schedule(w, x, y, rates):
    def step(w, rate):
        value, g = fad.mean(jax.value_and_grad(loss)(fad.broadcast(w), x, y), name="step")
        return w - rate * g, value

    return jax.lax.scan(step, w, rates)[1]


def _nested_oracle(w, x, y):
    for _ in range(2):
        for _ in range(2):
            w = w - 0.2 * jnp.mean(over(jax.grad(loss), None, 0, 0)(w, x, y), 0)
        w = 0.9 * w
    return jnp.mean(over(loss, None, 0, 0)(w, x, y))


@entry("scc", regression, _nested_oracle)
def nested_scans(w, x, y):
    def inner(w, _):
        return w - 0.2 * fad.mean(jax.grad(loss)(fad.broadcast(w), x, y), name="gradient"), None

    def outer(w, _):
        return 0.9 * jax.lax.scan(inner, w, None, length=2)[0], None

    w = jax.lax.scan(outer, w, None, length=2)[0]
    return fad.mean(loss(fad.broadcast(w), x, y), name="loss")


@entry("scc", regression, two_rounds_oracle)
def fori_of_rounds(w, x, y):
    def step(i, w):
        return w - 0.5 * fad.mean(jax.grad(loss)(fad.broadcast(w), x, y), name="gradient")

    w = jax.lax.fori_loop(0, 2, step, w)
    return fad.mean(loss(fad.broadcast(w), x, y), name="loss")


def _scaffold_oracle(w, x, y, state):
    server = jnp.zeros(3)
    for _ in range(3):
        delta = over(jax.grad(loss), None, 0, 0)(w, x, y) - state + server
        state = state + 0.5 * delta
        server = server + 0.1 * jnp.mean(delta, 0)
        w = w - 0.4 * jnp.mean(delta, 0)
    return jnp.mean(over(loss, None, 0, 0)(w, x, y))


@entry(
    "sccc",
    lambda n: (*regression(n), 0.1 * normal(7, n, 3)),
    _scaffold_oracle,
    refused=(("mixed", "through which clients carry"),),
)
def scaffold_state(w, x, y, state):
    def step(carry, _):
        w, server, state = carry
        received, control = fad.broadcast((w, server), name="model")
        delta = jax.grad(loss)(received, x, y) - state + control
        mean = fad.mean(delta, name="delta")
        return (w - 0.4 * mean, server + 0.1 * mean, state + 0.5 * delta), None

    (w, _, _), _ = jax.lax.scan(step, (w, jnp.zeros(3), state), None, length=3)
    return fad.mean(loss(fad.broadcast(w), x, y), name="loss")


def _memory_oracle(w, x):
    held = jnp.tanh(x * w)
    total = jnp.mean(held, 0)
    return jnp.mean(jnp.sum(held * jnp.sin(total), 1))


@entry("sc", lambda n: (normal(0, 3), normal(1, n, 3)), _memory_oracle)
def kept_between_rounds(w, x):
    held = jnp.tanh(x * fad.broadcast(w, name="model"))
    total = fad.mean(held, name="first")
    return fad.mean(jnp.sum(held * jnp.sin(fad.broadcast(total, name="total"))), name="second")
