"""Federated hypergradient descent: hyperparameters learned while the model is.

`next_loss` is the loss after one round, as a function of the hyperparameters of that round; what
came before is constant. Its derivative in any mode is the sequential form. `parallel` is the form
that costs no extra round: while some clients train from the model, others return its gradient, and
the server joins it with the tangents d(model)/d(hyper) that it kept from the round before:

    hyper <- hyper - step <grad loss(x_t), dx_t / dhyper>
    x_{t+1}, dx_{t+1}/dhyper  from the training clients of the same round

Both work for every number in `hyper`: server learning rate and momentum (their tangents stay at the
server), client learning rate, and the exponent of client weights (one further tangent in the sums).

Source: Rush, Charles, Garrett (JMLR 2024), Algorithm 2, Figs. 4, 5 and 12, section 6.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import secfad as fad
from secfad.algorithms.fedopt import Optimizer, initial_state
from secfad.algorithms.trees import Loss, Tree, add, whole


def next_loss(round_: fad.Computation, loss: Loss) -> fad.Computation:
    """The loss after a round: `(hyper, model, state, batches, size, judged, judge_size) -> loss`.

    Args:
      round_: From `fedopt.make_round`.
      loss: Of a model on a batch; the mean over clients weighs by `judge_size`. A client with
        `size` 0 only judges, one with `judge_size` 0 only trains.
    """

    @fad.computation(
        hyper=fad.SERVER, model=fad.SERVER, state=fad.SERVER,
        batches=fad.CLIENTS, size=fad.CLIENTS, judged=fad.CLIENTS, judge_size=fad.CLIENTS,
    )  # fmt: skip
    def loss_after_round(hyper, model, state, batches, size, judged, judge_size):
        new_model, _ = round_(hyper, model, state, batches, size)
        sent = fad.broadcast(new_model, name="new_model")
        return fad.mean(loss(sent, whole(judged)), weights=judge_size, name="loss")

    return loss_after_round


class Learner(NamedTuple):
    """What the server holds between rounds of the parallel form.

    Attributes:
      hyper: The hyperparameters.
      hyper_state: Of the optimizer that learns them.
      model: The model.
      state: Of the server optimizer.
      tangents: d(model)/d(hyper): a tree of hyper-like trees for every leaf of the model.
    """

    hyper: Tree
    hyper_state: Tree
    model: Tree
    state: Tree
    tangents: Tree


def initial_learner(
    hyper: Tree, model: Tree, optimizer: Optimizer, hyper_optimizer: optax.GradientTransformation
) -> Learner:
    """Before the first round: the model does not yet depend on the hyperparameters."""
    tangents = jax.tree.map(
        lambda p: jax.tree.map(lambda h: jnp.zeros(p.shape + h.shape, p.dtype), hyper), model
    )
    state = initial_state(optimizer, hyper, model)
    return Learner(hyper, hyper_optimizer.init(hyper), model, state, tangents)


def parallel(
    round_: fad.Computation,
    loss: Loss,
    hyper_optimizer: optax.GradientTransformation,
    project: Callable[[Tree], Tree] = lambda hyper: hyper,
) -> fad.Computation:
    """One round of the parallel form: `(learner, batches, size, judged, judge_size) -> learner`.

    With all hyperparameters at the server it costs each client D numbers down and 2 D + 2 up; with
    one at the clients, such as an exponent, D + 1 down and 3 D + 3 up.

    Args:
      round_: From `fedopt.make_round`.
      loss: As for `next_loss`.
      hyper_optimizer: Optax optimizer of the hyperparameters.
      project: Keeps them in range after each step; the paper uses no projection.
    """

    @fad.computation(
        learner=fad.SERVER,
        batches=fad.CLIENTS, size=fad.CLIENTS, judged=fad.CLIENTS, judge_size=fad.CLIENTS,
    )  # fmt: skip
    def parallel_round(learner, batches, size, judged, judge_size):
        sent = fad.broadcast(learner.model, name="model")
        gradient = fad.mean(
            jax.grad(loss)(sent, whole(judged)), weights=judge_size, name="gradient"
        )
        step, hyper_state = hyper_optimizer.update(
            contract(gradient, learner.tangents, learner.hyper), learner.hyper_state, learner.hyper
        )
        hyper = project(optax.apply_updates(learner.hyper, step))

        def update(h):
            model, state = round_(h, learner.model, learner.state, batches, size)
            return model, (model, state)

        # The clients' part was broadcast before this round's gradient arrived: it lags by a round.
        in_use = {"server": hyper["server"], "client": learner.hyper["client"]}
        tangents, (model, state) = jax.jacfwd(update, has_aux=True)(in_use)
        return Learner(hyper, hyper_state, model, state, tangents)

    return parallel_round


def contract(gradient: Tree, tangents: Tree, hyper: Tree) -> Any:
    """d(loss)/d(hyper) from d(loss)/d(model) and d(model)/d(hyper)."""
    per_leaf = jax.tree.map(
        lambda g, row: jax.tree.map(lambda t: jnp.tensordot(g, t, g.ndim), row), gradient, tangents
    )
    structure = jax.tree.structure(hyper)
    rows = jax.tree.leaves(per_leaf, is_leaf=lambda t: jax.tree.structure(t) == structure)
    return functools.reduce(add, rows)
