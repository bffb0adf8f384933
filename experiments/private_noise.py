"""How does the noise of a private hypergradient grow with the model? By mode, computed and measured.

A server that trains privately knows its step only through released deltas, and a released delta of D
numbers carries noise of length proportional to sqrt(D). Along such tangents, forward mode releases
one number per hyperparameter, with noise that knows nothing of D; reverse and mixed mode release a
gradient, whose noise is read off along the tangents and grows with their length:

    forward   std_j = z C_forward / m              C: clip norm, m: clients, z: noise multiplier
    reverse   std_j = z C_gradient |T_j| / m       T_j: tangent of the j-th hyperparameter
    mixed     the same as reverse

Source: docs/privacy-model.md, "What a derivative costs"; nothing here is in the papers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import privacy
from experiments.outcomes import Criterion, Options, Outcome
from experiments.private_runs import Certified, ledger_for, specs_of
from privacy.execution.aggregation import groups
from privacy.training.hypergradients import hypergradient

MODES = ("forward", "reverse", "mixed")
HYPER = {"server": {"learning_rate": np.float32(1), "momentum": np.float32(1)}, "client": {}}
# Both tails of all comparisons together are false with at most this probability.
FALSE_ALARM = 1e-6


def judge(model: jax.Array, own: jax.Array) -> jax.Array:
    """A client's loss: half the squared distance to its own point."""
    return 0.5 * jnp.sum((model - own) ** 2)


def setting(size: int, clients: int, noise_multiplier: float, seed: int):
    """The model and tangents after a private FedAvgM step, and clients at distance 1 from them.

    The tangents are what `privacy.training.hypergradients` makes of released deltas: minus the
    momentum buffer for the learning rate, minus the one before it for the momentum.
    """
    rng = np.random.default_rng((seed, size))
    own = rng.normal(size=(clients, size)) / size**0.5
    noise = noise_multiplier / clients * rng.normal(size=(2, size))
    mean = np.mean(own, axis=0)
    tangents = {"learning_rate": mean + noise[0], "momentum": mean + noise[1]}
    tree = {"server": {k: jnp.asarray(t, jnp.float32) for k, t in tangents.items()}, "client": {}}
    return jnp.zeros(size), tree, jnp.asarray(own, jnp.float32)


def deviations(mode: str, size: int, settings: dict) -> tuple[np.ndarray, np.ndarray, float]:
    """Computed and measured standard deviation by hyperparameter, and the clip norm."""
    clients, draws, z = settings["clients"], settings["draws"], settings["noise multiplier"]
    args = setting(size, clients, z, settings["seed"])
    computation = hypergradient(judge, HYPER, mode)
    specs = specs_of(computation, args)
    clip = max(privacy.typical_norms(computation, args).values())
    certified = Certified(computation, specs, z, clip, "hypergradient")
    with ledger_for(1e4, clients, [certified.slot(draws)]) as ledger:
        found = [flat(certified.run(args, ledger, n, clients)) for n in range(draws)]
    [release] = certified.private.releases
    [group] = groups(release, certified.private.mechanism)
    # The noise on the sum in the units of the sum: integers on a grid, a hair above z times the clip.
    per_client = group.noise_std / certified.private.mechanism.grid * clip / clients
    lengths = flat({"server": {k: jnp.linalg.norm(t) for k, t in args[1]["server"].items()}})
    computed = per_client * (np.ones(len(lengths)) if mode == "forward" else lengths)
    return computed, np.std(found, axis=0, ddof=1), clip


def flat(tree) -> np.ndarray:
    """The numbers of a tree."""
    return np.array([float(leaf) for leaf in jax.tree.leaves(tree)])


def dp_n(options: Options) -> Outcome:
    """Standard deviation of the released hypergradient by mode and model size."""
    settings = {"clients": 100, "noise multiplier": 2.0, "draws": 100, "seed": 0}
    sizes = (100, 1_000, 10_000)
    if options.tiny:
        settings, sizes = settings | {"clients": 8, "draws": 4}, (4, 64)
    found = {(mode, d): deviations(mode, d, settings) for mode in MODES for d in sizes}
    ratios = np.array([measured / computed for computed, measured, _ in found.values()])
    freedom = settings["draws"] - 1
    tail = FALSE_ALARM / 2 / ratios.size
    low, high = np.sqrt(scipy.stats.chi2.ppf([tail, 1 - tail], freedom) / freedom)
    growth = {m: float(np.mean(found[m, sizes[-1]][1] / found[m, sizes[0]][1])) for m in MODES}
    rows = [
        (mode, f"{d:,}", f"{clip:.3f}", f"{computed[0]:.4f}", f"{measured[0]:.4f}")
        for (mode, d), (computed, measured, clip) in found.items()
    ]
    wider = (sizes[-1] / sizes[0]) ** 0.5
    return Outcome(
        name="dp-n",
        shows="Noise of the released hypergradient over the size of the model",
        matches="nothing: not in the papers",
        criteria=(
            Criterion(f"measured over computed deviation is within [{low:.3f}, {high:.3f}]",
                      f"{ratios.min():.3f} to {ratios.max():.3f}",
                      bool(low <= ratios.min() and ratios.max() <= high)),
            Criterion(f"forward mode: a model {sizes[-1] // sizes[0]:,} times as large has at most twice "
                      "the noise", f"{growth['forward']:.2f} times", growth["forward"] <= 2),
            *(Criterion(f"{mode} mode: it has more than three times the noise (the root is {wider:.0f})",
                        f"{growth[mode]:.2f} times", growth[mode] > 3) for mode in MODES[1:]),
        ),
        settings=settings | {"sizes": list(sizes)},
        notes=("Tangents are those of a server whose deltas were released with the same noise multiplier "
               "and clip norm 1: that is why they lengthen with the model.",
               "Each mode clips at the median norm of what clients send in it, computed from the data "
               "without privacy: the comparison is of noise, not of a deployable choice of norms.",
               "The band is that of a chi-square variable; all comparisons together leave it by chance "
               f"with a probability of at most {FALSE_ALARM:g}.",
               "Every draw is a certified release through ideal secure aggregation, charged to a ledger."),
        table=(("mode", "model size", "clip norm", "computed std (rate)", "measured std (rate)"), *rows),
        curves={mode: [float(found[mode, d][1][0]) for d in sizes] for mode in MODES},
        axis=("numbers in the model", [float(d) for d in sizes]),
        measure="standard deviation of d loss / d rate",
    )  # fmt: skip
