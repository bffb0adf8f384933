"""Arithmetic on trees of arrays, and the shape in which a client holds its examples.

A client's examples are `batches`: a tree whose leaves have the leading axes (steps, batch size), so
that local training is a scan over the first axis.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any
Loss = Callable[[Tree, Tree], jax.Array]
"""From a model and some examples to their mean loss, with masked or no examples giving zero."""


def add(a: Tree, b: Tree) -> Tree:
    """The sum of two trees."""
    return jax.tree.map(jnp.add, a, b)


def subtract(a: Tree, b: Tree) -> Tree:
    """The difference of two trees."""
    return jax.tree.map(jnp.subtract, a, b)


def scale(factor: Any, tree: Tree) -> Tree:
    """A tree times a number."""
    return jax.tree.map(lambda x: factor * x, tree)


def axpy(factor: Any, a: Tree, b: Tree) -> Tree:
    """`factor * a + b`."""
    return jax.tree.map(lambda x, y: factor * x + y, a, b)


def dot(a: Tree, b: Tree) -> jax.Array:
    """The inner product of two trees."""
    products = [jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))]
    return functools.reduce(jnp.add, products)


def zeros(tree: Tree) -> Tree:
    """Zeros, shaped like a tree."""
    return jax.tree.map(jnp.zeros_like, tree)


def whole(batches: Tree) -> Tree:
    """All examples of a client in one batch."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
