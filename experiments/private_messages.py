"""The methods of DP-D: what a client sends, and what the server makes of the mean.

A full gradient, the K slopes of BAFFLE (exact directional derivatives) and intrinsic compression to d
numbers, static, time-varying or in K subspaces. Every client weighs the same, so nothing but the
message is released; all methods descend with momentum.

Source: `secfad.algorithms.baffle` and `compression`, which the messages are made of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import secfad as fad
from experiments import networks
from secfad.algorithms import baffle, compression, projections
from secfad.algorithms.trees import axpy, scale, zeros

MOMENTUM = 0.9


@dataclass(frozen=True)
class Method:
    """A way to train by means of what clients send.

    Attributes:
      start: A key to the server's state, a dict.
      public: The part of the state that is broadcast.
      message: (broadcast, what one client holds) to what it sends.
      learn: (state, mean message, rate) to the next state.
      model: The state's model.
      renew: (state, number of the round) to the state with this round's directions or matrices.
      unit: What steps are multiples of.
    """

    start: Callable[[Any], dict]
    public: tuple[str, ...]
    message: Callable[[dict, Any], Any]
    learn: Callable[[dict, Any, Any], dict]
    model: Callable[[dict], Any]
    renew: Callable[[dict, Any], dict] = lambda state, number: state
    unit: float = 1.0


def heavy_ball(state: dict, point: str, gradient, rate) -> dict:
    """A step with momentum on one part of the state."""
    velocity = axpy(MOMENTUM, state["velocity"], gradient)
    return state | {point: axpy(-rate, velocity, state[point]), "velocity": velocity}


def full_gradient() -> Method:
    """The baseline: a message as large as the model."""

    def start(key):
        model = networks.initial(key)
        return {"model": model, "velocity": zeros(model)}

    return Method(
        start, ("model",), lambda sent, own: jax.grad(networks.loss)(sent["model"], own["batch"]),
        lambda state, mean, rate: heavy_ball(state, "model", mean, rate), lambda state: state["model"],
    )  # fmt: skip


def slopes(count: int) -> Method:
    """BAFFLE with exact directional derivatives; new directions in every round."""

    def start(key):
        return full_gradient().start(key) | {"key": key, "directions": key}

    def learn(state, mean, rate):
        gradient = baffle.combine(mean, state["directions"], state["model"])
        return heavy_ball(state, "model", gradient, rate)

    return Method(
        start, ("model", "directions"),
        lambda sent, own: baffle.client_slopes(
            networks.loss, sent["model"], sent["directions"], own["batch"], count, None
        ),
        learn, lambda state: state["model"],
        lambda state, number: state | {"directions": jax.random.fold_in(state["key"], number)},
    )  # fmt: skip


def coordinates(blocks: int, d: int, epoch: int | None) -> Method:
    """Intrinsic compression to blocks of d numbers; new matrices after `epoch` rounds.

    With more than one block a client serves one in secret and sends zeros for the others.
    """
    family = projections.family(projections.dense, blocks)
    decoded = lambda part, s: compression.combined(
        {"base": part["base"], "key": part["matrix"]}, family, s
    )

    def start(key):
        s = jnp.zeros((blocks, d))
        base = networks.initial(key)
        return {
            "base": base,
            "s": s,
            "velocity": s,
            "key": key,
            "matrix": jax.random.fold_in(key, 0),
        }

    def renew(state, number):
        if epoch is None:
            return state
        new = (number % epoch == 0) & (number > 0)
        moved = {
            "base": decoded(state, state["s"]), "s": zeros(state["s"]), "velocity": zeros(state["s"]),
            "matrix": jax.random.fold_in(state["key"], number // epoch),
        }  # fmt: skip
        return state | {k: jax.tree.map(lambda a, b: jnp.where(new, a, b), v, state[k])
                        for k, v in moved.items()}  # fmt: skip

    def message(sent, own):
        gradient = jax.grad(lambda s: networks.loss(decoded(sent, s), own["batch"]))(sent["s"])
        return gradient * jax.nn.one_hot(own["choice"] % blocks, blocks)[:, None]

    parameters = ravel_pytree(networks.initial(jax.random.key(0)))[0].size
    return Method(
        start, ("base", "s", "matrix"), message,
        lambda state, mean, rate: heavy_ball(state, "s", scale(blocks, mean), rate),
        lambda state: decoded(state, state["s"]), renew, parameters / d,
    )  # fmt: skip


def question(method: Method) -> fad.Computation:
    """`(sent, own) -> mean message`."""

    @fad.computation(sent=fad.SERVER, own=fad.CLIENTS)
    def mean_message(sent, own):
        return fad.mean(method.message(fad.broadcast(sent, name="sent"), own), name="message")

    return mean_message


def broadcast_part(method: Method, state: dict) -> dict:
    """What clients get of a state."""
    return {name: state[name] for name in method.public}
