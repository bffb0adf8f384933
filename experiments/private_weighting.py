"""DP-C: learned client weighting under differential privacy, at the same total epsilon.

Clients weigh by size ** exponent, with sizes as fractions of the largest allowed one, so that no
weight exceeds 1 for any exponent of at least 0. Every arm releases once per round, so all have the same
noise multiplier; what learning the exponent costs is a share of the clip norm: the gradient of the
judged loss and the tangents of both sums are clipped together with the sums.

    share_k: part of the squared clip norm that a typical client uses for sum k

Source: Rush, Charles, Garrett (JMLR 2024), section 6, without privacy; nothing here is in the paper.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import privacy
import secfad as fad
from experiments.outcomes import Options, Outcome, below
from experiments.private_runs import DELTA, Certified, ledger_for, noise_for, specs_of
from experiments.statistics import interval
from experiments.weighting import ARMS, BATCH, masked_loss
from secfad.algorithms import hypergradients, local
from secfad.algorithms.trees import scale, subtract, whole
from secfad.data import minibatches, synthetic

SHARES = {
    False: {"delta": 0.9, "weight": 0.1},
    True: {"delta": 0.5, "weight": 0.1, "gradient": 0.2, "delta.tangent": 0.15, "weight.tangent": 0.05},
}  # fmt: skip


def weighted_round(rate: float) -> fad.Computation:
    """`(hyper, model, state, batches, size) -> (model, state)`: FedAvg with two sums of own norms."""
    update = local.sgd(rate)

    @fad.computation(
        hyper=fad.SERVER, model=fad.SERVER, state=fad.SERVER, batches=fad.CLIENTS, size=fad.CLIENTS
    )
    def fedavg_round(hyper, model, state, batches, size):
        sent, exponent = fad.broadcast((model, hyper["client"]["exponent"]), name="model")
        moved = update(masked_loss, {}, sent, batches)
        weight = size**exponent
        total = fad.sum(scale(weight, subtract(sent, moved)), name="delta")
        return subtract(model, scale(1 / fad.sum(weight, name="weight"), total)), state

    return fedavg_round


def in_range(hyper):
    """An exponent in [0, 2]: below 0 small clients would have unbounded weights."""
    return hyper | {"client": {"exponent": jnp.clip(hyper["client"]["exponent"], 0.0, 2.0)}}


def federation(seed: int, clients: int, cap: int):
    """Mini-batches of Synthetic(1, 1), and sizes as fractions of the largest allowed one."""
    data = synthetic(clients=clients, seed=seed, max_examples=cap).train
    rows = -(-int(0.9 * cap) // BATCH) * BATCH
    batches = jax.tree.map(jnp.asarray, minibatches(data, BATCH))
    grow = lambda x: jnp.pad(x, [(0, 0), (0, rows // BATCH - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
    batches = jax.tree.map(grow, batches)
    return batches, jnp.sum(batches["mask"], axis=(1, 2)) / rows


class Arm:
    """Training with a fixed or a learned exponent.

    Args:
      exponent: At the start.
      learned: Whether a hypergradient moves it.
      settings: Of the experiment.
    """

    def __init__(self, exponent: float, learned: bool, settings: Mapping[str, Any]):
        self.learned, self.exponent = learned, exponent
        round_ = weighted_round(settings["client rate"])
        self.hyper_optimizer = optax.adam(settings["hyper rate"])
        self.computation = round_
        if learned:
            self.computation = hypergradients.parallel(
                round_, masked_loss, self.hyper_optimizer, in_range
            )

    def start(self) -> tuple:
        """The server's arguments before the first round."""
        model = {"b": jnp.zeros(10), "w": jnp.zeros((60, 10))}
        hyper = {"server": {}, "client": {"exponent": jnp.float32(self.exponent)}}
        if not self.learned:
            return hyper, model, ()
        return (hypergradients.initial_learner(hyper, model, lambda _: optax.identity(),
                                               self.hyper_optimizer),)  # fmt: skip

    def clients(self, batches, sizes) -> tuple:
        """The clients' arguments; everyone trains and, with a learned exponent, judges."""
        return (batches, sizes, batches, sizes) if self.learned else (batches, sizes)

    def after(self, server: tuple, released: Any) -> tuple:
        """The server's arguments of the next round."""
        return (released,) if self.learned else (server[0], *released)

    def seen(self, server: tuple):
        """Model and exponent."""
        hyper, model = (server[0].hyper, server[0].model) if self.learned else server[:2]
        return model, hyper["client"]["exponent"]


@jax.jit
def example_loss(model, batches, sizes):
    """Training loss, weighted by examples."""
    losses = jax.vmap(lambda own: masked_loss(model, whole(own)))(batches)
    return jnp.sum(losses * sizes) / jnp.sum(sizes)


def norms_of(arm: Arm, data, share: Mapping[str, float]) -> dict[str, float]:
    """Clip norms from the medians at the first model, for the exponents that the arm can reach."""
    found: dict[str, float] = {}
    for exponent in (0.0, 1.0) if arm.learned else (arm.exponent,):
        copy = Arm.__new__(Arm)
        copy.__dict__ |= arm.__dict__ | {"exponent": exponent}
        args = (*copy.start(), *copy.clients(*data))
        for name, norm in privacy.typical_norms(arm.computation, args).items():
            found[name] = max(norm, found.get(name, 0.0))
    return {name: max(norm, 1e-3) / share[name] ** 0.5 for name, norm in found.items()}


def curve(arm: Arm, step, data, rounds: int):
    """Loss and exponent after every round, where `step` is (server, number) to what was released."""
    server, found = arm.start(), []
    for number in range(rounds):
        server = arm.after(server, step(server, number))
        model, exponent = arm.seen(server)
        found.append((float(example_loss(model, *data)), float(exponent)))
    return np.array(found)


def private_curves(arm: Arm, noise: float, settings: Mapping[str, Any], seeds: int) -> np.ndarray:
    """Losses and exponents, (seeds, rounds, 2), through the ledger."""
    clients, cap, rounds = settings["clients"], settings["cap"], settings["rounds"]
    unused = federation(1000, clients, cap)
    norms = norms_of(arm, unused, SHARES[arm.learned])
    specs = specs_of(arm.computation, (*arm.start(), *arm.clients(*unused)))
    certified = Certified(arm.computation, specs, noise, norms, "training")
    found = []
    for seed in range(seeds):
        data = federation(seed, clients, cap)
        with ledger_for(settings["epsilon"], clients, [certified.slot(rounds)]) as ledger:
            held = arm.clients(*data)
            ask = lambda server, number, held=held, ledger=ledger: certified.run(
                (*server, *held), ledger, number, clients
            )
            found.append(curve(arm, ask, data, rounds))
    return np.stack(found)


def clear_curves(arm: Arm, settings: Mapping[str, Any], seeds: int) -> np.ndarray:
    """The same without clipping and noise."""
    play = jax.jit(fad.simulate(arm.computation))
    found = []
    for seed in range(seeds):
        data = federation(seed, settings["clients"], settings["cap"])
        held = arm.clients(*data)
        ask = lambda server, _, held=held: play(*server, *held)
        found.append(curve(arm, ask, data, settings["rounds"]))
    return np.stack(found)


def dp_c(options: Options) -> Outcome:
    """Fixed and learned exponents at the same epsilon, and without privacy."""
    settings = {"clients": 300, "cap": 200, "rounds": 25, "client rate": 0.1, "hyper rate": 0.05}
    seeds, budgets, names = 10, (8.0, 64.0), tuple(ARMS)
    if options.tiny:
        settings |= {"clients": 6, "cap": 60, "rounds": 2}
        seeds, budgets, names = 2, (8.0,), ("example", "from 1")
    arms = {n: Arm(ARMS[n][0], ARMS[n][1] > 0, settings) for n in names}
    found = {("none", n): clear_curves(arm, settings, seeds) for n, arm in arms.items()}
    for epsilon in budgets:
        noise = noise_for(epsilon, {"training": settings["rounds"]})
        for n, arm in arms.items():
            own = settings | {"epsilon": epsilon}
            found[f"{epsilon:g}", n] = private_curves(arm, noise, own, seeds)
    claims, rows = [], []
    for epsilon in dict.fromkeys(e for e, _ in found):
        fixed = [found[epsilon, n][..., 0] for n in ("example", "uniform") if n in arms]
        envelope = np.minimum.reduce(fixed)
        for n in arms:
            losses, last = found[epsilon, n][..., 0], found[epsilon, n][:, -1, 1]
            over = interval(losses[:, -1] - envelope[:, -1])
            rows.append((epsilon, n, str(interval(losses[:, -1])), str(over), f"{last.mean():.2f}"))
            if arms[n].learned and epsilon != "none":
                claims.append(below(
                    f"epsilon {epsilon}, learned {n}: final loss minus that of the better fixed weighting "
                    "is below 0", over, 0.0,
                ))  # fmt: skip
    tightest = f"{budgets[0]:g}"
    return Outcome(
        name="dp-c",
        shows="Learned client weighting at equal epsilon",
        matches="nothing: not in the papers; fad-1 is the counterpart without privacy",
        criteria=tuple(claims),
        settings=settings | {"seeds": seeds, "delta": DELTA, "epsilon": list(budgets),
                             "shares of the squared clip norm": [SHARES[False], SHARES[True]]},
        notes=("Synthetic(1, 1), everyone takes part in every round. Clip norms come from the medians "
               "at the first model on data that is not judged; the same for all seeds.",
               "The better fixed weighting is chosen per seed by its final loss: a bound that no one "
               "could choose in advance. Loss is over training data, weighted by examples.",
               "A learned arm's sums of weights and changes get half of the squared clip norm; the rest "
               "is what the hypergradient needs. A larger clip norm is more noise on the model."),
        table=(("epsilon", "arm", "final loss", "minus the better fixed one", "exponent at the end"), *rows),
        curves={f"{n}, epsilon {e}": values[..., 0].mean(axis=0).tolist()
                for (e, n), values in found.items() if e in ("none", tightest)},
        axis=("round", list(range(1, settings["rounds"] + 1))),
        measure="training loss, by examples",
    )  # fmt: skip
