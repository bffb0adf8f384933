"""FAD-1: learned client weighting on Synthetic(1, 1).

Four arms per data seed, alike in data, cohorts and starting point: example weighting (q = 1), uniform
weighting (q = 0), and q learned from either. The learned arms run the parallel form: one cohort
trains, another judges, in the same round.

Source: Rush, Charles, Garrett (JMLR 2024), section 6, Figs. 8 and 13.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import secfad as fad
from experiments.outcomes import Criterion, Options, Outcome, below
from experiments.statistics import interval
from secfad.algorithms import fedopt, hypergradients, local
from secfad.algorithms.trees import whole
from secfad.data import ClientArrays, minibatches, synthetic

ARMS = {"example": (1.0, 0.0), "uniform": (0.0, 0.0), "from 1": (1.0, 0.01), "from 0": (0.0, 0.01)}
BATCH, RATE = 10, 0.01


def masked_loss(model, batch):
    """Mean cross-entropy of a linear classifier over the real examples; 0 without any."""
    scores = jax.nn.log_softmax(batch["x"] @ model["w"] + model["b"])
    chosen = jnp.take_along_axis(scores, batch["y"][..., None], -1)[..., 0]
    return -jnp.sum(chosen * batch["mask"]) / jnp.maximum(jnp.sum(batch["mask"]), 1.0)


def learning_round(hyper_rate) -> fad.Computation:
    """FedAvg with weights size ** exponent; Adam learns the exponent (not at all at rate 0)."""
    round_ = fedopt.make_round(masked_loss, lambda hyper: optax.sgd(1.0), local.sgd(RATE))
    return hypergradients.parallel(round_, masked_loss, optax.adam(hyper_rate))


def one_arm(data, cohorts, judges, exponent, hyper_rate):
    """Loss and exponent at the logged rounds; cohorts have the axes (logs, rounds, members)."""
    play = fad.simulate(learning_round(hyper_rate))
    model = {"b": jnp.zeros(10), "w": jnp.zeros((60, 10))}
    hyper = {"server": {}, "client": {"exponent": exponent}}
    start = hypergradients.initial_learner(hyper, model, lambda h: optax.sgd(1.0), optax.adam(1.0))
    sizes = jnp.sum(data["mask"], axis=(1, 2))
    # With sizes as fractions of the largest the mean is the same and no weight exceeds 1.
    fractions = sizes / jnp.max(sizes)

    def round_(learner, picked):
        train, judge = picked
        pick = lambda members: jax.tree.map(lambda x: x[members], data)
        return play(learner, pick(train), fractions[train], pick(judge), fractions[judge]), None

    def until_log(learner, picked):
        learner = jax.lax.scan(round_, learner, picked)[0]
        losses = jax.vmap(lambda own: masked_loss(learner.model, whole(own)))(data)
        loss = jnp.sum(losses * sizes) / jnp.sum(sizes)
        return learner, (loss, learner.hyper["client"]["exponent"])

    return jax.lax.scan(until_log, start, (cohorts, judges))[1]


def one_seed(seed: int, *, clients: int, cohort: int, rounds: int, cap: int, every: int):
    """All arms on one data seed: losses and exponents, (arms, logs)."""
    data = synthetic(clients=clients, seed=seed, max_examples=cap).train
    # A fixed number of rows, so that all seeds share one compiled program.
    rows = -(-int(0.9 * cap) // BATCH) * BATCH
    grown = [np.pad(a, [(0, 0), (0, rows - a.shape[1])] + [(0, 0)] * (a.ndim - 2))
             for a in (data.features, data.labels, data.mask)]  # fmt: skip
    batches = minibatches(ClientArrays(*grown), BATCH)
    rng = np.random.default_rng((seed, 1))
    draw = lambda: np.stack([rng.permutation(clients)[:cohort] for _ in range(rounds)])
    cohorts, judges = (draw().reshape(-1, every, cohort) for _ in range(2))
    starts, rates = (jnp.array(column) for column in zip(*ARMS.values()))
    return _all_arms(batches, cohorts, judges, starts, rates)


_all_arms = jax.jit(jax.vmap(one_arm, in_axes=(None, None, None, 0, 0)))


def fad_1(options: Options) -> Outcome:
    """Runs the four arms on every data seed."""
    sizes = {"clients": 100, "cohort": 50, "rounds": 500, "cap": 1000, "every": 10}
    seeds = 10
    if options.tiny:
        sizes, seeds = {"clients": 8, "cohort": 4, "rounds": 40, "cap": 60, "every": 10}, 2
    found = [one_seed(seed, **sizes) for seed in range(seeds)]
    losses, exponents = (np.stack([np.asarray(f[i]) for f in found]) for i in range(2))
    axis = np.arange(1, losses.shape[2] + 1) * sizes["every"]
    loss = {name: losses[:, i] for i, name in enumerate(ARMS)}
    envelope = np.minimum(loss["example"], loss["uniform"])
    early = int(np.argmax(axis >= 20))
    ratio = lambda name: interval((loss[name] / envelope).mean(axis=1))
    peaks = exponents[:, list(ARMS).index("from 0")].max(axis=1)
    needed = int(np.ceil(0.9 * seeds))
    criteria = (
        below("loss(example) / loss(uniform) at round 20 is below 1",
              interval(loss["example"][:, early] / loss["uniform"][:, early]), 1.0),
        below("loss(uniform) / loss(example) at the last round is below 1",
              interval(loss["uniform"][:, -1] / loss["example"][:, -1]), 1.0),
        below("learned from 1, over the lower envelope, mean over rounds, is below 1.10",
              ratio("from 1"), 1.10),
        Criterion(f"learned from 0: the exponent rises above 0.2 in at least {needed} of {seeds} seeds",
                  f"{int((peaks > 0.2).sum())} of {seeds}", bool((peaks > 0.2).sum() >= needed)),
    )  # fmt: skip
    final = [(name, f"{loss[name][:, early].mean():.3f}", f"{loss[name][:, -1].mean():.3f}",
              f"{exponents[:, i, -1].mean():.3f}") for i, name in enumerate(ARMS)]  # fmt: skip
    return Outcome(
        name="fad-1",
        shows="Learned client weighting on Synthetic(1, 1)",
        matches="Figs. 8 and 13 of the federated AD paper",
        criteria=criteria,
        settings=sizes | {"seeds": seeds, "batch": BATCH, "client rate": RATE, "hyper rate": 0.01},
        notes=(
            "The paper gives no client rate, batch size or number of rounds for this task, and no "
            "formula for q: these are ours, with weights size ** q, unprojected.",
            f"A client has at most {sizes['cap']} examples before the split; the paper states no cap. "
            "Mini-batches keep their order from round to round.",
            f"Learned from 0, over the lower envelope: {ratio('from 0')}; worst round and seed of "
            f"learned from 1: {(loss['from 1'] / envelope).max():.3f}.",
            "Section 6 of the paper prints no numbers for this figure; only the shapes are compared.",
        ),
        table=(("arm", "loss at round 20", "loss at the end", "exponent at the end"), *final),
        curves={name: values.mean(axis=0).tolist() for name, values in loss.items()},
        axis=("round", axis.tolist()),
        measure="training loss, by examples",
    )
