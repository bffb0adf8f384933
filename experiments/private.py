"""What privacy does to learned hyperparameters; every release goes through SecAgg, noise and ledger.

DP-A: FedAvgM with fixed against learned server rate and momentum at the same total epsilon, where
hypergradient rounds take their share of the budget. DP-B: signal to noise of one hypergradient, by
mode, model size and cohort. DP-E: the noise that a budget asks for when the training cohort judges
as well, against a fresh draw.

A hypergradient here differentiates the server's step at the *released* delta:

    loss(server step(hyper, model, state, delta)),    derivative by hyper

Forward mode sends one tangent per hyperparameter and gets as many numbers back; mixed and reverse
mode get the gradient of the new model, of which the hypergradient is post-processing.

Source: docs/reproductions.md for the non-private counterparts; nothing here is in the papers.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import audits
import privacy
import secfad as fad
from experiments.outcomes import Criterion, Options, Outcome, above
from experiments.statistics import interval
from experiments.weighting import masked_loss
from privacy.calibration import noise_multiplier_for
from secfad.algorithms import fedopt, local
from secfad.algorithms.trees import whole
from secfad.data import ClientArrays, minibatches

DELTA, BATCH, RATE = 1e-5, 10, 0.1
FEATURES, CLASSES, EXAMPLES = 20, 5, 20
MODES = ("forward", "mixed")


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


class Certified:
    """A private program with its certificate, ready to be run.

    Args:
      computation: What runs.
      specs: What the server or one client holds.
      noise_multiplier: Of every release.
      clip_norm: Of everything that a client sends in a round.
      purpose: Whose budget pays.
    """

    def __init__(
        self,
        computation,
        specs: Sequence[Any],
        noise_multiplier: float,
        clip_norm: float,
        purpose: str,
    ):
        mechanism = privacy.Gaussian(noise_multiplier=noise_multiplier, clip_norm=clip_norm)
        self.private = privacy.privatize(computation, *specs, mechanism=mechanism, purpose=purpose)
        self.certificate = audits.certify(self.private)

    def run(self, args: Sequence[Any], ledger: privacy.Ledger, cohort, number: int) -> Any:
        """One release, by ideal secure aggregation."""
        return privacy.run(
            self.private, args, certificate=self.certificate, ledger=ledger, cohort=cohort,
            run_id="experiment", round=number, fidelity="ideal",
            acknowledge=[o.rule for o in self.certificate.obligations],
        ).value  # fmt: skip


def one_client(tree):
    """What one of the stacked clients holds."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree)


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


def learn(mode: str, seed: int, settings: dict, learning_rate: float, noise: float) -> float:
    """Final training loss of one private run; mode "fixed" learns nothing."""
    batches, model, state, hyper = start(seed, settings["clients"], learning_rate)
    own = one_client(batches)
    train = Certified(
        training(masked_loss, RATE), (model, own), noise, settings["delta clip"], "training"
    )
    slots = [privacy.Slot("training", 1.0, noise * 0.999, settings["rounds"])]
    if mode != "fixed":
        derivative = fad.grad(loss_of_step(masked_loss), mode=mode)
        clip = settings[f"{mode} clip"]
        specs = (hyper, model, state, model, own)
        judge = Certified(derivative, specs, noise, clip, "hypergradient")
        slots.append(privacy.Slot("hypergradient", 1.0, noise * 0.999, settings["rounds"]))
    everyone = privacy.FullParticipation(population=settings["clients"])
    # The slots are a thousandth below the noise, so the plan needs that much more room.
    budget = privacy.Budget(settings["epsilon"] * 1.01, DELTA)
    with (
        tempfile.TemporaryDirectory() as folder,
        privacy.Ledger.create(
            Path(folder) / "ledger.db", budget, population=settings["clients"], slots=slots
        ) as ledger,
    ):
        for number in range(settings["rounds"]):
            delta = train.run((model, batches), ledger, everyone.draw(), number)
            if mode != "fixed":
                args = (hyper, model, state, delta, batches)
                gradient = judge.run(args, ledger, everyone.draw(), number)
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
                "forward clip": 0.1, "mixed clip": 1.0, "hyper rate": 5.0}  # fmt: skip
    seeds, rates = 10, (8.0, 1.0, 0.1)
    if options.tiny:
        settings, seeds, rates = settings | {"clients": 6, "rounds": 2}, 2, (0.1,)
    budget = privacy.Budget(settings["epsilon"], DELTA)
    noise = {
        arm: noise_multiplier_for(budget, sampling_rate=1.0, rounds=count * settings["rounds"])
        for arm, count in (("fixed", 1), ("forward", 2), ("mixed", 2))
    }
    losses = {
        (rate, arm): np.array([learn(arm, s, settings, rate, z) for s in range(seeds)])
        for rate in rates for arm, z in noise.items()
    }  # fmt: skip
    rows = [(f"{rate:g}", arm, f"{noise[arm]:.2f}", str(interval(values)),
             "" if arm == "fixed" else str(interval(losses[rate, "fixed"] - values)))
            for (rate, arm), values in losses.items()]  # fmt: skip
    gains = [
        above(f"server rate {rate:g}: fixed minus learned in {mode} mode, final loss, is above 0",
              interval(losses[rate, "fixed"] - losses[rate, mode]), 0.0)
        for rate in rates for mode in MODES
    ]  # fmt: skip
    return Outcome(
        name="dp-a",
        shows="Learned server rate and momentum at equal epsilon",
        matches="nothing: not in the papers",
        criteria=tuple(gains),
        settings=settings | {"seeds": seeds, "delta": DELTA, "server rates": list(rates)},
        notes=("Everyone takes part in every round; all releases have the same noise multiplier, so "
               "hypergradients take half of the budget. Noise is the mechanism's own and not paired; "
               "data and starting point are. Clip norms are near the median "
               "norms of one run without privacy, which is not charged.",
               "Reverse mode releases the same sum as mixed mode here, with one broadcast more.",
               "No fixed rate was tuned; tuning one without privacy is not free either."),
        table=(("first server rate", "arm", "noise multiplier", "final loss", "gain over fixed"), *rows),
    )  # fmt: skip


def network_loss(hidden: int):
    """A network with a hidden layer in place of the linear classifier."""

    def loss(model, batch):
        inner = jnp.tanh(batch["x"] @ model["first"])
        return masked_loss({"w": model["w"], "b": model["b"]}, batch | {"x": inner})

    def initial(seed):
        first, second = jax.random.split(jax.random.key(seed))
        return {
            "first": jax.random.normal(first, (FEATURES, hidden)) / FEATURES**0.5,
            "w": jax.random.normal(second, (hidden, CLASSES)) / hidden**0.5,
            "b": jnp.zeros(CLASSES),
        }

    return loss, initial


def signal_to_noise(mode: str, hidden: int, clients: int, seed: int) -> tuple[float, float]:
    """|hypergradient| over the deviation of its noise, and the clip norm.

    The clip norm is the median client's, so that modes are compared at the same share of clipping.
    """
    loss, initial = network_loss(hidden)
    batches, _, _, hyper = start(seed, clients, 1.0)
    model = initial(seed)
    state = fedopt.fedavgm(hyper).init(model)
    delta = fad.simulate(training(loss, RATE))(model, batches)
    state = fedopt.fedavgm(hyper).update(delta, state, model)[1]
    derivative = fad.grad(loss_of_step(loss), mode=mode)
    args = (hyper, model, state, delta, batches)
    clip = float(np.median(_contributions(mode, loss, *args)))
    specs = (*args[:4], one_client(batches))
    noise_multiplier, draws = 1.0, 10
    certified = Certified(derivative, specs, noise_multiplier, clip, "hypergradient")
    everyone = privacy.FullParticipation(population=clients)
    slots = [privacy.Slot("hypergradient", 1.0, noise_multiplier * 0.999, draws)]
    with (
        tempfile.TemporaryDirectory() as folder,
        privacy.Ledger.create(
            Path(folder) / "l.db", privacy.Budget(1e3, DELTA), population=clients, slots=slots
        ) as ledger,
    ):
        flat = lambda tree: np.array([float(leaf) for leaf in jax.tree.leaves(tree)])
        found = [flat(certified.run(args, ledger, everyone.draw(), n)) for n in range(draws)]
    truth = flat(fad.simulate(derivative)(*args))
    noise = np.sqrt(np.var(found, axis=0, ddof=1).sum())
    return float(np.linalg.norm(truth) / noise), clip


def _contributions(mode: str, loss, hyper, model, state, delta, batches) -> np.ndarray:
    """The norm of what each client sends."""

    def stepped(h):
        return optax.apply_updates(model, fedopt.fedavgm(h).update(delta, state, model)[0])

    by_hyper = lambda own: jax.grad(lambda h: loss(stepped(h), whole(own)))(hyper)
    by_model = lambda own: jax.grad(loss)(stepped(hyper), whole(own))
    sent = jax.vmap(by_hyper if mode == "forward" else by_model)(batches)
    return np.sqrt(
        sum(np.sum(np.square(leaf).reshape(len(leaf), -1), 1) for leaf in jax.tree.leaves(sent))
    )


def _parameters(hidden: int) -> int:
    return (FEATURES + CLASSES) * hidden + CLASSES


def dp_b(options: Options) -> Outcome:
    """Signal to noise by mode, model size and cohort."""
    seeds = 2 if options.tiny else 10
    widths, cohorts = ((2,), (4,)) if options.tiny else ((4, 64), (20, 100))
    found = {
        (mode, h, n): np.array([signal_to_noise(mode, h, n, s)[0] for s in range(seeds)])
        for mode in MODES for h in widths for n in cohorts
    }  # fmt: skip
    rows = [(mode, str(_parameters(h)), str(n), str(interval(values)))
            for (mode, h, n), values in found.items()]  # fmt: skip
    ratios = [(h, n, interval(found["forward", h, n] / found["mixed", h, n]))
              for h in widths for n in cohorts]  # fmt: skip
    return Outcome(
        name="dp-b",
        shows="Signal to noise of one hypergradient at noise multiplier 1",
        matches="nothing: not in the papers",
        criteria=tuple(
            Criterion(f"{_parameters(h)} parameters, {n} clients: forward over mixed is above 1",
                      str(r), bool(r.low > 1)) for h, n, r in ratios
        ),
        settings={"seeds": seeds, "draws of noise per seed": 10},
        notes=("Each mode clips at the median norm of what clients send in it, computed from the data "
               "without privacy: the comparison is of noise, not of a deployable choice of norms.",),
        table=(("mode", "parameters", "clients", "signal to noise"), *rows),
    )  # fmt: skip


def dp_e(options: Options) -> Outcome:
    """Noise for one budget: the same cohort twice, or two draws."""
    budget, rounds = privacy.Budget(4.0, DELTA), 10 if options.tiny else 100
    rows, ratios = [], []
    for q in (0.1, 1.0) if options.tiny else (0.01, 0.05, 0.2, 1.0):
        # Two releases on one draw have a joint multiplier smaller by the root of two.
        same = 2**0.5 * noise_multiplier_for(budget, sampling_rate=q, rounds=rounds)
        fresh = noise_multiplier_for(budget, sampling_rate=q, rounds=2 * rounds)
        ratios.append(same / fresh)
        rows.append((f"{q:g}", f"{same:.3f}", f"{fresh:.3f}", f"{same / fresh:.3f}"))
    return Outcome(
        name="dp-e",
        shows="Noise per release: same cohort against fresh cohort",
        matches="nothing: not in the papers",
        criteria=(
            Criterion("a sampled cohort that is used twice needs more noise per release than two draws",
                      ", ".join(f"{r:.3f}" for r in ratios[:-1]), all(r > 1 for r in ratios[:-1])),
            Criterion("without sampling there is no difference (to 0.1 %)", f"{ratios[-1]:.4f}",
                      abs(ratios[-1] - 1) < 1e-3),
        ),
        settings={"epsilon": 4.0, "delta": DELTA, "rounds": rounds},
        notes=("Computed by the accountant, nothing is trained. A fresh cohort costs a second contact "
               "of as many clients.",),
        table=(("sampling rate", "same cohort", "fresh cohort", "ratio"), *rows),
    )  # fmt: skip
