"""FedAvgM with learned server hyperparameters, as two federated computations.

    training        delta = mean over clients of (model - model after local SGD)
    hypergradient   d/d(hyper) of the mean client loss at  server_update(hyper, state, delta)

The hypergradient is a forward-mode derivative: the server broadcasts the new model with one tangent
per hyperparameter, and a client answers with one number per hyperparameter, so that what is
released, and paid for, does not grow with the model. `state` and `delta` are released values; how
they came about is not differentiated (one-step hypergradient). The learning rate is learned by its
logarithm, which keeps it positive and makes both derivatives of comparable size.

    buffer' = momentum * buffer + delta,  model' = model - exp(log_learning_rate) * buffer'

Source: Rush, Charles, Garrett (JMLR 2024), section 4 and Fig. 4 (sequential form, fresh cohort).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import secfad as fad
from secfad.data.synthetic import CLASSES, FEATURES, ClientArrays

Tree = Any


@dataclass(frozen=True)
class Learner:
    """What the server holds between rounds.

    Attributes:
      model: {"weights": (60, 10), "bias": (10,)}.
      buffer: Momentum buffer, shaped like the model.
      hyper: {"log_learning_rate": (), "momentum": ()}.
    """

    model: Tree
    buffer: Tree
    hyper: Tree

    @classmethod
    def initial(cls, learning_rate: float, momentum: float) -> "Learner":
        """A model of zeros and the given hyperparameters."""
        zeros = {
            "weights": np.zeros((FEATURES, CLASSES), np.float32),
            "bias": np.zeros(CLASSES, np.float32),
        }
        hyper = {
            "log_learning_rate": np.float32(np.log(learning_rate)),
            "momentum": np.float32(momentum),
        }
        return cls(zeros, zeros, hyper)

    @property
    def state(self) -> Tree:
        """Model and buffer, as an argument of the computations."""
        return {"model": self.model, "buffer": self.buffer}

    @property
    def learning_rate(self) -> float:
        """Server learning rate."""
        return float(np.exp(self.hyper["log_learning_rate"]))

    @property
    def momentum(self) -> float:
        """Server momentum."""
        return float(self.hyper["momentum"])

    def updated(self, delta: Tree) -> "Learner":
        """After a training round."""
        new = server_update(self.hyper, self.state, delta)
        return Learner(_host(new["model"]), _host(new["buffer"]), self.hyper)

    def descended(
        self,
        gradient: Tree,
        *,
        learning_rate_step: float,
        momentum_step: float,
        max_momentum: float,
    ) -> "Learner":
        """After a step down the hypergradient; momentum is projected to [0, max_momentum]."""
        log_rate = self.hyper["log_learning_rate"]
        log_rate = log_rate - learning_rate_step * np.asarray(gradient["log_learning_rate"])
        momentum = self.hyper["momentum"] - momentum_step * np.asarray(gradient["momentum"])
        hyper = {
            "log_learning_rate": np.float32(log_rate),
            "momentum": np.float32(np.clip(momentum, 0.0, max_momentum)),
        }
        return Learner(self.model, self.buffer, hyper)


@dataclass(frozen=True, eq=False)
class Computations:
    """The two computations of a round.

    Attributes:
      training: (model, batch) to the mean delta.
      hypergradient: (hyper, state, delta, batch) to the derivative by hyper.
    """

    training: fad.Computation
    hypergradient: fad.Computation


def make_computations(client_learning_rate: float, batch_size: int) -> Computations:
    """The computations for these settings of the clients' local training."""

    @fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
    def training(model, batch):
        sent = fad.broadcast(model, name="model")
        trained = local_sgd(sent, batch, client_learning_rate, batch_size)
        return fad.mean(jax.tree.map(jnp.subtract, sent, trained), name="delta")

    @fad.computation(hyper=fad.SERVER, state=fad.SERVER, delta=fad.SERVER, batch=fad.CLIENTS)
    def next_loss(hyper, state, delta, batch):
        new = server_update(hyper, state, delta)
        return fad.mean(
            client_loss(fad.broadcast(new["model"], name="new_model"), batch), name="loss"
        )

    return Computations(training, fad.grad(next_loss, argnums=0, mode="forward"))


def server_update(hyper: Tree, state: Tree, delta: Tree) -> Tree:
    """The FedAvgM step: the new model and buffer."""
    rate = jnp.exp(hyper["log_learning_rate"])
    buffer = jax.tree.map(lambda v, d: hyper["momentum"] * v + d, state["buffer"], delta)
    model = jax.tree.map(lambda p, v: p - rate * v, state["model"], buffer)
    return {"model": model, "buffer": buffer}


def local_sgd(model: Tree, batch: Tree, learning_rate: float, batch_size: int) -> Tree:
    """One epoch over a client's examples in their order; padding moves nothing."""
    steps = jax.tree.map(lambda a: a.reshape(-1, batch_size, *a.shape[1:]), batch)

    def step(current, part):
        gradient = jax.grad(client_loss)(current, part)
        return jax.tree.map(lambda p, g: p - learning_rate * g, current, gradient), None

    return jax.lax.scan(step, model, steps)[0]


def client_loss(model: Tree, batch: Tree) -> jax.Array:
    """Mean cross-entropy of a client's examples; 0 without any."""
    scores = jax.nn.log_softmax(batch["features"] @ model["weights"] + model["bias"])
    chosen = jnp.sum(scores * jax.nn.one_hot(batch["labels"], CLASSES), axis=-1)
    count = jnp.maximum(jnp.sum(batch["mask"]), 1.0)
    return -jnp.sum(chosen * batch["mask"]) / count


def batch_of(arrays: ClientArrays, batch_size: int) -> Tree:
    """Client arguments: the arrays, with rows padded to whole mini-batches."""
    missing = -arrays.labels.shape[1] % batch_size
    rows = ((0, 0), (0, missing))
    return {
        "features": np.pad(arrays.features, (*rows, (0, 0))),
        "labels": np.pad(arrays.labels, rows),
        "mask": np.pad(arrays.mask, rows),
    }


def members_of(batch: Tree, members: np.ndarray) -> Tree:
    """The client arguments of a cohort."""
    return jax.tree.map(lambda a: a[members], batch)


def _host(tree: Tree) -> Tree:
    return jax.tree.map(lambda a: np.asarray(a, np.float32), tree)
