"""DP-D, bilevel: federated hypergradients under SecAgg and differential privacy, at equal epsilon.

The quadratic problem of `quadratics`, whose hypergradient is known, with many clients. All rounds of
one hypergradient are released on one draw of clients and share its budget, so a method that needs
fewer rounds adds less noise to each; and noise of every round enters the recursion.

  A  forward matrix       R rounds of d_y (1 + d_x) numbers
  B  shared rounds        R rounds of 2 d_y
  C  reverse              R rounds of d_y, the same clients twice in each
  D  FedNest              R rounds of d_y, with its best split; twice as many at B's payload

Source: nothing here is in the papers.
"""

import jax
import jax.numpy as jnp
import numpy as np

import privacy
import secfad as fad
from experiments.outcomes import Options, Outcome, below
from experiments.private_runs import DELTA, Certified, ledger_for, noise_for, releases_of, specs_of
from experiments.quadratics import LOWER, UPPER, exact, lower, quadratic, upper
from experiments.statistics import interval
from secfad.algorithms import aggitd

CONDITION, SPREAD = 10.0, 1.0
# Over the median norm: at the median itself the bias of clipping outweighs the noise by far.
CLIP = 2.0


def methods(rounds: int) -> dict[str, list[fad.Computation]]:
    """Name to the variants of a method; the best one counts."""
    problem = lambda steps: aggitd.Bilevel(upper, lower, 1.0, steps)
    longer = 2 * rounds - 1
    nest = lambda total: [
        aggitd.fednest(problem(steps), total - 2 - steps)
        for steps in (total // 2 - 1, 5 * total // 8)
    ]
    return {
        "A": [aggitd.forward_matrix(problem(rounds - 1))],
        "B": [aggitd.shared_rounds(problem(rounds - 1))],
        "C": [aggitd.reverse_unrolled(problem((rounds - 1) // 2))],
        "D": nest(rounds),
        "D, equal payload": nest(longer),
    }


def problem_of(seed: int, clients: int):
    """Arguments (x, y, data) in single precision, and the true hypergradient."""
    with jax.enable_x64(True):
        data, x = quadratic(seed, CONDITION, SPREAD, clients)
        truth = np.asarray(exact(x, jax.tree.map(lambda a: a.mean(axis=0), data)))
    single = lambda a: jnp.asarray(np.asarray(a, np.float32))
    return (single(x), jnp.zeros(LOWER), jax.tree.map(single, data)), truth


def gradient_of(released) -> np.ndarray:
    """dF/dx, from programs that give it alone or with y."""
    return np.asarray(released[0] if isinstance(released, tuple) else released, float)


def error(found: np.ndarray, truth: np.ndarray) -> float:
    """Relative to the truth."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def errors(computation: fad.Computation, epsilon: float | None, clients: int, seeds: int):
    """Errors over seeds, kilobytes up per client, and releases; in the clear without epsilon."""
    unused, _ = problem_of(1000, clients)
    specs = specs_of(computation, unused)
    count = releases_of(computation, specs)
    problems = [problem_of(seed, clients) for seed in range(seeds)]
    if epsilon is None:
        play = jax.jit(fad.simulate(computation))
        return np.array([error(gradient_of(play(*a)), t) for a, t in problems]), 0.0, count
    noise = noise_for(epsilon, {"hypergradient": (1, count)})
    norms = {name: CLIP * norm for name, norm in privacy.typical_norms(computation, unused).items()}
    certified = Certified(computation, specs, noise, norms, "hypergradient")
    found, sent = [], 0.0
    for args, truth in problems:
        with ledger_for(epsilon, clients, [certified.slot(1)]) as ledger:
            result = certified.result(args, ledger, 0, clients)
        found.append(error(gradient_of(result.value), truth))
        sent = result.bytes_up / 1e3
    return np.array(found), sent, count


def dp_d_bilevel(options: Options) -> Outcome:
    """Errors of all methods at two budgets and without privacy."""
    clients, rounds, seeds, budgets = (8, 4, 2, (8.0,)) if options.tiny else (
        1000, 16, 10, (0.25, 4.0)
    )  # fmt: skip
    chosen = methods(rounds)
    if options.tiny:
        chosen = {name: variants[:1] for name, variants in chosen.items() if name in ("B", "D")}
    found, rows = {}, []
    for epsilon in (*budgets, None):
        label = "none" if epsilon is None else f"{epsilon:g}"
        for name, variants in chosen.items():
            tried = [errors(v, epsilon, clients, seeds) for v in variants]
            values, sent, count = min(tried, key=lambda t: t[0].mean())
            found[label, name] = values
            kilobytes = f"{sent:.0f}" if epsilon else ""
            rows.append((label, name, str(count), kilobytes, str(interval(values))))
    others = [name for name in chosen if name != "B"]
    claims = [
        below(f"epsilon {e:g}: error of B over error of {name} is below 1",
              interval(found[f"{e:g}", "B"] / found[f"{e:g}", name]), 1.0)
        for e in budgets for name in others
    ]  # fmt: skip
    return Outcome(
        name="dp-d-bilevel",
        shows="Error of a federated hypergradient at equal epsilon",
        matches="nothing: not in the papers; agg-1 is the counterpart without privacy",
        criteria=tuple(claims),
        settings={"clients": clients, "rounds": rounds, "seeds": seeds, "delta": DELTA,
                  "epsilon": list(budgets), "condition": CONDITION, "heterogeneity": SPREAD,
                  "lower size": LOWER, "upper size": UPPER},
        notes=("One hypergradient spends the whole budget; everyone takes part. Each sum is clipped at "
               "twice the median norm of its largest round, from a problem that is not judged. Where "
               "errors no longer fall with epsilon, what is left is truncation and the bias of clipping.",
               "Of D's splits the best at each budget counts, chosen with hindsight in its favour. "
               "D at equal payload has twice the rounds less one; C counts both visits as rounds.",
               "An error above 1 is worse than answering zero. Kilobytes include the messages of "
               "secure aggregation, which outweigh the payload at this size: equal rounds are equal "
               "bytes, and D at equal payload sends twice as many."),
        table=(("epsilon", "method", "rounds", "kB up per client", "relative error"), *rows),
        curves={name: [float(found[f"{e:g}", name].mean()) for e in budgets] for name in chosen},
        axis=("epsilon", list(budgets)),
        measure="relative error",
    )  # fmt: skip
