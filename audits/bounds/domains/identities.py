"""Identities of keys: equal identities mean equal randomness.

A key can be copied, stacked, sliced, unwrapped and wrapped again without becoming another key.
Every entry of a key array therefore has an identity. Primitives that only move entries are
evaluated on the identities themselves. Draws, splits and folds create new identities. A primitive
that the prover cannot follow gives every entry the identities of all operands, so doubt counts as
reuse.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from audits.bounds.domains.facts import Fact, Identity
from audits.bounds.domains.steps import Site

MOST = 4096  # largest number of entries with separate identities
_FRESH = frozenset(
    {"random_bits", "random_split", "random_fold_in", "random_seed", "threefry2x32", "random_gamma"}
)
_SAME_KEY = frozenset({"random_wrap", "random_unwrap", "random_clone"})


@functools.cache
def keylike(dtype: Any) -> bool:
    """Whether values of a dtype can be keys or the words of a key."""
    return str(dtype).startswith("key<") or getattr(dtype, "kind", "f") in "iu"


def new_identity(number: int, shape: tuple[int, ...], new: Callable[..., int]) -> Identity:
    """Every entry is a new key."""
    size = math.prod(shape)
    if size > MOST:
        return Identity(shape, (), frozenset({number}))
    return Identity(shape, tuple(new("key", number, k) for k in range(size)))


def identity_of(site: Site, new: Callable[..., int]) -> Identity | None:
    """Identities of the entries of a result; None for values that are not keys."""
    if not keylike(site.dtype):
        return None
    if site.name in _FRESH:
        words = site.out_shape
        return new_identity(site.number, words, new)
    known = [f.identity for f in site.facts]
    if known.count(None) == len(known):
        return None
    first = known[0]
    if site.name in _SAME_KEY and first is not None:
        return _rewrapped(first, site.out_shape)
    if site.name in _MOVES and all(k is not None and k.entries for k in known):
        return _moved(site, [k for k in known if k is not None])
    return Identity(site.out_shape, (), frozenset().union(*(k.keys for k in known if k)))


def _rewrapped(first: Identity, shape: tuple[int, ...]) -> Identity:
    """A key and its words have the same identity."""
    if not first.entries or len(shape) == len(first.shape):
        return first if first.entries else Identity(shape, (), first.keys)
    grid = np.asarray(first.entries).reshape(first.shape)
    if len(shape) > len(first.shape):
        grid = np.broadcast_to(grid[..., None], shape)
        return Identity(shape, tuple(grid.ravel().tolist()), first.also)
    words = grid.reshape(-1, first.shape[-1])
    if all(len(set(row)) == 1 for row in words.tolist()):
        return Identity(shape, tuple(words[:, 0].tolist()), first.also)
    return Identity(shape, (), first.keys)


def _moved(site: Site, known: list[Identity]) -> Identity:
    grids = [np.asarray(k.entries).reshape(k.shape) for k in known]
    grid = _MOVES[site.name](grids, site.params)
    also = frozenset().union(*(k.also for k in known))
    entries = tuple(grid.ravel().tolist())
    if len(entries) > MOST or grid.shape != site.out_shape:
        return Identity(site.out_shape, (), frozenset(entries) | also)
    return Identity(site.out_shape, entries, also)


def _stretched(grids: list[np.ndarray], params: Any) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for source, target in enumerate(params["broadcast_dimensions"]):
        shape[target] = grids[0].shape[source]
    return np.broadcast_to(grids[0].reshape(shape), params["shape"])


def _cut(grids: list[np.ndarray], params: Any) -> np.ndarray:
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    return grids[0][tuple(slice(*bounds) for bounds in zip(starts, limits, strides))]


_MOVES: dict[str, Callable[[list[np.ndarray], Any], np.ndarray]] = {
    "broadcast_in_dim": _stretched,
    "reshape": lambda g, p: g[0].reshape(p["new_sizes"]) if not p["dimensions"] else g[0],
    "transpose": lambda g, p: np.transpose(g[0], p["permutation"]),
    "squeeze": lambda g, p: np.squeeze(g[0], tuple(p["dimensions"])),
    "slice": _cut,
    "concatenate": lambda g, p: np.concatenate(g, p["dimension"]),
    "rev": lambda g, p: np.flip(g[0], tuple(p["dimensions"])),
    "copy": lambda g, p: g[0],
}


def all_different(fact: Fact, shape: tuple[int, ...], rows: int | None) -> bool:
    """Whether no two entries of one client's key array can be the same key.

    Args:
      fact: The facts about the keys.
      shape: Their shape.
      rows: The axis of clients, or of the copies that clients hold of one broadcast.
    """
    if math.prod(shape) == (1 if rows is None else shape[rows]):
        return True
    entries = () if fact.identity is None else fact.identity.entries
    if not entries:
        return False
    grid = np.asarray(entries).reshape(shape)
    own = [grid.ravel()] if rows is None else list(np.moveaxis(grid, rows, 0))
    return all(len(np.unique(one)) == one.size for one in own)
