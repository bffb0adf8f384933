"""Local training: what a client does between receiving a model and sending what it learned.

Each function here makes a local update `(loss, hyper, model, batches) -> model`. `hyper` is what the
server broadcasts with the model: a learned `learning_rate` is read from it where none is given. It is one
number, or a tree prefix of the model with a number for each layer, such as `{"body": 0.1, "head": 0.5}`.

Sources: McMahan et al. (2017), Algorithm 1; Li et al. (2020), Algorithm 2 (FedProx); Fallah et al.
(2020), Algorithm 1 (Per-FedAvg).
"""

from collections.abc import Callable

import jax

from secfad.algorithms.trees import Loss, Tree, axpy, subtract

LocalUpdate = Callable[[Loss, Tree, Tree, Tree], Tree]


def sgd(learning_rate: float | None = None) -> LocalUpdate:
    """One pass of mini-batch gradient descent."""

    def local(loss: Loss, hyper: Tree, model: Tree, batches: Tree) -> Tree:
        rate = _rate(learning_rate, hyper)

        def step(current, batch):
            return descended(rate, jax.grad(loss)(current, batch), current), None

        return jax.lax.scan(step, model, batches)[0]

    return local


def proximal(proximity: float, learning_rate: float | None = None) -> LocalUpdate:
    """FedProx: gradient descent on the loss plus proximity / 2 times the squared way from the start."""

    def local(loss: Loss, hyper: Tree, model: Tree, batches: Tree) -> Tree:
        rate = _rate(learning_rate, hyper)

        def step(current, batch):
            pull = subtract(current, model)
            gradient = axpy(proximity, pull, jax.grad(loss)(current, batch))
            return descended(rate, gradient, current), None

        return jax.lax.scan(step, model, batches)[0]

    return local


def personalised(inner_rate: float, learning_rate: float | None = None) -> LocalUpdate:
    """Per-FedAvg: descent on the loss *after* one gradient step, second-order term included.

    The halves of a mini-batch serve the inner step and the loss after it.
    """

    def local(loss: Loss, hyper: Tree, model: Tree, batches: Tree) -> Tree:
        rate = _rate(learning_rate, hyper)

        def adapted_loss(current, batch):
            first, second = halves(batch)
            return loss(axpy(-inner_rate, jax.grad(loss)(current, first), current), second)

        def step(current, batch):
            return descended(rate, jax.grad(adapted_loss)(current, batch), current), None

        return jax.lax.scan(step, model, batches)[0]

    return local


def descended(rate: Tree, gradient: Tree, model: Tree) -> Tree:
    """The model less rate times gradient; the rate is a number, or a tree prefix of the model."""
    return jax.tree.map(lambda r, g, x: axpy(-r, g, x), rate, gradient, model)


def halves(batch: Tree) -> tuple[Tree, Tree]:
    """A mini-batch in two parts."""
    first = jax.tree.map(lambda x: x[: x.shape[0] // 2], batch)
    second = jax.tree.map(lambda x: x[x.shape[0] // 2 :], batch)
    return first, second


def _rate(learning_rate: float | None, hyper: Tree):
    return hyper["learning_rate"] if learning_rate is None else learning_rate
