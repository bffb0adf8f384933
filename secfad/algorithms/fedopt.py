"""FedOpt: clients train, the server treats the mean of what they moved as a gradient.

    delta = sum(w_i (x - x_i)) / sum(w_i),    x, state <- server optimizer(x, state, delta)

The server optimizer is made from `hyper["server"]` *inside* the computation, so that each of its
numbers can be differentiated and learned; `hyper["client"]` travels with the model: a
`learning_rate` for local training, or an `exponent` q for weights w_i = size_i ** q.

FedAvg, FedAvgM, FedAdam, FedYogi and FedAdagrad are the choices of optimizer below, FedProx and
Per-FedAvg are choices of `local`. Momentum is m <- beta m + delta, x <- x - rate m. The adaptive
ones are Optax's: unlike those of the paper, Adam and Yogi correct the bias of their averages and
Adagrad adds epsilon under the root.

Sources: Reddi et al. (2021), Algorithms 1-2; Rush, Charles, Garrett (JMLR 2024), sections 4 and 6.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

import secfad as fad
from secfad.algorithms.local import LocalUpdate, sgd
from secfad.algorithms.trees import Loss, Tree, subtract

Optimizer = Callable[[Tree], optax.GradientTransformation]


def fedavg(hyper: Tree) -> optax.GradientTransformation:
    """The server moves by `learning_rate` times the mean; 1 is plain averaging."""
    return optax.sgd(hyper["learning_rate"])


def fedavgm(hyper: Tree) -> optax.GradientTransformation:
    """`learning_rate` and `momentum`."""
    return optax.sgd(hyper["learning_rate"], momentum=hyper["momentum"])


def fedadam(hyper: Tree) -> optax.GradientTransformation:
    """`learning_rate`; the moments' decay as in Reddi et al."""
    return optax.adam(hyper["learning_rate"], b1=0.9, b2=0.99, eps=1e-3)


def fedyogi(hyper: Tree) -> optax.GradientTransformation:
    """`learning_rate`; the moments' decay as in Reddi et al."""
    return optax.yogi(hyper["learning_rate"], b1=0.9, b2=0.99, eps=1e-3)


def fedadagrad(hyper: Tree) -> optax.GradientTransformation:
    """`learning_rate`; the accumulator starts at 0."""
    return optax.adagrad(hyper["learning_rate"], initial_accumulator_value=0.0, eps=1e-6)


def make_round(
    loss: Loss, optimizer: Optimizer = fedavg, local: LocalUpdate | None = None
) -> fad.Computation:
    """One round: `(hyper, model, state, batches, size) -> (model, state)`.

    Costs each client D numbers down (and those of `hyper["client"]`) and D + 1 up.

    Args:
      loss: Of a model on a batch.
      optimizer: From `hyper["server"]` to an Optax optimizer.
      local: What clients do; gradient descent with the rate in `hyper["client"]` by default.
    """
    update = sgd() if local is None else local

    @fad.computation(
        hyper=fad.SERVER, model=fad.SERVER, state=fad.SERVER, batches=fad.CLIENTS, size=fad.CLIENTS
    )
    def fedopt_round(hyper, model, state, batches, size):
        sent, client_hyper = fad.broadcast((model, hyper["client"]), name="model")
        moved = update(loss, client_hyper, sent, batches)
        delta = fad.mean(
            subtract(sent, moved), weights=client_weight(client_hyper, size), name="delta"
        )
        step, state = optimizer(hyper["server"]).update(delta, state, model)
        return optax.apply_updates(model, step), state

    return fedopt_round


def client_weight(client_hyper: Tree, size: Any) -> Any:
    """Size ** exponent where an exponent is given, else the size.

    With sizes as fractions of the largest one, in (0, 1], and an exponent of at least 0 the weight
    never exceeds 1, which bounds what a client adds to a sum.
    """
    return size ** client_hyper["exponent"] if "exponent" in client_hyper else size


def initial_state(optimizer: Optimizer, hyper: Tree, model: Tree) -> Tree:
    """The server optimizer's state before the first round."""
    return jax.tree.map(jax.numpy.asarray, optimizer(hyper["server"]).init(model))
