"""A small network on the digits, shared by the experiments that need one."""

import jax
import jax.numpy as jnp

from secfad.data import ClientArrays, digits, minibatches, partitions, stack

HIDDEN, CLASSES, PIXELS = 32, 10, 64


def initial(key, hidden: int = HIDDEN):
    """Weights of a network 64-hidden-10 with scaled normal entries."""
    first, second = jax.random.split(key)
    return {
        "body": {"b": jnp.zeros(hidden), "w": jax.random.normal(first, (PIXELS, hidden)) / 8.0},
        "head": {
            "b": jnp.zeros(CLASSES),
            "w": jax.random.normal(second, (hidden, CLASSES)) / hidden**0.5,
        },
    }


def logits(model, x):
    """Scores of the classes."""
    hidden = jax.nn.silu(x @ model["body"]["w"] + model["body"]["b"])
    return hidden @ model["head"]["w"] + model["head"]["b"]


def loss(model, batch):
    """Mean cross-entropy over the real examples; 0 without any."""
    scores = jax.nn.log_softmax(logits(model, batch["x"]))
    chosen = jnp.take_along_axis(scores, batch["y"][..., None], -1)[..., 0]
    return -jnp.sum(chosen * batch["mask"]) / jnp.maximum(jnp.sum(batch["mask"]), 1.0)


def accuracy(model, test):
    """Percentage of right answers."""
    return 100.0 * jnp.mean(jnp.argmax(logits(model, test[0]), -1) == test[1])


def federation(clients: int, *, seed: int, by_label: bool = False, rows: int | None = None):
    """Digits dealt to clients, and the test part: `(ClientArrays, (x, y))`."""
    (x, y), test = digits.train_and_test(seed=0)
    deal = partitions.shards(y, clients, seed=seed) if by_label else None
    parts = partitions.iid(len(y), clients, seed=seed) if deal is None else deal
    return stack([(x[p], y[p]) for p in parts], max_rows=rows), test


def one_batch(data: ClientArrays):
    """All rows of every client as one batch."""
    batches = minibatches(data, data.mask.shape[1])
    return jax.tree.map(lambda a: jnp.asarray(a[:, 0]), batches)


def small_batch(data, index):
    """Rows `index` (clients, rows) of one batch per client."""
    return jax.tree.map(lambda a: jax.vmap(lambda own, i: own[i])(a, index), data)


def draw_rows(key, counts, rows: int):
    """Row numbers of a random mini-batch of every client, with replacement."""
    uniform = jax.random.uniform(key, (len(counts), rows))
    return (uniform * counts[:, None]).astype(jnp.int32)
