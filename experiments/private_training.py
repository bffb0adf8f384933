"""DP-D, training: short messages against full gradients under SecAgg and differential privacy.

A full gradient, the slopes of BAFFLE and three intrinsic compressions train one network on digits, and
all short methods send the same number of numbers. They are compared at equal epsilon and rounds, at
equal epsilon and payload, and at equal epsilon and bytes with all messages of secure aggregation.
Every method clips at its typical norm and has its best step, chosen on further seeds by simulating clip
and noise; what is judged went through certificates, secure aggregation and ledgers.

Source: nothing here is in the papers; the methods' sources are in `secfad.algorithms`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import privacy
from experiments import networks
from experiments.outcomes import Options, Outcome, above
from experiments.private_messages import (
    Method,
    broadcast_part,
    coordinates,
    full_gradient,
    question,
    slopes,
)
from experiments.private_runs import DELTA, Certified, ledger_for, noise_for, specs_of
from experiments.statistics import interval

STEPS = (0.03, 0.1, 0.3, 1.0, 3.0)
BLOCKS, EPOCH = 4, 10
FULL = "full gradient"


@dataclass(frozen=True)
class Plan:
    """A method with its share of rounds.

    Attributes:
      method: What is sent and learned.
      rounds: In which the whole budget is spent.
      noise: Multiplier of every release.
      norm: Clip norm.
      rate: Step.
    """

    method: Method
    rounds: int
    noise: float
    norm: float
    rate: float


def clients_of(count: int):
    """What everyone holds, a few digits and the secret choice of a block, and the test part."""
    data, test = networks.federation(count, seed=0)
    choice = jax.random.randint(jax.random.key(0), (count,), 0, BLOCKS)
    own = {"batch": networks.one_batch(data), "choice": choice}
    return own, jax.tree.map(jnp.asarray, test)


def clipped_mean(method: Method, sent, own, norm):
    """The mean message in the clear, everyone's clipped."""

    def one(held):
        found = method.message(sent, held)
        size = jnp.linalg.norm(ravel_pytree(found)[0])
        return jax.tree.map(lambda x: x * jnp.minimum(1.0, norm / size), found)

    return jax.tree.map(lambda x: x.mean(axis=0), jax.vmap(one)(own))


def rehearsed(method: Method, rounds: int, own, test, seed, rate, norm, noise):
    """Accuracy of a run with simulated noise, of deviation `noise` on every mean."""

    def step(state, number):
        state = method.renew(state, number)
        mean = clipped_mean(method, broadcast_part(method, state), own, norm)
        flat, unravel = ravel_pytree(mean)
        key = jax.random.fold_in(jax.random.key(seed + 1), number)
        mean = unravel(flat + noise * jax.random.normal(key, flat.shape))
        return method.learn(state, mean, rate), None

    state = method.start(jax.random.key(seed))
    end = jax.lax.scan(step, state, jnp.arange(rounds))[0]
    found = networks.accuracy(method.model(end), test)
    return jnp.where(jnp.isfinite(found), found, 0.0)


def planned(method: Method, rounds: int, epsilon: float, own, test, tuning: list[int]):
    """The plan with the best step over the seeds for tuning."""
    clients = len(own["choice"])
    noise = noise_for(epsilon, {"training": rounds})
    state = method.renew(method.start(jax.random.key(tuning[0])), 0)
    typical = privacy.typical_norms(question(method), (broadcast_part(method, state), own))[
        "message"
    ]
    rates = [method.unit * step for step in STEPS]
    one = lambda case: rehearsed(method, rounds, own, test, *case)
    # With everything in one program, one after another: no compilation per case.
    cases = [(seed, rate, typical, noise * typical / clients) for rate in rates for seed in tuning]
    columns = tuple(jnp.asarray(column) for column in zip(*cases))
    found = np.asarray(jax.jit(lambda c: jax.lax.map(one, c))(columns))
    best = int(found.reshape(len(rates), len(tuning)).mean(axis=1).argmax())
    return Plan(method, rounds, noise, typical, rates[best])


def judged(plan: Plan, epsilon: float, own, test, seeds: int) -> tuple[np.ndarray, float]:
    """Accuracies after every round, (seeds, rounds), and bytes that a client sent in a round."""
    method, clients = plan.method, len(own["choice"])
    computation = question(method)
    first = broadcast_part(method, method.start(jax.random.key(0)))
    certified = Certified(
        computation, specs_of(computation, (first, own)), plan.noise, plan.norm, "training"
    )
    renew, learn = jax.jit(method.renew), jax.jit(method.learn)
    accuracy = jax.jit(lambda state: networks.accuracy(method.model(state), test))
    found, sent = [], 0.0
    for seed in range(seeds):
        state = method.start(jax.random.key(seed))
        with ledger_for(epsilon, clients, [certified.slot(plan.rounds)]) as ledger:
            for number in range(plan.rounds):
                state = renew(state, number)
                args = (broadcast_part(method, state), own)
                result = certified.result(args, ledger, number, clients)
                state, sent = learn(state, result.value, plan.rate), result.bytes_up
                found.append(float(accuracy(state)))
    return np.array(found).reshape(seeds, plan.rounds), sent


NOTES = (
    "Everyone takes part in every round, with three digits each. Seeds are paired in their "
    "starting point; directions, matrices and noise are a run's own.",
    "Clip norms are the typical norm at the first model; steps are the best of the grid on "
    "further seeds, for every row by itself, "
    "with simulated noise on the same digits: tuning is not charged.",
    "Kilobytes are what a client sends in all rounds, messages of secure aggregation "
    "included. Those do not depend on the size of the vector, and outweigh it here; with a "
    "model of millions the payload decides.",
)


def dp_d_training(options: Options) -> Outcome:
    """All methods at equal rounds; the full gradient at equal payload and at equal bytes as well."""
    settings = {"clients": 475, "numbers in a short message": 64, "rounds": 40, "epsilon": 8.0}
    seeds, tuning = 10, [100, 101]
    if options.tiny:
        settings |= {"clients": 8, "numbers in a short message": 4, "rounds": 3}
        seeds, tuning = 2, [100]
    size, rounds = settings["numbers in a short message"], settings["rounds"]
    methods = {
        FULL: full_gradient(),
        f"{size} slopes": slopes(size),
        "static": coordinates(1, size, None),
        "time-varying": coordinates(1, size, EPOCH),
        f"{BLOCKS} subspaces": coordinates(BLOCKS, size // BLOCKS, None),
    }
    own, test = clients_of(settings["clients"])
    epsilon, curves, found, sent, rows = settings["epsilon"], {}, {}, {}, []

    def play(label: str, method: Method, count: int):
        plan = planned(method, count, epsilon, own, test, tuning)
        curves[label], sent[label] = judged(plan, epsilon, own, test, seeds)
        found[label] = curves[label][:, -1]
        rows.append((label, str(count), f"{plan.noise:.2f}", f"{plan.norm:.2g}",
                     f"{plan.rate / method.unit:g}", f"{sent[label] * count / 1e3:.0f}",
                     str(interval(found[label]))))  # fmt: skip

    for name, method in methods.items():
        play(name, method, rounds)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(networks.initial(jax.random.key(0))))
    shorter = {
        "rounds": rounds,
        "payload": max(1, round(rounds * size / parameters)),
        "bytes": max(1, round(rounds * sent["static"] / sent[FULL])),
    }
    for equal in ("payload", "bytes"):
        play(f"{FULL}, equal {equal}", methods[FULL], shorter[equal])
    claims = [
        above(f"equal epsilon and {equal}: {name} minus {FULL}, points, is above 0",
              interval(found[name] - found[FULL if equal == "rounds" else f"{FULL}, equal {equal}"]), 0.0)
        for equal in shorter for name in methods if name != FULL
    ]  # fmt: skip
    return Outcome(
        name="dp-d-training",
        shows="Short messages against full gradients at equal epsilon",
        matches="nothing: not in the papers",
        criteria=tuple(claims),
        settings=settings | {"seeds": seeds, "delta": DELTA, "parameters": parameters,
                             "rounds per matrix, time-varying": EPOCH, "steps tried": list(STEPS)},
        notes=NOTES,
        table=(("method", "rounds", "noise multiplier", "clip norm", "step", "kB up per client",
                "test accuracy (%)"), *rows),
        curves={name: curves[name].mean(axis=0).tolist() for name in methods},
        axis=("round", list(range(1, rounds + 1))),
        measure="test accuracy (%)",
    )  # fmt: skip
