"""`fedopt` and `scaffold`: federated optimization with any Optax optimizer at the server, for `train`.

    delta = mean of what clients' models moved,    model <- server optimizer(model, delta)

All clients have equal weights: a weight that depends on client data would be a further release. The
question "training" asks for the delta and charges it to the purpose training. The optimizer is
post-processing.

With `AdaptiveClip` the clip norm is state too. Clients send their delta in units of the clip norm
and an indicator of whether they were below. The sum of the indicators, which is released like any
other sum, moves the clip norm.

With `scaffold` clients correct their steps by control variates. Each client's control variate is
client state and stays with its client from round to round.

Sources: Reddi et al. (2021), Algorithm 1; McMahan et al. (2018) for the mean under privacy; Andrew et al.
(2021), Algorithm 1, for adaptive clipping; Karimireddy et al. (2020), Algorithm 1, and Noble, Bellet,
Dieuleveut (2022) for control variates under privacy.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import secfad as fad
from privacy.arrays import as_array
from privacy.checking import expect, expect_function, expect_number
from privacy.errors import MechanismError
from privacy.execution.queries import Algorithm, Question
from privacy.mechanisms.adaptive import COUNT, AdaptiveClip, normalised, updated
from privacy.training.training import Ask
from privacy.training.trials import expect_like, expect_optimizer, tried
from secfad.algorithms.local import LocalUpdate, sgd
from secfad.algorithms.scaffold import local_round
from secfad.algorithms.trees import Loss, Tree, add, scale, subtract, zeros

_LOCAL = "Pass a local update such as secfad.algorithms.local.sgd(0.1), called with its options."
_ONE_CLIENT = (
    "Give `one_client` as one client holds it, without the axis of clients: (steps, batch, ...)."
)


def check_local(
    loss: Loss,
    local: LocalUpdate,
    hyper: Tree,
    model: Tree,
    one_client: Tree,
    *,
    name: str = "local",
) -> None:
    """Refuses a loss or a local update that does not accept the data of one client.

    Raises:
      MechanismError: They fail; the text states their arguments.
    """
    expect_function(loss, "loss", "It takes a model and a batch.", MechanismError)
    expect_function(local, name, _LOCAL, MechanismError)
    specs = specs_of(model), specs_of(one_client)
    advice = f"{_ONE_CLIENT} What `{name}` reads from hyper must be there."
    with_loss = lambda h, m, own: local(loss, h, m, own)
    moved = tried(f"loss and {name}", with_loss, hyper, *specs, advice=advice)
    expect_like(name, moved, specs[0], "A local update returns the new model.")


def fedopt(
    loss: Loss,
    model: Tree,
    one_client: Any,
    *,
    optimizer: optax.GradientTransformation,
    local: LocalUpdate,
    adaptive: AdaptiveClip | None = None,
) -> Algorithm:
    """Federated optimization as an algorithm for `train`.

    Args:
      loss: Loss of a model on a batch of a client's examples.
      model: The model before the first round.
      one_client: What one client holds: shapes and dtypes, passed to `local`.
      optimizer: Treats the mean delta as a gradient; `optax.sgd(1.0)` is FedAvg.
      local: What clients do with a received model; see `secfad.algorithms.local`.
      adaptive: Makes the clip norm of the delta follow a quantile. Its mechanism has the clip norms
        {"delta": 1.0, adaptive.COUNT: 0.5}, `joint=False`, and noise from `split_noise`.

    Returns:
      State {"model", "optimizer"}, with "clip_norm" if adaptive; question "training".

    Raises:
      MechanismError: An argument has another type, or does not accept the data of one client.
    """
    model = as_arrays(model)
    expect_optimizer(optimizer, "optimizer")
    if adaptive is not None:
        advice = "Pass privacy.mechanisms.adaptive.AdaptiveClip(initial)."
        expect(adaptive, AdaptiveClip, "adaptive", "an adaptive clip", advice, MechanismError)
    check_local(loss, local, {}, model, one_client)
    norm = None if adaptive is None else jnp.asarray(adaptive.initial, jnp.float32)
    computation = _mean_delta(loss, local) if norm is None else _scaled_delta(loss, local)

    @jax.jit
    def step(state: Tree, released: Tree) -> Tree:
        new = {}
        if adaptive is not None:
            released, below = released
            released = jax.tree.map(lambda d: state["clip_norm"] * d, released)
            new["clip_norm"] = updated(
                state["clip_norm"],
                fraction_below=below + 0.5,
                quantile=adaptive.quantile,
                rate=adaptive.rate,
            )
        change, inner = optimizer.update(released, state["optimizer"], state["model"])
        return new | {"model": optax.apply_updates(state["model"], change), "optimizer": inner}

    def update(state: Tree, ask: Ask) -> Tree:
        bounds = () if adaptive is None else (state["clip_norm"],)
        return step(state, ask("training", state["model"], *bounds))

    state = {"model": model, "optimizer": as_arrays(optimizer.init(model))}
    specs = (specs_of(model), specs_of(one_client))
    if norm is not None:
        state["clip_norm"] = norm
        specs = (specs[0], specs_of(norm), specs[1])
    return Algorithm(state, update, {"training": Question(computation, specs, "training")})


def scaffold(
    loss: Loss,
    model: Tree,
    one_client: Any,
    *,
    learning_rate: float,
    optimizer: optax.GradientTransformation,
    fraction: float = 1.0,
) -> Algorithm:
    """SCAFFOLD as an algorithm for `train`: pass `client_state=algorithm.client_state(population)`.

    A client sends its model change and the change of its control variate, both clipped. The control
    variate that it keeps is not clipped.

    Args:
      loss: Loss of a model on a batch of a client's examples.
      model: The model before the first round.
      one_client: What one client holds: shapes and dtypes.
      learning_rate: Learning rate of local training.
      optimizer: Treats the mean delta as a gradient; `optax.sgd(1.0)` is the paper's.
      fraction: Share of the population that takes part in a round, `sampling.rate`.

    Returns:
      State {"model", "control", "optimizer"}; question "training", with the sums "delta" and "change";
      client state "own".

    Raises:
      MechanismError: An argument has another type, or does not accept the data of one client.

    Source: Karimireddy et al. (2020), Algorithm 1, option II.
    """
    model = as_arrays(model)
    control = zeros(model)
    expect_optimizer(optimizer, "optimizer")
    expect_number(
        learning_rate, "learning_rate", "a positive finite number", "Pass a float.", lambda x: x > 0
    )
    expect_number(
        fraction, "fraction", "a positive finite number", "Pass a float.", lambda x: x > 0
    )
    check_local(loss, sgd(learning_rate), {}, model, one_client)

    @fad.computation(model=fad.SERVER, control=fad.SERVER, own=fad.CLIENTS, batches=fad.CLIENTS)
    def scaffold_round(model, control, own, batches):
        start, shared = fad.broadcast((model, control), name="model")
        moved, new_own = local_round(loss, learning_rate, start, shared, own, batches)
        change = fad.mean(subtract(new_own, own), name="change")
        return fad.mean(moved, name="delta"), change, new_own

    @jax.jit
    def step(state: Tree, released: Tree) -> Tree:
        delta, change, _ = released
        moved, inner = optimizer.update(delta, state["optimizer"], state["model"])
        return {
            "model": optax.apply_updates(state["model"], moved),
            "control": add(state["control"], scale(fraction, change)),
            "optimizer": inner,
        }

    def update(state: Tree, ask: Ask) -> Tree:
        return step(state, ask("training", state["model"], state["control"]))

    state = {"model": model, "control": control, "optimizer": as_arrays(optimizer.init(model))}
    specs = (specs_of(model), specs_of(control), specs_of(control), specs_of(one_client))
    question = Question(scaffold_round, specs, "training", keep=(None, None, "own"))
    return Algorithm(state, update, {"training": question}, {"own": control})


def _mean_delta(loss: Loss, local: LocalUpdate) -> fad.Computation:
    @fad.computation(model=fad.SERVER, batches=fad.CLIENTS)
    def mean_delta(model, batches):
        sent = fad.broadcast(model, name="model")
        return fad.mean(subtract(sent, local(loss, {}, sent, batches)), name="delta")

    return mean_delta


def _scaled_delta(loss: Loss, local: LocalUpdate) -> fad.Computation:
    @fad.computation(model=fad.SERVER, clip_norm=fad.SERVER, batches=fad.CLIENTS)
    def scaled_delta(model, clip_norm, batches):
        sent, bound = fad.broadcast((model, clip_norm), name="model")
        moved = subtract(sent, local(loss, {}, sent, batches))
        scaled, below = normalised(moved, bound)
        return fad.mean(scaled, name="delta"), fad.mean(below, name=COUNT)

    return scaled_delta


def as_arrays(tree: Tree) -> Tree:
    """Converts the leaves to arrays, so that every round has the same dtypes.

    Raises:
      MechanismError: A leaf is not an array of numbers.
    """
    for leaf in jax.tree.leaves(tree):
        as_array(leaf)
    return jax.tree.map(jnp.asarray, tree)


def specs_of(tree: Tree) -> Tree:
    """Shapes and dtypes of a tree.

    Raises:
      MechanismError: A leaf is neither an array of numbers nor a shape with a dtype.
    """

    def spec(leaf: Any) -> jax.ShapeDtypeStruct:
        if not hasattr(leaf, "shape"):
            leaf = as_array(leaf)
        return jax.ShapeDtypeStruct(leaf.shape, jnp.result_type(leaf))

    return jax.tree.map(spec, tree)
