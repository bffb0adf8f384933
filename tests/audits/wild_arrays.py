"""Programs from papers over arrays with an axis of clients: plain JAX, and DrJAX unmodified.

Stacked programs are where one usually finds what secure aggregation cannot run.
"""

import drjax as drjax_api
import jax
import jax.numpy as jnp
from wild_programs import ACCEPT, AGAIN, EXAMPLES, WILD, D, N, Wild, local_steps, loss, reject

ROWS = ("x", (N, EXAMPLES, D), "clients")
TARGETS = ("y", (N, EXAMPLES), "clients")


def stacked(paper, verdict, *args, **verdicts):
    def add(fun):
        made = {"primal": verdict, **verdicts}
        WILD.append(Wild(fun.__name__, paper, fun, args, made, "stacked", len(args) - 1))
        return fun

    return add


def drjax(paper, *args, verdict=ACCEPT, **verdicts):
    """An unmodified DrJAX program for N clients."""

    def add(fun):
        program = drjax_api.program(placements={"clients": N})(fun)
        typed = tuple((name, shape, "float32", place) for name, shape, place in args)
        made = {"primal": verdict, **verdicts}
        WILD.append(Wild(fun.__name__, paper, program, typed, made, "drjax"))
        return fun

    return add


# What DrJAX documents: sensors over a threshold, gradients and local training in parallel.


@drjax("DrJAX, temperature sensors", ("limit", (), "server"), ("readings", (N,), "clients"))
def sensors_over_a_threshold(limit, readings):
    over = lambda limit, reading: jax.lax.cond(reading > limit, lambda: 1.0, lambda: 0.0)
    return drjax_api.reduce_mean(drjax_api.map_fn(over, (drjax_api.broadcast(limit), readings)))


@drjax("DrJAX, parallel gradients", ("w", (D,), "server"), ROWS, TARGETS)
def parallel_gradients(w, x, y):
    slopes = drjax_api.map_fn(jax.grad(loss), (drjax_api.broadcast(w), x, y))
    return w - 0.1 * drjax_api.reduce_mean(slopes)


# The steps are linear in the model, so that the reverse mode keeps nothing from the forward rounds.
@drjax("DrJAX, rounds of local training", ("w", (D,), "server"), ROWS, TARGETS)
def rounds_of_local_training(w, x, y):
    def one_round(w, _):
        sent = drjax_api.broadcast(w)
        local = drjax_api.map_fn(local_steps, (sent, x, y))
        return drjax_api.reduce_mean(local), None

    return jax.lax.scan(one_round, w, None, length=3)[0]


@drjax("DrJAX, moments", ROWS, reverse=AGAIN)
def mean_and_spread(x):
    total = drjax_api.reduce_sum(drjax_api.map_fn(lambda v: jnp.sum(v, axis=0), x))
    squares = drjax_api.reduce_sum(drjax_api.map_fn(lambda v: jnp.sum(v**2, axis=0), x))
    mean = total / (N * EXAMPLES)
    return mean, squares / (N * EXAMPLES) - mean**2


@drjax(
    "DrJAX with a captured model", ("w", (D,), "server"), ROWS, TARGETS, verdict=reject("FAD102")
)
def captured_model(w, x, y):
    return drjax_api.reduce_mean(drjax_api.map_fn(lambda a, b: loss(w, a, b), (x, y)))


# What secure aggregation cannot run.

UPDATES = ("updates", (N, D), "float32", "clients")
LOSSES = ("losses", (N,), "float32", "clients")
SENT = ("w", (D,), "float32", "server")


@stacked("Yin et al. 2018, coordinate-wise median", reject("FAD105", "FAD106"), UPDATES)
def median(updates):
    return jnp.median(updates, axis=0)


@stacked("Yin et al. 2018, trimmed mean", reject("FAD106"), UPDATES)
def trimmed_mean(updates):
    return jnp.mean(jnp.sort(updates, axis=0)[1:-1], axis=0)


@stacked("Blanchard et al. 2017, Krum", reject("FAD109"), UPDATES)
def krum(updates):
    apart = jnp.sum((updates[:, None] - updates[None]) ** 2, axis=-1)
    score = jnp.sum(jnp.sort(apart, axis=1)[:, : N - 2], axis=1)
    return updates[jnp.argmin(score)]


@stacked("Mohri et al. 2019, the worst client's loss", reject("FAD105"), LOSSES)
def worst_loss(losses):
    return jnp.max(losses)


@stacked("The best client's loss", reject("FAD105"), LOSSES)
def best_loss(losses):
    return jnp.min(losses)


@stacked("Cho et al. 2020, power-of-choice", reject("FAD106", "FAD107"), LOSSES, UPDATES)
def top_clients(losses, updates):
    _, chosen = jax.lax.top_k(losses, 3)
    return jnp.mean(updates[chosen], axis=0)


@stacked("Cyclic training, client after client", reject("FAD102", "FAD106"), SENT, UPDATES,
    reverse=reject("FAD104"),
)  # fmt: skip
def cyclic(w, updates):
    return jax.lax.scan(lambda v, u: (0.9 * v + u, None), w, updates)[0]
