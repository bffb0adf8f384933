"""Cohorts for simulation: a key per client, and clients with unequal amounts of data.

A traced computation has one shape for all clients. Clients with less data are padded and given a
weight per example, or grouped into a few buckets of similar size, each with its own trace.

A program has one group of clients. Training and validation clients are weights of zero or one per role,
or two computations joined at the server (docs/decisions/0005, `algorithms.hypergradients`).

>>> import numpy as np
>>> batch, weights = pad([np.ones((2, 3)), np.ones((1, 3))])
>>> batch.shape, weights.tolist()
((2, 2, 3), [[1.0, 1.0], [1.0, 0.0]])
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad.errors import CohortError


def client_keys(key: jax.Array, clients: int) -> jax.Array:
    """One PRNG key per client; client i has the same key in a cohort of any size.

    A broadcast key would give every client the same draws.
    """
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(clients))


def pad(trees: Sequence[Any], *, length: int | None = None) -> tuple[Any, np.ndarray]:
    """Stacks clients' data of unequal length, filled up with zeros.

    Args:
      trees: One per client: a tree of arrays whose leading axes are that client's examples.
      length: Examples per client afterwards; the most that any client has by default.

    Returns:
      The stacked tree, and weights of shape `(clients, length)`: 1 for an example, 0 for padding.

    Raises:
      CohortError: There is no client, a client's leaves disagree, or a client has more than `length`.
    """
    counts = [_examples(tree, index) for index, tree in enumerate(trees)]
    if not counts:
        raise CohortError("Expected data of at least one client, got none.")
    length = max(counts) if length is None else length
    if max(counts) > length:
        raise CohortError(
            f"Expected at most {length} examples per client, got {max(counts)} at client "
            f"{counts.index(max(counts))}. Choose a larger length, or use secfad.cohorts.bucket."
        )

    def filled(*leaves: Any) -> np.ndarray:
        rows = [np.asarray(x) for x in leaves]
        return np.stack([np.pad(x, [(0, length - len(x)), *[(0, 0)] * (x.ndim - 1)]) for x in rows])

    weights = np.arange(length)[None, :] < np.asarray(counts)[:, None]
    return jax.tree.map(filled, *trees), weights.astype(np.float32)


def bucket(
    trees: Sequence[Any], *, growth: float = 2.0
) -> list[tuple[np.ndarray, Any, np.ndarray]]:
    """Groups clients by their number of examples and pads within each group.

    Sizes are rounded up to powers of `growth`, so that few shapes are traced and at most a share of
    `1 - 1 / growth` of a bucket is padding.

    Returns:
      Per bucket, smallest first: the clients' positions in `trees`, the stacked tree, the weights.
    """
    if growth <= 1:
        raise ValueError(f"Expected growth above 1, got {growth}. 2 halves the waste at worst.")
    counts = np.array([max(1, _examples(tree, i)) for i, tree in enumerate(trees)])
    if not len(counts):
        raise CohortError("Expected data of at least one client, got none.")
    levels = np.ceil(np.log(counts) / np.log(growth) - 1e-9).astype(int)
    buckets = []
    for level in sorted(set(levels.tolist())):
        members = np.flatnonzero(levels == level)
        length = max(int(counts[members].max()), int(np.ceil(growth**level - 1e-9)))
        stacked, weights = pad([trees[int(i)] for i in members], length=length)
        buckets.append((members, stacked, weights))
    return buckets


def _examples(tree: Any, index: int) -> int:
    sizes = {np.shape(leaf)[0] for leaf in jax.tree.leaves(tree) if np.ndim(leaf)}
    if len(sizes) != 1:
        raise CohortError(
            f"Expected arrays with one leading axis of examples at client {index}, got lengths "
            f"{sorted(sizes)}. Give every leaf the same number of rows."
        )
    return sizes.pop()
