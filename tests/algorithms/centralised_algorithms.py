"""The algorithms without secfad: over stacked clients, with loops and explicit formulas.

These are the oracles of the law suite. They share no code with the federated programs: no broadcast,
no sum, no scan, no Optax.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def clients(tree: Tree) -> list[Tree]:
    """Stacked client values as a list."""
    count = jax.tree.leaves(tree)[0].shape[0]
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]


def average(values: Sequence[Tree], weights: Sequence[Any] | None = None) -> Tree:
    """The weighted mean of trees."""
    weights = [1.0] * len(values) if weights is None else weights
    total = sum(weights)
    return jax.tree.map(lambda *xs: sum(w * x for w, x in zip(weights, xs)) / total, *values)


def minus(a: Tree, b: Tree, factor: Any = 1.0) -> Tree:
    """`a - factor * b`."""
    return jax.tree.map(lambda x, y: x - factor * y, a, b)


def descent(gradient: Callable, model: Tree, batches: Tree, rate: Any) -> Tree:
    """Local training: `gradient(current, batch)` at every mini-batch."""
    current = model
    for batch in clients(batches):
        current = minus(current, gradient(current, batch), rate)
    return current


def pooled(batches: Tree) -> Tree:
    """A client's mini-batches as one batch."""
    return jax.tree.map(lambda x: jnp.concatenate(list(x)), batches)


def deltas(gradient: Callable, model: Tree, batches: Tree, rate: Any) -> list[Tree]:
    """How far each client moved, with the sign of a gradient."""
    return [minus(model, descent(gradient, model, own, rate)) for own in clients(batches)]


def mean_loss(loss: Callable, model: Tree, batches: Tree, sizes: jax.Array) -> jax.Array:
    """Loss over all clients, by size."""
    return average([loss(model, pooled(own)) for own in clients(batches)], list(sizes))


def adam(state: Tree, delta: Tree, rate: Any, yogi: bool = False) -> Tree:
    """The step of Adam or Yogi from Optax's state, by the formulas."""
    b1, b2, eps, count = 0.9, 0.99, 1e-3, state[0].count + 1

    def step(m, v, d):
        m = b1 * m + (1 - b1) * d
        v = v - (1 - b2) * jnp.sign(v - d**2) * d**2 if yogi else b2 * v + (1 - b2) * d**2
        return rate * (m / (1 - b1**count)) / (jnp.sqrt(v / (1 - b2**count)) + eps)

    return jax.tree.map(step, state[0].mu, state[0].nu, delta)


def adagrad(state: Tree, delta: Tree, rate: Any) -> Tree:
    """The step of Adagrad from Optax's state."""
    squares = state[0].sum_of_squares
    return jax.tree.map(lambda s, d: rate * d / jnp.sqrt(s + d**2 + 1e-6), squares, delta)


def scaffold(gradient: Callable, rate: float, fraction: float) -> Callable:
    """SCAFFOLD with options as in `secfad.algorithms.scaffold`."""

    def reference(server_rate, model, control, own, batches):
        moved, controls = [], []
        for c_i, data in zip(clients(own), clients(batches)):
            corrected = lambda p, b, c_i=c_i: minus(gradient(p, b), minus(c_i, control))
            moved.append(minus(model, descent(corrected, model, data, rate)))
            steps = len(clients(data))
            controls.append(minus(minus(c_i, control), moved[-1], -1.0 / (steps * rate)))
        change = average([minus(new, old) for new, old in zip(controls, clients(own))])
        return minus(model, average(moved), server_rate), minus(control, change, -fraction)

    return reference


def bilevel(upper: Callable, lower: Callable) -> tuple[Callable, Callable]:
    """The mean losses of all clients: f(x, y, data) and g(x, y, data)."""
    mean = lambda loss: lambda x, y, data: average([loss(x, y, d) for d in clients(data)])
    return mean(upper), mean(lower)


def unrolled(upper: Callable, lower: Callable, rate: float, steps: int) -> Callable:
    """f(x, y_T) through T steps of gradient descent."""
    f, g = bilevel(upper, lower)

    def reference(x, y, data):
        for _ in range(steps):
            y = y - rate * jax.grad(g, 1)(x, y, data)
        return f(x, y, data)

    return reference


def implicit(
    upper: Callable, lower: Callable, rate: float, steps: int, terms: int | None
) -> Callable:
    """Hypergradient with explicit Hessians; `terms` of a Neumann series, or z updated along with y."""
    f, g = bilevel(upper, lower)

    def reference(x, y, data):
        z = jnp.zeros_like(y)
        for _ in range(steps):
            hessian, source = jax.hessian(g, 1)(x, y, data), jax.grad(f, 1)(x, y, data)
            y, z = y - rate * jax.grad(g, 1)(x, y, data), z - rate * (hessian @ z - source)
        if terms is not None:
            kept = jnp.eye(y.size) - rate * jax.hessian(g, 1)(x, y, data)
            powers = sum(jnp.linalg.matrix_power(kept, n) for n in range(terms + 1))
            z = rate * powers @ jax.grad(f, 1)(x, y, data)
        cross = jax.jacobian(jax.grad(g, 1), 0)(x, y, data)
        return jax.grad(f)(x, y, data) - cross.T @ z, y

    return reference
