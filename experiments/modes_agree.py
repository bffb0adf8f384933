"""FAD-3: the modes give one gradient at different prices.

A loss after one round of FedAvgM is differentiated by server rate and momentum in every mode, simulated
on real shapes; the numbers that cross are counted from the program and compared with closed forms. The
plainest case, a loss of a broadcast model, stands beside it.

Source: Rush, Charles, Garrett (JMLR 2024), Tables 1-3 and section 3.4.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import secfad as fad
from experiments import networks, server_learning, weighting
from experiments.outcomes import Criterion, Options, Outcome
from secfad.algorithms import fedopt, hypergradients, local
from secfad.data import minibatches, shakespeare, stack, synthetic

MODES = ("forward", "reverse", "factored", "mixed")


def distilled(loss) -> fad.Computation:
    """A class-1 program: m numbers at the server make a model of n, and the loss comes back."""

    @fad.computation(x=fad.SERVER, base=fad.SERVER, batch=fad.CLIENTS, size=fad.CLIENTS)
    def distilled_loss(x, base, batch, size):
        model = jax.tree.map(lambda b, d: b + jnp.sum(jnp.sin(x)) * d, base, base)
        return fad.mean(loss(fad.broadcast(model, name="model"), batch), weights=size, name="loss")

    return distilled_loss


def closed_forms(kind: str, n: int, m: int) -> dict[str, tuple[int, int]]:
    """Numbers down and up per client of a gradient by m inputs through n parameters."""
    if kind == "class-1":
        # The value itself is not asked for: forward sends m losses' tangents, and all weights.
        # With one contact the server multiplies by the cotangent of the loss, so none is sent.
        back = dict.fromkeys(MODES[1:], (n, n + 1))
        return {"forward": (n + m * n, m + 1), **back}
    back = dict.fromkeys(MODES[1:], (2 * n, n + 1 + n + 1))
    return {"forward": (2 * n + m * n, n + 1 + m + 1), **back, "reverse": (2 * n + 1, 2 * n + 2)}


def compare(kind: str, computation: fad.Computation, args: tuple, n: int, m: int):
    """Largest relative difference between modes, and per mode (counted, closed form)."""
    places = list(computation.placements.values())
    one = lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    specs = [jax.tree.map(one, a) if p is fad.CLIENTS else a for a, p in zip(args, places)]
    gradients, counted = {}, {}
    for mode in MODES:
        derivative = fad.grad(computation, mode=mode)
        flat, _ = ravel_pytree(fad.simulate(derivative)(*args))
        gradients[mode] = np.asarray(flat)
        costs = fad.trace(derivative, *specs).costs
        counted[mode] = (int(costs.down_bytes / 4), int(costs.up_bytes / 4))
    scale = np.linalg.norm(gradients["reverse"])
    worst = max(np.linalg.norm(g - gradients["reverse"]) / scale for g in gradients.values())
    return float(worst), counted, closed_forms(kind, n, m)


def tasks(options: Options) -> dict[str, tuple[Any, Any, Any]]:
    """Name to loss, model and mini-batches with sizes."""
    data = synthetic(clients=6, seed=0, max_examples=100).train
    linear = {"b": jnp.zeros(10), "w": 0.01 * jnp.ones((60, 10))}
    batches = jax.tree.map(jnp.asarray, minibatches(data, 10))
    found = {"Synthetic(1, 1)": (weighting.masked_loss, linear, batches)}
    if options.shakespeare is not None:
        texts = shakespeare.roles(options.shakespeare, min_characters=20_000)
        symbols = shakespeare.vocabulary(texts)
        parts = [shakespeare.windows(t[:400], symbols, 3) for t in list(texts.values())[:6]]
        size = len(symbols)
        model = {"bias": jnp.zeros(size), "table": jnp.zeros((3, size, size))}
        text = minibatches(stack(parts, max_rows=100), 20)
        found["plays"] = (server_learning.text_loss, model, jax.tree.map(jnp.asarray, text))
    elif not options.tiny:
        model = networks.initial(jax.random.key(0))
        images, _ = networks.federation(6, seed=0, rows=40)
        batches = jax.tree.map(jnp.asarray, minibatches(images, 10))
        found["digits"] = (networks.loss, model, batches)
    return found


def shaken(model):
    """A model near another one, without its symmetries."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: p + jnp.asarray(0.1 * rng.normal(size=p.shape), p.dtype), model)


def fad_3(options: Options) -> Outcome:
    """Compares gradients and counts on each data set."""
    rows, worst, same = [], 0.0, True
    for task, (loss, model, batches) in tasks(options).items():
        n = sum(leaf.size for leaf in jax.tree.leaves(model))
        clients = batches["y"].shape[0]
        sizes = jnp.linspace(0.5, 1.0, clients)
        whole = jax.tree.map(lambda a: a.reshape(a.shape[0], -1, *a.shape[3:]), batches)
        start = shaken(model)
        hyper = {
            "server": {"learning_rate": jnp.array(0.7), "momentum": jnp.array(0.5)},
            "client": {},
        }
        chain = fedopt.fedavgm(hyper["server"])
        state = chain.update(start, chain.init(start))[1]
        round_ = fedopt.make_round(loss, fedopt.fedavgm, local.sgd(0.1))
        after = hypergradients.next_loss(round_, loss)
        cases = {
            "class-1": (distilled(loss), (jnp.ones(3), start, whole, sizes), 3),
            "FedAvgM round": (after, (hyper, start, state, batches, sizes, batches, sizes), 2),
        }
        for kind, (computation, args, m) in cases.items():
            error, counted, expected = compare(kind, computation, args, n, m)
            worst, same = max(worst, error), same and counted == expected
            rows += [
                (task, kind, mode, str(counted[mode]), str(expected[mode]), f"{error:.1e}")
                for mode in MODES
            ]
    return Outcome(
        name="fad-3",
        shows="Modes agree and their costs differ",
        matches="Tables 1-3 and section 3.4 of the federated AD paper",
        criteria=(
            Criterion("gradients of all modes agree to 1e-5, relative (float32)",
                      f"{worst:.1e}", worst < 1e-5),
            Criterion("counted numbers down and up per client equal the closed forms",
                      "equal" if same else "not equal", same),
        ),
        settings={"clients": 6},
        notes=("Closed forms count what a gradient without its value sends; n is the model's size, "
               "m the number of inputs, and a weighted mean sends one number more.",
               "Table 2 of the paper broadcasts the cotangent in reverse mode, one number. Here that is "
               "so with several contacts; with one, and in factored mode, the server multiplies by it."),
        table=(("data", "program", "mode", "counted (down, up)", "closed form", "difference"), *rows),
    )  # fmt: skip
