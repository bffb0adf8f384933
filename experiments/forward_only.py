"""BAF-1 to BAF-3: training with K numbers per client and round.

BAF-1: accuracy against K on the digits, with forward differences and with exact directional
derivatives, from the same keys. BAF-2: what is lost by sharing the directions, which is what makes K
numbers enough. BAF-3: the error of the estimated gradient against K.

Source: Feng et al. (2023), sections 3-4.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import secfad as fad
from experiments import networks
from experiments.outcomes import Criterion, Options, Outcome, above
from experiments.statistics import interval
from secfad.algorithms import baffle

CLIENTS, ROWS, RATE, STEP = 10, 32, 1e-2, 1e-3


def back_propagation(optimizer) -> fad.Computation:
    """One round of federated gradient descent: `(model, state, key, batch, size)`."""

    @fad.computation(
        model=fad.SERVER, state=fad.SERVER, key=fad.SERVER, batch=fad.CLIENTS, size=fad.CLIENTS
    )
    def gradient_round(model, state, key, batch, size):
        del key
        gradient = jax.grad(networks.loss)(fad.broadcast(model, name="model"), batch)
        change, state = optimizer.update(fad.mean(gradient, weights=size), state, model)
        return optax.apply_updates(model, change), state

    return gradient_round


def own_directions(optimizer, directions: int) -> fad.Computation:
    """BAFFLE with directions of each client's own: `(model, state, key, batch, size)`.

    The number of a client travels in `batch["client"]`; messages are as large as the model.
    """

    @fad.computation(
        model=fad.SERVER, state=fad.SERVER, key=fad.SERVER, batch=fad.CLIENTS, size=fad.CLIENTS
    )
    def own_round(model, state, key, batch, size):
        sent, sent_key = fad.broadcast((model, key), name="model")
        own = jax.random.fold_in(sent_key, batch["client"])
        slopes = baffle.client_slopes(networks.loss, sent, own, batch, directions, STEP)
        gradient = fad.mean(baffle.combine(slopes, own, sent), weights=size, name="gradient")
        change, state = optimizer.update(gradient, state, model)
        return optax.apply_updates(model, change), state

    return own_round


def train(round_: fad.Computation, rounds: int, seed, data, test):
    """Test accuracy after some rounds; the seed makes the model, the mini-batches and directions."""
    play = fad.simulate(round_)
    start, keys = jax.random.split(jax.random.key(seed))
    model = networks.initial(start)
    sizes = jnp.sum(data["mask"], axis=1)

    def step(carry, key):
        rows, directions = jax.random.split(key)
        batch = networks.small_batch(data, networks.draw_rows(rows, sizes, ROWS))
        batch = batch | {"client": jnp.arange(len(sizes))}
        return play(*carry, directions, batch, sizes), None

    state = optax.adam(RATE).init(model)
    (model, _), _ = jax.lax.scan(step, (model, state), jax.random.split(keys, rounds))
    return networks.accuracy(model, test)


def over_seeds(round_: fad.Computation, rounds: int, seeds: int) -> np.ndarray:
    """Accuracies of paired runs: the same seed is the same model, data and mini-batches."""
    data, test = networks.federation(CLIENTS, seed=0)
    batch = networks.one_batch(data)
    test = jax.tree.map(jnp.asarray, test)
    run = jax.jit(functools.partial(train, round_, rounds))
    return np.array([float(run(seed, batch, test)) for seed in range(seeds)])


def baf_1(options: Options) -> Outcome:
    """Accuracy against K."""
    rounds, seeds = (3, 2) if options.tiny else (150, 10)
    counts = (2, 4) if options.tiny else (10, 30, 100, 300)
    adam = optax.adam(RATE)
    make = lambda k, step: baffle.make_round(networks.loss, adam, directions=k, step=step)
    difference = {k: over_seeds(make(k, STEP), rounds, seeds) for k in counts}
    exact = {k: over_seeds(make(k, None), rounds, seeds) for k in counts}
    full = over_seeds(back_propagation(adam), rounds, seeds)
    rising = tuple(
        above(f"accuracy at K = {b} minus K = {a} is above 0 points",
              interval(difference[b] - difference[a]), 0.0)
        for a, b in itertools.pairwise(counts) if b <= 100
    )  # fmt: skip
    last = counts[-1]
    behind = interval(full - difference[last])
    every = np.mean([difference[k] - exact[k] for k in counts], axis=0)
    gap = interval(every)
    rows = [(str(k), str(interval(difference[k])), str(interval(exact[k]))) for k in counts]
    return Outcome(
        name="baf-1",
        shows="K numbers per client and round are enough on digits",
        matches="the growth with K that BAFFLE reports, in kind",
        criteria=(
            *rising,
            Criterion(f"K = {last} is within 2 points of back-propagation", str(behind),
                      bool(behind.mean < 2.0)),
            Criterion("forward differences minus exact derivatives (mean over K): 0 in the interval",
                      str(gap), bool(gap.low <= 0 <= gap.high)),
        ),
        settings={"seeds": seeds, "rounds": rounds, "clients": CLIENTS, "batch": ROWS,
                  "Adam rate": RATE, "step of differences": STEP},
        notes=(f"Back-propagation: {interval(full)}.",
               "MNIST and the paper's networks are out of reach of this machine in minutes; its "
               "accuracies are not compared. No weight decay, averaging of weights or clipping."),
        table=(("K", "forward differences (%)", "exact (%)"), *rows),
        curves={"forward differences": [float(difference[k].mean()) for k in counts],
                "exact directional derivatives": [float(exact[k].mean()) for k in counts],
                "back-propagation": [float(full.mean())] * len(counts)},
        axis=("K", [float(k) for k in counts]),
        measure="test accuracy (%)",
    )  # fmt: skip


def baf_2(options: Options) -> Outcome:
    """Shared against independent directions at the same K."""
    rounds, seeds, count = (3, 2, 2) if options.tiny else (150, 10, 10)
    adam = optax.adam(RATE)
    shared = over_seeds(
        baffle.make_round(networks.loss, adam, directions=count, step=STEP), rounds, seeds
    )
    own = over_seeds(own_directions(adam, count), rounds, seeds)
    return Outcome(
        name="baf-2",
        shows="What sharing the directions costs",
        matches="ours: the scalar protocol needs shared directions, simulations with own ones do better",
        criteria=(above(f"K = {count}: own minus shared directions is above 0 points",
                        interval(own - shared), 0.0),),
        settings={"seeds": seeds, "rounds": rounds, "clients": CLIENTS, "K": count},
        notes=("A server that receives K sums can multiply each by one direction only. With directions "
               "of its own, a client has to upload a vector as large as the model.",),
        table=(("directions", "accuracy (%)", "numbers up"),
               ("shared", str(interval(shared)), str(count + 1)),
               ("own", str(interval(own)), "model + 1")),
    )  # fmt: skip


def baf_3(options: Options) -> Outcome:
    """Squared error of the estimate against K."""
    counts = (2, 4, 8) if options.tiny else (10, 30, 100, 300, 1000)
    draws = 4 if options.tiny else 40
    model = networks.initial(jax.random.key(0))
    data, _ = networks.federation(CLIENTS, seed=0, rows=20)
    batch = networks.one_batch(data)
    sizes = jnp.sum(batch["mask"], axis=1)
    identity = optax.sgd(1.0)
    flat = lambda tree: ravel_pytree(tree)[0]
    after = fad.simulate(back_propagation(identity))
    truth = flat(model) - flat(
        after(model, identity.init(model), jax.random.key(0), batch, sizes)[0]
    )

    def estimate(play, key):
        return flat(model) - flat(play(model, identity.init(model), key, batch, sizes)[0])

    errors, cosines = [], []
    for count in counts:
        play = fad.simulate(baffle.make_round(networks.loss, identity, directions=count))
        one = jax.jit(functools.partial(estimate, play))
        found = np.stack([one(jax.random.key(d)) for d in range(draws)])
        errors.append((np.linalg.norm(found - truth, axis=1) ** 2).mean())
        cosines.append((found @ truth / np.linalg.norm(found, axis=1)).mean())
    relative = np.array(errors) / np.linalg.norm(truth) ** 2
    cosine = np.array(cosines) / np.linalg.norm(truth)
    slope = float(np.polyfit(np.log(counts), np.log(relative), 1)[0])
    n = truth.size
    low, high = (-2.0, 0.0) if options.tiny else (-1.1, -0.9)
    rows = [(str(k), f"{e:.4g}", f"{(n + 1) / k:.4g}", f"{c:.3f}", f"{(k / (k + n)) ** 0.5:.3f}")
            for k, e, c in zip(counts, relative, cosine)]  # fmt: skip
    return Outcome(
        name="baf-3",
        shows="Squared error of the estimated gradient falls like n / K",
        matches="the rate of BAFFLE's theorem, in kind",
        criteria=(Criterion(f"slope of log squared error on log K lies in [{low}, {high}]",
                            f"{slope:.3f}", low <= slope <= high),),
        settings={"parameters": n, "draws": draws, "K": list(counts)},
        notes=("The theorem's statement and constants were not at hand; (n + 1) / K and "
               "sqrt(K / (K + n)) are derived for exact directional derivatives.",),
        table=(("K", "error / |grad|^2", "(n + 1) / K", "cosine", "sqrt(K / (K + n))"), *rows),
        curves={"measured": relative.tolist(), "(n + 1) / K": [(n + 1) / k for k in counts]},
        axis=("K", [float(k) for k in counts]),
        measure="relative squared error",
    )  # fmt: skip
