"""Programs written from papers, with the verdict of every mode and the reason for it.

`WILD` is a table of `Wild`; `wild_arrays` adds programs with an axis of clients. The functions are what a
user of the paper would write; nothing here imports the checker.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

import secfad as fad

N, D, EXAMPLES = 7, 3, 5
MODES = ("primal", "forward", "reverse", "mixed")


@dataclasses.dataclass(frozen=True)
class Wild:
    """One program.

    Attributes:
      name: Of the function.
      paper: Where it comes from.
      program: A Computation, or a function over stacked arrays.
      args: Specs of a Computation; (name, shape, dtype, placement) of a function.
      verdicts: Mode to verdict and rules; a mode that is not named has the primal's.
      style: "native", "stacked" or "drjax".
      wrt: Argument of the derivative modes of a function.
    """

    name: str
    paper: str
    program: Callable
    args: tuple
    verdicts: Mapping[str, tuple]
    style: str = "native"
    wrt: int = 0


WILD: list[Wild] = []
ACCEPT = ("accept", frozenset())
AGAIN = ("caveat", frozenset({"FAD305", "FAD306"}))  # reverse mode asks the same clients again
# A count per cluster shows who fell into a rare one: accepted, or accepted with that obligation.
EITHER = ("accept or caveat", frozenset({"FAD602"}))
PERHAPS_AGAIN = ("accept or caveat", frozenset({"FAD306"}))
NO_COTANGENT = ("reject", frozenset({"FAD304"}))  # results that stay at clients have none


def caveat(*rules):
    return ("caveat", frozenset(rules))


def reject(*rules):
    return ("reject", frozenset(rules))


def array(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


def native(paper, *specs, verdict=ACCEPT, **verdicts):
    def add(computation):
        WILD.append(
            Wild(computation.name, paper, computation, specs, {"primal": verdict, **verdicts})
        )
        return computation

    return add


BATCH = array(EXAMPLES, D)
LABELS = array(EXAMPLES)
MODEL = array(D)
RATE = array()


def loss(w, x, y):
    return jnp.mean((x @ w - y) ** 2)


def local_steps(w, x, y, *, steps=3, rate=0.1, extra=lambda local: 0.0):
    for _ in range(steps):
        w = w - rate * (jax.grad(loss)(w, x, y) + extra(w))
    return w


# Averaging with more work at the clients.


@native("Li et al. 2020, FedProx", RATE, MODEL, BATCH, LABELS, reverse=AGAIN)
@fad.computation(mu=fad.SERVER, w=fad.SERVER, x=fad.CLIENTS, y=fad.CLIENTS)
def fedprox(mu, w, x, y):
    start, pull = fad.broadcast((w, mu), name="model")
    local = local_steps(start, x, y, extra=lambda v: pull * (v - start))
    return w + fad.mean(local - start, name="delta")


@native(
    "Karimireddy et al. 2020, SCAFFOLD",
    *(MODEL, MODEL, MODEL, BATCH, LABELS),
    reverse=NO_COTANGENT,
    mixed=NO_COTANGENT,
)
@fad.computation(w=fad.SERVER, c=fad.SERVER, own=fad.CLIENTS, x=fad.CLIENTS, y=fad.CLIENTS)
def scaffold(w, c, own, x, y):
    start, control = fad.broadcast((w, c), name="model")
    local = local_steps(start, x, y, extra=lambda v: control - own)
    new = own - control + (start - local) / 0.3
    return (
        w + fad.mean(local - start, name="delta"),
        c + fad.mean(new - own, name="control"),
        new,
    )


# Whether reverse mode needs the clients again depends on what a version of JAX keeps as a residual.
@native("Fallah et al. 2020, Per-FedAvg", MODEL, BATCH, LABELS, reverse=PERHAPS_AGAIN)
@fad.computation(w=fad.SERVER, x=fad.CLIENTS, y=fad.CLIENTS)
def perfedavg(w, x, y):
    adapted = lambda v: loss(v - 0.1 * jax.grad(loss)(v, x, y), x, y)
    return w - 0.5 * fad.mean(jax.grad(adapted)(fad.broadcast(w, name="model")), name="meta")


@native("Li et al. 2020, q-FedAvg", RATE, MODEL, BATCH, LABELS, reverse=AGAIN)
@fad.computation(q=fad.SERVER, w=fad.SERVER, x=fad.CLIENTS, y=fad.CLIENTS)
def qfedavg(q, w, x, y):
    sent, power = fad.broadcast((w, q), name="model")
    value, slope = jax.value_and_grad(loss)(sent, x, y)
    own = (value + 1e-6) ** power
    scale = power * jnp.sum(slope**2) / (value + 1e-6) + 10.0
    top, bottom = fad.sum((own * slope, own * scale), name="weighted")
    return w - top / bottom


@native("Wang et al. 2020, FedNova", MODEL, BATCH, LABELS, array(dtype="int32"), reverse=AGAIN)
@fad.computation(w=fad.SERVER, x=fad.CLIENTS, y=fad.CLIENTS, work=fad.CLIENTS)
def fednova(w, x, y, work):
    start = fad.broadcast(w, name="model")
    step = lambda k, v: jnp.where(k < work, v - 0.1 * jax.grad(loss)(v, x, y), v)
    local = start
    for k in range(4):
        local = step(k, local)
    done = jnp.clip(work, 1, 4).astype(jnp.float32)
    direction, effective = fad.mean(((start - local) / done, done), name="normalised")
    return w - effective * direction


@native(
    "Acar et al. 2021, FedDyn",
    *(MODEL, MODEL, BATCH, LABELS),
    reverse=NO_COTANGENT,
    mixed=NO_COTANGENT,
)
@fad.computation(w=fad.SERVER, dual=fad.CLIENTS, x=fad.CLIENTS, y=fad.CLIENTS)
def feddyn(w, dual, x, y):
    start = fad.broadcast(w, name="model")
    local = local_steps(start, x, y, extra=lambda v: 0.1 * (v - start) - dual)
    return fad.mean(local, name="model"), dual - 0.1 * (local - start)


@native(
    "Li et al. 2021, Ditto",
    *(MODEL, MODEL, BATCH, LABELS),
    reverse=NO_COTANGENT,
    mixed=NO_COTANGENT,
)
@fad.computation(w=fad.SERVER, own=fad.CLIENTS, x=fad.CLIENTS, y=fad.CLIENTS)
def ditto(w, own, x, y):
    start = fad.broadcast(w, name="model")
    personal = local_steps(own, x, y, extra=lambda v: 0.5 * (v - start))
    return w + fad.mean(local_steps(start, x, y) - start, name="delta"), personal


@native(
    "Collins et al. 2021, FedRep",
    *(array(D, 2), array(2), BATCH, LABELS),
    reverse=NO_COTANGENT,
    mixed=NO_COTANGENT,
)
@fad.computation(shared=fad.SERVER, head=fad.CLIENTS, x=fad.CLIENTS, y=fad.CLIENTS)
def fedrep(shared, head, x, y):
    body = fad.broadcast(shared, name="representation")
    fit = lambda h, b: jnp.mean((x @ b @ h - y) ** 2)
    for _ in range(2):
        head = head - 0.1 * jax.grad(fit)(head, body)
    return shared - 0.1 * fad.mean(jax.grad(fit, 1)(head, body), name="slope"), head


# Analytics.


@native("Lloyd's algorithm over clients", array(4, D), BATCH, verdict=EITHER)
@fad.computation(centres=fad.SERVER, x=fad.CLIENTS)
def kmeans(centres, x):
    sent = fad.broadcast(centres, name="centres")
    nearest = jnp.argmin(jnp.sum((x[:, None] - sent) ** 2, axis=-1), axis=1)
    member = jax.nn.one_hot(nearest, 4)
    total, count = fad.sum((member.T @ x, jnp.sum(member, axis=0)), name="clusters")
    return total / jnp.maximum(count, 1.0)[:, None]


@native("Quantile by bisection", array(), LABELS, reverse=ACCEPT)
@fad.computation(target=fad.SERVER, y=fad.CLIENTS)
def quantile(target, y):
    def halve(bounds, _):
        low, high = bounds
        middle = 0.5 * (low + high)
        below = jnp.mean((y <= fad.broadcast(middle, name="middle")).astype(jnp.float32))
        left = fad.mean(below, name="below") < target
        return (jnp.where(left, middle, low), jnp.where(left, high, middle)), None

    low, high = jax.lax.scan(halve, (-8.0 + 0 * target, 8.0 + 0 * target), None, length=12)[0]
    return 0.5 * (low + high)


@native("Power iteration for a principal component", MODEL, BATCH, reverse=AGAIN)
@fad.computation(v=fad.SERVER, x=fad.CLIENTS)
def principal_component(v, x):
    def improve(v, _):
        image = fad.mean(x.T @ (x @ fad.broadcast(v, name="direction")), name="image")
        return image / jnp.linalg.norm(image), None

    return jax.lax.scan(improve, v, None, length=4)[0]


@native("Newton's method for logistic regression", MODEL, BATCH, LABELS, reverse=AGAIN)
@fad.computation(w=fad.SERVER, x=fad.CLIENTS, y=fad.CLIENTS)
def logistic_newton(w, x, y):
    sent = fad.broadcast(w, name="model")
    chance = jax.nn.sigmoid(x @ sent)
    slope = x.T @ (chance - y)
    curve = (x * (chance * (1 - chance))[:, None]).T @ x
    g, h = fad.sum((slope, curve), name="moments")
    return w - jnp.linalg.solve(h + 1e-3 * jnp.eye(D), g)


@native("Secure histogram", RATE, LABELS, verdict=caveat("FAD602"))
@fad.computation(width=fad.SERVER, y=fad.CLIENTS)
def histogram(width, y):
    bins = jnp.clip(jnp.floor(y / fad.broadcast(width, name="width")), 0, 7).astype(jnp.int32)
    return fad.sum(jnp.zeros(8).at[bins].add(1.0), name="counts") / width


@native("Federated evaluation", MODEL, BATCH, LABELS)
@fad.computation(w=fad.SERVER, x=fad.CLIENTS, y=fad.CLIENTS)
def evaluation(w, x, y):
    score = x @ fad.broadcast(w, name="model")
    right = jnp.sum((score > 0) == (y > 0)).astype(jnp.float32)
    hits, total = fad.sum((right, jnp.float32(EXAMPLES) + 0 * right), name="accuracy")
    return hits / total, fad.mean(jnp.mean((score - y) ** 2), name="loss")


# Private and bilevel training.


@native("Andrew et al. 2021, adaptive clipping", RATE, MODEL, BATCH, LABELS, reverse=AGAIN)
@fad.computation(bound=fad.SERVER, w=fad.SERVER, x=fad.CLIENTS, y=fad.CLIENTS)
def adaptive_clip(bound, w, x, y):
    start, limit = fad.broadcast((w, bound), name="model")
    delta = local_steps(start, x, y) - start
    norm = jnp.sqrt(jnp.sum(delta**2) + 1e-12)
    below = (norm <= limit).astype(jnp.float32)
    clipped = fad.clip(delta, limit)
    moved, share = fad.mean((clipped, below), name="delta and share")
    return w + moved, bound * jnp.exp(-0.2 * (share - 0.5))


@native(
    "Rush et al. 2024, hypergradient of a server rate", RATE, MODEL, BATCH, LABELS,
    reverse=AGAIN,
)  # fmt: skip
@fad.computation(rate=fad.SERVER, w=fad.SERVER, x=fad.CLIENTS, y=fad.CLIENTS)
def next_loss(rate, w, x, y):
    delta = fad.mean(jax.grad(loss)(fad.broadcast(w, name="model"), x, y), name="delta")
    return fad.mean(loss(fad.broadcast(w - rate * delta, name="new"), x, y), name="loss")


@native("FedAvg with a forgotten broadcast", MODEL, BATCH, LABELS, verdict=reject("FAD102"))
@fad.computation(w=fad.SERVER, x=fad.CLIENTS, y=fad.CLIENTS)
def forgotten_broadcast(w, x, y):
    return w - fad.mean(jax.grad(loss)(w, x, y), name="slope")


@native("A model of its own for every client", MODEL, BATCH, verdict=reject("FAD102"))
@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def sub_model(w, x):
    mask = (jnp.mean(x, axis=0) > 0).astype(jnp.float32)
    return fad.mean(fad.broadcast(w * mask, name="masked"))
