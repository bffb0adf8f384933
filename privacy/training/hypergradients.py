"""`hypergradient_descent`: learns hyperparameters together with the model, for `train`.

A round has two questions: the model delta ("training"), and the derivative of the clients' loss at
a new model with respect to the hyperparameters ("hypergradient"). Between them is only the server's
step, which the server differentiates on released values:

    delta, d delta/d hyper_client     training clients
    x', T = d x'/d hyper              server step, differentiated in forward mode
    d loss(x')/d hyper                judging clients, along T

sequential (Fig. 4): judges get the new model of the same round. parallel (Fig. 5): judges get the
present model and the tangents kept from the round before, while the training clients train from it;
no further contact, and hyperparameters lag by a round. With a *fresh* cohort the two questions are
two draws, each charged to its own purpose. With the *same* cohort they are one program, one draw
and one charge to the purpose training, because releases on one draw compose inside the sampling.

Source: Rush, Charles, Garrett (JMLR 2024), Algorithm 2, Figs. 4, 5 and 12.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import secfad as fad
from privacy.checking import expect_choice, expect_function, refusal, shown
from privacy.errors import BudgetExceeded, MechanismError
from privacy.execution.queries import Algorithm, Question
from privacy.training.algorithms import as_arrays, check_local, specs_of
from privacy.training.client_hyper import Weight, displaced, joined, training
from privacy.training.training import Ask, LastRound
from privacy.training.trials import expect_like, expect_optimizer, expect_scalar, tried
from secfad.algorithms.fedopt import Optimizer
from secfad.algorithms.local import LocalUpdate
from secfad.algorithms.trees import Loss, Tree, subtract, whole


class Learner(NamedTuple):
    """The server's state between rounds.

    Attributes:
      hyper: {"server": ..., "client": ...}, trees of numbers.
      hyper_state: State of the optimizer that learns them.
      model: The model.
      state: State of the server optimizer.
      tangents: d(model)/d(hyper), kept from the last step for the parallel form.
    """

    hyper: Tree
    hyper_state: Tree
    model: Tree
    state: Tree
    tangents: Tree


def hypergradient_descent(
    loss: Loss,
    model: Tree,
    one_client: Any,
    *,
    hyper: Tree,
    optimizer: Optimizer,
    local: LocalUpdate,
    hyper_optimizer: optax.GradientTransformation,
    project: Callable[[Tree], Tree] = lambda hyper: hyper,
    judge: Callable[[Tree, Tree], jax.Array] | None = None,
    weight: Weight | None = None,
    form: Literal["sequential", "parallel"] = "sequential",
    cohort: Literal["fresh", "same"] = "fresh",
    mode: Literal["forward", "reverse", "mixed"] = "forward",
) -> Algorithm:
    """Federated hypergradient descent as an algorithm for `train`.

    Args:
      loss: Loss of a model on a batch of a client's examples.
      model: The model before the first round.
      one_client: What one client holds: shapes and dtypes.
      hyper: {"server": tree, "client": tree}: all of it is learned. Use {} for a part with nothing to
        learn. Every number of the client part costs one further model-sized tangent in the training
        sums: what `local` reads from it (a `learning_rate`, one number or a tree prefix of the model, a
        number per layer), what `weight` reads (an `exponent`), and a `clip_norm`. With a clip norm
        clients send in units of it, and the mechanism's clip norm of "delta" is 1; see
        `privacy.training.client_hyper`.
      optimizer: Maps `hyper["server"]` to the Optax optimizer of the server.
      local: The local update of clients, from the model and `hyper["client"]`.
      hyper_optimizer: Optax optimizer of the hyperparameters.
      project: Keeps them in range after each step.
      judge: A client's loss at a model; `loss` on all its examples by default.
      weight: Maps `hyper["client"]` and a client's data to its weight in the mean delta, for
        example `lambda h, own: size(own) ** h["exponent"]` with sizes in (0, 1]; equal weights by
        default. The sum of weights is released too. Judges have equal weights.
      form: "sequential" or "parallel".
      cohort: The judging cohort: "fresh" draws again, "same" asks the training cohort in the same
        program.
      mode: Mode of the judges' derivative. "forward" releases one number per hyperparameter. The
        others release a vector as long as the model, from which the hypergradient is
        post-processed.

    Returns:
      State `Learner`. Questions "training" (sums "delta", with a weight "weight", and, with client
      hyperparameters, "delta.tangent" and "weight.tangent") and "hypergradient" (sums "loss*", or
      "new_model*" in reverse mode); with the same cohort "training" alone, which has all of these
      sums. Client argument `batches`.

    Raises:
      MechanismError: `form`, `cohort` or `mode` is not one of the known values, an argument has
        another type, or a function does not accept its arguments.
    """
    for name, value, known in (
        ("form", form, ("sequential", "parallel")),
        ("cohort", cohort, ("fresh", "same")),
        ("mode", mode, ("forward", "reverse", "mixed")),
    ):
        expect_choice(value, known, name, error=MechanismError)
    hyper, model = _learned(hyper), as_arrays(model)
    judged = judge or (lambda model, batches: loss(model, whole(batches)))
    check_local(loss, local, hyper["client"], model, one_client)
    _check_functions(hyper, model, one_client, optimizer, hyper_optimizer, project, judged, weight)
    asked = training(loss, local, weight)
    slope = hypergradient(judged, hyper, mode)
    parts = _Descent(optimizer, asked, slope, hyper_optimizer, project)
    state = as_arrays(optimizer(hyper["server"]).init(model))
    tangents = _no_tangents(model, hyper) if form == "parallel" else ()
    learner = Learner(hyper, as_arrays(hyper_optimizer.init(hyper)), model, state, tangents)
    forms = {
        ("sequential", "fresh"): parts.sequential,
        ("sequential", "same"): parts.sequential_same,
        ("parallel", "fresh"): parts.parallel,
        ("parallel", "same"): parts.parallel_same,
    }
    questions = _questions(parts, learner, one_client, form, cohort)
    return Algorithm(learner, forms[form, cohort], questions)


def _learned(hyper: Any) -> Tree:
    """The hyperparameters as floating-point arrays."""
    parts = {"server", "client"}
    if not isinstance(hyper, Mapping) or set(hyper) != parts:
        advice = (
            'Pass {"server": {...}, "client": {...}}, with {} for a part with nothing to learn.'
        )
        raise refusal(hyper, "hyper", "a mapping with server and client", advice, MechanismError)
    arrays = as_arrays(dict(hyper))
    return jax.tree.map(lambda a: a.astype(jnp.result_type(a, float)), arrays)


def _check_functions(
    hyper: Tree,
    model: Tree,
    one_client: Any,
    optimizer: Any,
    hyper_optimizer: Any,
    project: Any,
    judge: Any,
    weight: Any,
) -> None:
    """Refuses arguments that are not functions, and functions that do not accept their arguments."""
    advice = (
        "Pass a function of hyper['server'], such as secfad.algorithms.fedopt.fedavgm or "
        "lambda h: optax.sgd(h['learning_rate'])."
    )
    expect_function(optimizer, "optimizer", advice, MechanismError)
    try:
        made = optimizer(hyper["server"])
    except Exception as error:
        raise MechanismError(
            f"Expected optimizer to work on hyper['server'], which has {shown(hyper['server'])}, got "
            f"{type(error).__name__}: {error}. Give hyper['server'] what the optimizer reads."
        ) from error
    expect_optimizer(made, "what `optimizer` returns")
    expect_optimizer(hyper_optimizer, "hyper_optimizer")
    expect_function(project, "project", "It takes and returns hyper.", MechanismError)
    found = tried("project", project, hyper, advice="It takes and returns hyper.")
    expect_like("project", found, hyper, "Return all of hyper.")
    held = specs_of(model), specs_of(one_client)
    advice = "It takes a model and what one client holds."
    expect_function(judge, "judge", advice, MechanismError)
    expect_scalar("judge", tried("judge", judge, *held, advice=advice), advice)
    if weight is not None:
        advice = "It takes hyper['client'] and what one client holds."
        expect_function(weight, "weight", advice, MechanismError)
        own = tried("weight", weight, hyper["client"], held[1], advice=advice)
        expect_scalar("weight", own, advice)


def hypergradient(judge: Callable[[Tree, Tree], Any], hyper: Tree, mode: Any) -> fad.Computation:
    """`(model, tangents, batches) -> d loss / d hyper`: along d(model)/d(hyper), at the model."""

    @fad.computation(shift=fad.SERVER, model=fad.SERVER, tangents=fad.SERVER, batches=fad.CLIENTS)
    def shifted_loss(shift, model, tangents, batches):
        sent = fad.broadcast(displaced(model, tangents, shift), name="new_model")
        return fad.mean(judge(sent, batches), name="loss")

    derivative = fad.grad(shifted_loss, argnums=0, mode=mode)
    nowhere = jax.tree.map(lambda h: np.zeros(h.shape, h.dtype), hyper)

    @fad.computation(model=fad.SERVER, tangents=fad.SERVER, batches=fad.CLIENTS)
    def loss_hypergradient(model, tangents, batches):
        return derivative(jax.tree.map(jnp.asarray, nowhere), model, tangents, batches)

    return loss_hypergradient


@dataclass(frozen=True, eq=False)
class _Descent:
    """The pieces of a round, and the updates that each form joins from them."""

    optimizer: Optimizer
    training: fad.Computation
    hypergradient: fad.Computation
    hyper_optimizer: optax.GradientTransformation
    project: Callable[[Tree], Tree]

    def step(self, hyper: Tree, model: Tree, state: Tree, released: Tree) -> tuple:
        """The server's step: the new model, the optimizer's state, and d(new model)/d(hyper)."""
        sums, by_client = released

        def after(h):
            change = subtract(h["client"], hyper["client"])
            delta = joined(h["client"], displaced(sums, by_client, change) if by_client else sums)
            update, new_state = self.optimizer(h["server"]).update(delta, state, model)
            new = optax.apply_updates(model, update)
            return new, (new, new_state)

        tangents, (new, new_state) = jax.jacfwd(after, has_aux=True)(hyper)
        return new, new_state, tangents

    @functools.cached_property
    def _step(self) -> Callable[..., tuple]:
        return jax.jit(self.step)

    @functools.cached_property
    def _descend(self) -> Callable[..., tuple]:
        def descend(hyper: Tree, hyper_state: Tree, slope: Tree) -> tuple[Tree, Tree]:
            change, hyper_state = self.hyper_optimizer.update(slope, hyper_state, hyper)
            return self.project(optax.apply_updates(hyper, change)), hyper_state

        return jax.jit(descend)

    def sequential(self, was: Learner, ask: Ask) -> Learner:
        """Two draws; the judges get the new model."""
        released = ask("training", was.hyper["client"], was.model)
        model, state, tangents = self._step(was.hyper, was.model, was.state, released)
        now = was._replace(model=model, state=state)
        try:
            slope = ask("hypergradient", model, tangents)
        except BudgetExceeded as error:
            raise LastRound(now, str(error)) from error
        hyper, hyper_state = self._descend(was.hyper, was.hyper_state, slope)
        return now._replace(hyper=hyper, hyper_state=hyper_state)

    def sequential_same(self, was: Learner, ask: Ask) -> Learner:
        """One draw; the judges get the new model."""
        released, slope = ask("training", was.hyper, was.model, was.state)
        model, state, _ = self._step(was.hyper, was.model, was.state, released)
        hyper, hyper_state = self._descend(was.hyper, was.hyper_state, slope)
        return Learner(hyper, hyper_state, model, state, ())

    def parallel(self, was: Learner, ask: Ask) -> Learner:
        """Two draws; the judges get the present model."""
        released = ask("training", was.hyper["client"], was.model)
        if not _moves(was.tangents):
            return self._joined(was, released, None)
        try:
            slope = ask("hypergradient", was.model, was.tangents)
        except BudgetExceeded as error:
            raise LastRound(self._joined(was, released, None), str(error)) from error
        return self._joined(was, released, slope)

    def parallel_same(self, was: Learner, ask: Ask) -> Learner:
        """One draw; the judges get the present model."""
        released, slope = ask("training", was.hyper["client"], was.model, was.tangents)
        return self._joined(was, released, slope if _moves(was.tangents) else None)

    def _joined(self, was: Learner, released: Tree, slope: Tree | None) -> Learner:
        hyper, hyper_state = was.hyper, was.hyper_state
        if slope is not None:
            hyper, hyper_state = self._descend(hyper, hyper_state, slope)
        # Clients trained before this round's slope arrived, so their part of hyper lags by a round.
        in_use = {"server": hyper["server"], "client": was.hyper["client"]}
        model, state, tangents = self._step(in_use, was.model, was.state, released)
        return Learner(hyper, hyper_state, model, state, tangents)


def _moves(tangents: Tree) -> bool:
    """Whether the model depends on the hyperparameters; before the first step it does not."""
    return any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(tangents))


def _no_tangents(model: Tree, hyper: Tree) -> Tree:
    return jax.tree.map(
        lambda p: jax.tree.map(lambda h: jnp.zeros(p.shape + h.shape, p.dtype), hyper), model
    )


def _questions(
    parts: _Descent, learner: Learner, one_client: Any, form: str, cohort: str
) -> dict[str, Question]:
    """The questions, with the shapes of their arguments at the server and one client."""
    hyper, model, held = specs_of(learner.hyper), specs_of(learner.model), specs_of(one_client)
    tangents = specs_of(_no_tangents(learner.model, learner.hyper))
    if cohort == "fresh":
        train, slope = (hyper["client"], model, held), (model, tangents, held)
        return {
            "training": Question(parts.training, train, "training"),
            "hypergradient": Question(parts.hypergradient, slope, "hypergradient"),
        }

    @fad.computation(hyper=fad.SERVER, model=fad.SERVER, state=fad.SERVER, batches=fad.CLIENTS)
    def sequential_round(hyper, model, state, batches):
        released = parts.training(hyper["client"], model, batches)
        new_model, _, tangents = parts.step(hyper, model, state, released)
        return released, parts.hypergradient(new_model, tangents, batches)

    @fad.computation(client=fad.SERVER, model=fad.SERVER, tangents=fad.SERVER, batches=fad.CLIENTS)
    def parallel_round(client, model, tangents, batches):
        released = parts.training(client, model, batches)
        return released, parts.hypergradient(model, tangents, batches)

    if form == "sequential":
        specs = (hyper, model, specs_of(learner.state), held)
        return {"training": Question(sequential_round, specs, "training")}
    specs = (hyper["client"], model, tangents, held)
    return {"training": Question(parallel_round, specs, "training")}
