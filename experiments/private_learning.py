"""DP-A: learned server learning rate and momentum against fixed ones, at the same total epsilon.

Hypergradient rounds take their share of the budget from training; the question is what they give
back. A hypergradient here differentiates the server's step at the *released* delta:

    loss(server step(hyper, model, state, delta)),    derivative by hyper

Forward mode sends one tangent per hyperparameter and gets as many numbers back; mixed and reverse
mode get the gradient of the new model, of which the hypergradient is post-processing.

Source: docs/reproductions.md for the non-private counterpart; nothing here is in the papers.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import secfad as fad
from experiments.outcomes import Options, Outcome, above
from experiments.private_runs import DELTA, Certified, ledger_for, noise_for, one_client
from experiments.statistics import interval
from experiments.weighting import masked_loss
from secfad.algorithms import fedopt, local
from secfad.algorithms.trees import whole
from secfad.data import ClientArrays, minibatches
from secfad.inner import Mode

BATCH, RATE = 10, 0.1
FEATURES, CLASSES, EXAMPLES = 20, 5, 20
MODES: tuple[Mode, ...] = ("forward", "mixed", "reverse")


def loss_of_step(loss) -> fad.Computation:
    """`(hyper, model, state, delta, batches) -> loss` after the server's step at a released delta."""

    @fad.computation(
        hyper=fad.SERVER, model=fad.SERVER, state=fad.SERVER, delta=fad.SERVER, batches=fad.CLIENTS
    )
    def judged_loss(hyper, model, state, delta, batches):
        change, _ = fedopt.fedavgm(hyper).update(delta, state, model)
        sent = fad.broadcast(optax.apply_updates(model, change), name="new_model")
        return fad.mean(loss(sent, whole(batches)), name="loss")

    return judged_loss


def training(loss, rate: float) -> fad.Computation:
    """`(model, batches) -> delta`, every client with the same weight."""
    update = local.sgd(rate)

    @fad.computation(model=fad.SERVER, batches=fad.CLIENTS)
    def mean_delta(model, batches):
        sent = fad.broadcast(model, name="model")
        moved = update(loss, {}, sent, batches)
        return fad.mean(jax.tree.map(jnp.subtract, sent, moved), name="delta")

    return mean_delta


def start(seed: int, clients: int, learning_rate: float):
    """Data, model, server state and hyperparameters; one classifier is right for all clients.

    Inputs of client i are N(c_i, 1) with c_i ~ N(0, 1 / 4); 20 examples each, labels with noise.
    """
    rng = np.random.default_rng((seed, 7))
    truth = rng.normal(size=(FEATURES, CLASSES))
    centre = 0.5 * rng.normal(size=(clients, 1, FEATURES))
    x = centre + rng.normal(size=(clients, EXAMPLES, FEATURES))
    y = np.argmax(x @ truth + rng.gumbel(size=(clients, EXAMPLES, CLASSES)), axis=-1)
    stacked = ClientArrays(x.astype(np.float32), y.astype(np.int32), np.ones(y.shape, np.float32))
    batches = jax.tree.map(jnp.asarray, minibatches(stacked, BATCH))
    model = {"b": jnp.zeros(CLASSES), "w": jnp.zeros((FEATURES, CLASSES))}
    hyper = {"learning_rate": jnp.float32(learning_rate), "momentum": jnp.float32(0.5)}
    return batches, model, fedopt.fedavgm(hyper).init(model), hyper


@dataclass(frozen=True)
class Arm:
    """How to train under the budget.

    Attributes:
      noise: Multiplier of every release.
      train: Releases the mean change of the model.
      judge: Releases the hypergradient; None for fixed hyperparameters.
    """

    noise: float
    train: Certified
    judge: Certified | None


def arm_of(mode: Mode | Literal["fixed"], settings: dict) -> Arm:
    """The certified programs of an arm, whose releases together cost the budget."""
    batches, model, state, hyper = start(0, 3, 1.0)
    own = one_client(batches)
    purposes = ["training"] if mode == "fixed" else ["training", "hypergradient"]
    noise = noise_for(settings["epsilon"], dict.fromkeys(purposes, int(settings["rounds"])))
    train = Certified(
        training(masked_loss, RATE), (model, own), noise, settings["delta clip"], "training"
    )
    if mode == "fixed":
        return Arm(noise, train, None)
    derivative = fad.grad(loss_of_step(masked_loss), mode=mode)
    specs = (hyper, model, state, model, own)
    clip = settings["forward clip" if mode == "forward" else "gradient clip"]
    return Arm(noise, train, Certified(derivative, specs, noise, clip, "hypergradient"))


def learn(arm: Arm, seed: int, settings: dict, learning_rate: float) -> float:
    """Final training loss of one private run."""
    clients, rounds = settings["clients"], settings["rounds"]
    batches, model, state, hyper = start(seed, clients, learning_rate)
    programs = [arm.train] if arm.judge is None else [arm.train, arm.judge]
    with ledger_for(settings["epsilon"], clients, [p.slot(rounds) for p in programs]) as ledger:
        for number in range(rounds):
            delta = arm.train.run((model, batches), ledger, number, clients)
            if arm.judge is not None:
                args = (hyper, model, state, delta, batches)
                gradient = arm.judge.run(args, ledger, number, clients)
                hyper = _descended(hyper, gradient, settings["hyper rate"])
            change, state = fedopt.fedavgm(hyper).update(delta, state, model)
            model = optax.apply_updates(model, change)
    return float(np.mean(jax.vmap(lambda own: masked_loss(model, whole(own)))(batches)))


def _descended(hyper, gradient, rate: float):
    """A step on the logarithm of the server rate and on momentum, kept in range."""
    slope = hyper["learning_rate"] * gradient["learning_rate"]
    factor = jnp.exp(jnp.clip(-rate * slope, -0.5, 0.5))
    momentum = jnp.clip(hyper["momentum"] - 0.1 * rate * gradient["momentum"], 0.0, 0.95)
    return {"learning_rate": hyper["learning_rate"] * factor, "momentum": momentum}


def dp_a(options: Options) -> Outcome:
    """Fixed against learned at the same total epsilon, from three server rates."""
    settings = {"clients": 500, "rounds": 20, "epsilon": 2.0, "delta clip": 0.25,
                "forward clip": 0.1, "gradient clip": 1.0, "hyper rate": 5.0}  # fmt: skip
    seeds, rates, modes = 10, (8.0, 1.0, 0.1), MODES
    if options.tiny:
        settings, seeds, rates = settings | {"clients": 6, "rounds": 2}, 2, (0.1,)
        modes = MODES[:1]
    arms = {mode: arm_of(mode, settings) for mode in ("fixed", *modes)}
    losses = {
        (rate, mode): np.array([learn(arm, s, settings, rate) for s in range(seeds)])
        for rate in rates for mode, arm in arms.items()
    }  # fmt: skip
    gain = {case: interval(losses[case[0], "fixed"] - values) for case, values in losses.items()}
    rows = [(f"{rate:g}", mode, f"{arms[mode].noise:.2f}", str(interval(values)),
             "" if mode == "fixed" else str(gain[rate, mode]))
            for (rate, mode), values in losses.items()]  # fmt: skip
    claims = [
        above(f"server rate {rate:g}: fixed minus learned in {mode} mode, final loss, is above 0",
              gain[rate, mode], 0.0) for rate in rates for mode in modes
    ]  # fmt: skip
    return Outcome(
        name="dp-a",
        shows="Learned server rate and momentum at equal epsilon",
        matches="nothing: not in the papers",
        criteria=tuple(claims),
        settings=settings | {"seeds": seeds, "delta": DELTA, "server rates": list(rates)},
        notes=("Everyone takes part in every round; all releases have the same noise multiplier, so "
               "hypergradients take half of the budget. Noise is the mechanism's own and not paired; "
               "data and starting point are. Clip norms are near the median "
               "norms of one run without privacy, which is not charged.",
               "Mixed and reverse mode release the same sum here, the gradient of the new model: the "
               "program has one contact, so that reverse mode needs no broadcast of a cotangent. The "
               "two differ by the noise that was drawn.",
               "No fixed rate was tuned; tuning one without privacy is not free either."),
        table=(("first server rate", "arm", "noise multiplier", "final loss", "gain over fixed"), *rows),
        curves={mode: [float(losses[rate, mode].mean()) for rate in rates[::-1]] for mode in arms},
        axis=("first server rate", list(rates[::-1])),
        measure="final training loss",
    )  # fmt: skip
