"""Integers that stand for themselves: constants, counters, and what is computed from them.

The number of a child, the position in an array of keys and the test of a choice are such integers.
"""

import math
from typing import Any

import numpy as np

from audits.bounds.values.keys import (
    ANY,
    MOST,
    Entry,
    Index,
    Key,
    Keys,
    entries_moved,
    mixed,
    number,
    positions,
)
from audits.bounds.values.steps import Site


def named(site: Site, entries: list, source: Site) -> Keys:
    """A result with named entries, which also shows and draws what its operands do."""
    rest = mixed([f.keys for f in source.facts])
    own = {e.whole for e in entries if isinstance(e, Key)}
    behind = frozenset(k for f in source.facts for k in f.keys.shown)
    if len(entries) > MOST:
        return Keys(shown=behind | own, drawn=rest.drawn)
    return Keys(tuple(entries), None, behind, rest.drawn)


def spread(keys: Keys, shape: tuple[int, ...], out: tuple[int, ...]) -> tuple[Entry, ...]:
    """Entries after broadcasting."""
    if not keys.entries:
        return ()
    return entries_moved(keys, np.broadcast_to(positions(shape), out))


def iota(site: Site) -> Keys | None:
    """The numbers along an axis."""
    size, axis = site.out_shape, site.params["dimension"]
    if getattr(site.dtype, "kind", "") not in "iu" or math.prod(size) > MOST:
        return None
    return Keys(tuple(number(int(v)) for v in np.indices(size)[axis].ravel()))


def as_word(index: Index) -> Index:
    """Fold data as an unsigned number of 32 bits."""
    return _cast(index, np.dtype("uint32")) or ANY


def _cast(index: Index, dtype: Any) -> Index | None:
    """A number in another integer dtype."""
    limits = np.iinfo(dtype)
    if limits.min <= index.low and index.high <= limits.max:
        return index
    if index.constant:
        return number((index.low - int(limits.min)) % (1 << limits.bits) + int(limits.min))
    if limits.bits < 32 or index.loop < 0:
        return None
    stem = index.stem
    if isinstance(stem, tuple) and stem[0] == "table":
        stem = ("wrapped", stem)  # the numbers of the table are others now
    return index._replace(low=int(limits.min), high=int(limits.max), stem=stem)


def converted(site: Site) -> Keys | None:
    """Numbers in another dtype; words of keys are none."""
    keys = site.facts[0].keys
    kind = getattr(site.dtype, "kind", "")
    if not keys.entries or kind not in "iu" or not isinstance(keys.entries[0], Index):
        return None
    made = tuple(_cast(e, site.dtype) for e in keys.entries)  # type: ignore[arg-type]
    return keys._replace(entries=made) if all(e is not None for e in made) else None  # type: ignore[arg-type]


def added(site: Site) -> Keys | None:
    """A number and a constant."""
    if getattr(site.dtype, "kind", "") not in "iu":
        return None
    a, b = (spread(f.keys, site.shape(k), site.out_shape) for k, f in enumerate(site.facts))
    if not a or not b:
        return None
    sign = -1 if site.name == "sub" else 1
    made = [_plus(x, y, sign, site.dtype) for x, y in zip(a, b)]
    return named(site, made, site) if all(e is not None for e in made) else None


def _plus(x: Entry, y: Entry, sign: int, dtype: Any) -> Index | None:
    if not isinstance(x, Index) or not isinstance(y, Index):
        return None
    if x.constant and not y.constant and sign == 1:
        x, y = y, x
    if not y.constant:
        return None
    by = sign * y.low
    moved = x._replace(low=x.low + by, high=x.high + by, offset=x.offset + by if x.loop >= 0 else 0)
    return _cast(moved, dtype)


def multiplied(site: Site) -> Keys | None:
    """The product of two constants."""
    if getattr(site.dtype, "kind", "") not in "iu":
        return None
    a, b = (spread(f.keys, site.shape(k), site.out_shape) for k, f in enumerate(site.facts))
    if not a or not b or not all(isinstance(e, Index) and e.constant for e in (*a, *b)):
        return None
    made = [_cast(number(x.low * y.low), site.dtype) for x, y in zip(a, b)]  # type: ignore[union-attr]
    return named(site, made, site)


def compared(site: Site) -> Keys | None:
    """A comparison that holds for all values, or for none."""
    a, b = (spread(f.keys, site.shape(k), site.out_shape) for k, f in enumerate(site.facts))
    if not a or not b or not all(isinstance(e, Index) for e in (*a, *b)):
        return None
    made = [_decided(site.name, x, y) for x, y in zip(a, b)]  # type: ignore[arg-type]
    if any(m is None for m in made):
        return None
    return Keys(tuple(number(int(m)) for m in made))  # type: ignore[arg-type]


def _decided(name: str, x: Index, y: Index) -> bool | None:
    if name in ("gt", "le"):
        x, y = y, x
    less = True if x.high < y.low else False if x.low >= y.high else None
    return less if less is None or name in ("lt", "gt") else not less
