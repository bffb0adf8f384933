"""DP-B: signal to noise of one hypergradient, by mode of differentiation, model size and cohort.

DP-E: the noise that a budget asks for when the training cohort judges as well, against a fresh draw.

Source: nothing here is in the papers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import privacy
import secfad as fad
from experiments.outcomes import Criterion, Options, Outcome
from experiments.private_learning import (
    CLASSES,
    FEATURES,
    MODES,
    RATE,
    loss_of_step,
    start,
    training,
)
from experiments.private_runs import DELTA, Certified, ledger_for, specs_of
from experiments.statistics import interval
from experiments.weighting import masked_loss
from privacy.accounting.calibration import noise_multiplier_for
from secfad.algorithms import fedopt
from secfad.inner import Mode


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


def example(hidden: int, clients: int, seed: int) -> tuple:
    """Arguments of a hypergradient after a first round of training."""
    initial = network_loss(hidden)[1]
    batches, _, _, hyper = start(seed, clients, 1.0)
    model = initial(seed)
    state = fedopt.fedavgm(hyper).init(model)
    delta = _trained(hidden)(model, batches)
    state = fedopt.fedavgm(hyper).update(delta, state, model)[1]
    return hyper, model, state, delta, batches


@functools.cache
def _trained(hidden: int):
    return jax.jit(fad.simulate(training(network_loss(hidden)[0], RATE)))


def signal_to_noise(mode: Mode, hidden: int, clients: int, seeds: int, draws: int) -> np.ndarray:
    """|hypergradient| over the deviation of its noise, for every seed."""
    derivative = fad.grad(loss_of_step(network_loss(hidden)[0]), mode=mode)
    # Norms come from data that is not judged; modes are compared at the same share of clipping.
    unused = example(hidden, clients, seeds)
    norms = privacy.typical_norms(derivative, unused)
    certified = Certified(derivative, specs_of(derivative, unused), 1.0, norms, "hypergradient")
    plain = jax.jit(fad.simulate(derivative))
    flat = lambda tree: np.array([float(leaf) for leaf in jax.tree.leaves(tree)])
    found = []
    for seed in range(seeds):
        args = example(hidden, clients, seed)
        with ledger_for(1e3, clients, [certified.slot(draws)]) as ledger:
            drawn = [flat(certified.run(args, ledger, n, clients)) for n in range(draws)]
        noise = np.sqrt(np.var(drawn, axis=0, ddof=1).sum())
        found.append(np.linalg.norm(flat(plain(*args))) / noise)
    return np.array(found)


def _parameters(hidden: int) -> int:
    return (FEATURES + CLASSES) * hidden + CLASSES


def dp_b(options: Options) -> Outcome:
    """Signal to noise by mode, model size and cohort."""
    seeds, draws = (2, 3) if options.tiny else (10, 10)
    widths, cohorts = ((2,), (4,)) if options.tiny else ((4, 64), (20, 100))
    modes = MODES[:2] if options.tiny else MODES
    found = {
        (mode, h, n): signal_to_noise(mode, h, n, seeds, draws)
        for mode in modes for h in widths for n in cohorts
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
        settings={"seeds": seeds, "draws of noise per seed": draws},
        notes=("Each mode clips at the median norm of what clients send in it, computed without privacy "
               "from data that is not judged: the comparison is of noise, not of a deployable choice "
               "of norms. A larger cohort is a larger sum under the same noise.",),
        table=(("mode", "parameters", "clients", "signal to noise"), *rows),
        curves={f"{mode}, {_parameters(h)} parameters": [float(found[mode, h, n].mean()) for n in cohorts]
                for mode in modes for h in widths},
        axis=("clients", [float(n) for n in cohorts]),
        measure="signal over noise",
    )  # fmt: skip


def dp_e(options: Options) -> Outcome:
    """Noise for one budget: the same cohort twice, or two draws."""
    budget, rounds = privacy.Budget(4.0, DELTA), 10 if options.tiny else 100
    rates = (0.1, 1.0) if options.tiny else (0.01, 0.05, 0.2, 1.0)
    same, fresh = [], []
    for q in rates:
        # Two releases on one draw have a joint multiplier smaller by the root of two.
        same.append(2**0.5 * noise_multiplier_for(budget, sampling_rate=q, rounds=rounds))
        fresh.append(noise_multiplier_for(budget, sampling_rate=q, rounds=2 * rounds))
    ratios = np.array(same) / np.array(fresh)
    rows = [(f"{q:g}", f"{s:.3f}", f"{f:.3f}", f"{r:.3f}")
            for q, s, f, r in zip(rates, same, fresh, ratios)]  # fmt: skip
    return Outcome(
        name="dp-e",
        shows="Noise per release: same cohort against fresh cohort",
        matches="nothing: not in the papers",
        criteria=(
            Criterion("a sampled cohort that is used twice needs more noise per release than two draws",
                      ", ".join(f"{r:.3f}" for r in ratios[:-1]), bool((ratios[:-1] > 1).all())),
            Criterion("without sampling there is no difference (to 0.1 %)", f"{ratios[-1]:.4f}",
                      bool(abs(ratios[-1] - 1) < 1e-3)),
        ),
        settings={"epsilon": 4.0, "delta": DELTA, "rounds": rounds},
        notes=("Computed by the accountant, nothing is trained. A fresh cohort costs a second contact "
               "of as many clients.",),
        table=(("sampling rate", "same cohort", "fresh cohort", "ratio"), *rows),
        curves={"same cohort": same, "fresh cohort": fresh},
        axis=("sampling rate", list(rates)),
        measure="noise multiplier of a release",
    )  # fmt: skip
