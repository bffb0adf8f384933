"""What each primitive does to keys, numbers and drawn bits.

An operation that is not listed keeps no name: its result may show every key behind it, and a key
made of it holds no entropy.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from audits.bounds.domains.key_numbers import (
    added,
    as_word,
    compared,
    converted,
    iota,
    multiplied,
    named,
    spread,
)
from audits.bounds.values.keys import (
    ANY,
    MOST,
    NOTHING,
    Bits,
    Entry,
    Index,
    Key,
    Keys,
    Root,
    along,
    chosen,
    entries_moved,
    mixed,
    positions,
)
from audits.bounds.values.steps import Site


@functools.cache
def is_key(dtype: Any) -> bool:
    """Whether values of a dtype are typed keys."""
    return jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def argument(name: Any, shape: tuple[int, ...], dtype: Any, holder: str) -> Keys:
    """A secret key argument, or the words of one."""
    root = Key.at(Root("argument", name, holder))
    words = shape[-1] if not is_key(dtype) and shape and shape[-1] in (2, 4) else 0
    outer = shape[:-1] if words else shape
    size = math.prod(outer)
    if size * max(words, 1) > MOST:
        if words:
            return Keys(shown=frozenset({root}))
        return Keys(family=root.child("entry", Index(0, size - 1)))
    keys = [root.child("entry", k) for k in range(size)] if outer else [root]
    return Keys(tuple(w for key in keys for w in _words(key, words)))


def public(fact_number: int) -> Key:
    """A key that everyone can compute."""
    return Key.at(Root("public", fact_number))


def public_keys(number: int, shape: tuple[int, ...]) -> Keys:
    """Keys that everyone knows."""
    size = math.prod(shape)
    return Keys((public(number),) * size) if size <= MOST else NOTHING


def _words(key: Key, count: int) -> tuple[Key, ...]:
    return tuple(key.child(("word", count), w) for w in range(count)) if count else (key,)


def keys_of(site: Site) -> Keys:
    """The keys of the first result."""
    for fact in site.facts:
        if fact.keys is not NOTHING:
            break
    else:
        if site.name not in _SOURCES:
            return NOTHING
    rule = _RULES.get(site.name)
    found = None if rule is None else rule(site)
    if found is not None:
        return found
    return _unnamed(site)


def _unnamed(site: Site) -> Keys:
    rest = mixed([f.keys for f in site.facts])
    if is_key(site.dtype) and rest is NOTHING:
        return named(site, [public(site.number)] * math.prod(site.out_shape), site)
    return rest


# Sources.


def _bits(site: Site) -> Keys:
    keys = site.facts[0].keys
    drawn = keys.drawn | frozenset(k.whole for k in keys.consumed())
    # Mapped draws of the other generators use their first key for all rows.
    own = len(keys.names) == 1 or _generator(site) == "key<fry>"
    single = own and site.params.get("shape") == () and site.params.get("bit_width") == 32
    entries = tuple(Bits(k, site.number) for k in keys.names) if single else ()
    # What is drawn shows nothing but the draw.
    return Keys(entries, None, frozenset(), drawn)


def _gamma(site: Site) -> Keys:
    used = frozenset(k.whole for k in site.facts[0].keys.consumed())
    rest = mixed([f.keys for f in site.facts[1:]])
    return Keys(shown=rest.shown, drawn=rest.drawn | site.facts[0].keys.drawn | used)


def _seed(site: Site) -> Keys:
    keys = site.facts[0].keys
    if keys.names and all(k.word() is None for k in keys.names):
        return named(site, [k.child("seed", 0) for k in keys.names], site)
    return _unnamed(site)


# Keys from keys.


def _wrap(site: Site) -> Keys | None:
    keys, words = site.facts[0].keys, site.shape(0)[-1]
    if not keys.names:
        return None
    found = []
    for start in range(0, len(keys.entries), words):
        row = keys.names[start : start + words]
        whole = row[0].whole
        if row != tuple(whole.child(("word", words), w) for w in range(words)):
            return None
        found.append(whole)
    return named(site, found, site)


def _unwrap(site: Site) -> Keys | None:
    keys, words = site.facts[0].keys, site.out_shape[-1]
    return (
        named(site, [w for k in keys.names for w in _words(k, words)], site) if keys.names else None
    )


def _split(site: Site) -> Keys | None:
    keys, shape = site.facts[0].keys, tuple(site.params["shape"])
    count = math.prod(shape)
    if not keys.names:
        return None
    if _forgetful(site) and len(keys.names) > 1:
        return _vague(site)
    kind = ("split", shape)
    if len(keys.names) * count <= MOST:
        return named(site, [k.child(kind, i) for k in keys.names for i in range(count)], site)
    if len(keys.names) == 1:
        family = keys.names[0].child(kind, Index(0, count - 1))
        return named(site, [], site)._replace(family=family)
    return None


def _fold(site: Site) -> Keys | None:
    keys, data = (f.keys for f in site.facts)
    if _forgetful(site):
        return None if data.visible else _vague(site)
    shape = site.out_shape
    drawn = bool(data.entries) and all(isinstance(e, Bits) for e in data.entries)
    if math.prod(shape) > MOST or data.visible or (data.drawn and not drawn):
        return None
    own: tuple[Any, ...] = spread(Keys(keys.names), site.shape(0), shape)
    numbers = spread(data, site.shape(1), shape) or (ANY,) * math.prod(shape)
    found = []
    for k, value in enumerate(numbers):
        if isinstance(value, Bits) and value.key.root.kind == "argument":
            # The entropy is that of the drawn bits; the key that is folded need not hold any.
            found.append(value.key.child(("bits", value.draw), 0))
            continue
        if not own:
            return None
        if isinstance(value, Bits):
            # Known bits are a number as others, so this may be any child of the key that is folded.
            drawn_child = value.key.child(("bits", value.draw), 0)
            found.append(chosen(frozenset({drawn_child, own[k].child("fold", ANY)})))
            continue
        index = as_word(value) if isinstance(value, Index) else ANY
        found.append(own[k].child("fold", index))
    made = named(site, found, site)
    used = {v.key.whole for v in numbers if isinstance(v, Bits)}
    # What else is behind the key that was folded stays behind the result.
    return made._replace(drawn=made.drawn | used)


def _forgetful(site: Site) -> bool:
    """Whether folds of a generator commute, and mapped draws use the first key alone."""
    return _generator(site) == "key<urbg>"


def _generator(site: Site) -> str:
    return str(site.equation.invars[0].aval.dtype)  # type: ignore[attr-defined]


def _vague(site: Site) -> Keys | None:
    keys = site.facts[0].keys
    if not keys.names:
        return None
    any_key = chosen(frozenset(keys.names)).loose(secret=True)
    return named(site, [any_key] * math.prod(site.out_shape), site)


# Entries that move.


def _moving(move: Callable[[np.ndarray, Any], np.ndarray]) -> Callable[[Site], Keys | None]:
    def rule(site: Site) -> Keys | None:
        keys = site.facts[0].keys
        if not keys.entries:
            kept = site.name in ("reshape", "squeeze", "copy", "transpose", "rev")
            return keys if keys.family is not None and kept else None
        grid = move(positions(site.shape(0)), site.params)
        entries = entries_moved(keys, grid)
        return keys._replace(entries=entries) if entries else None

    return rule


def _stretched(grid: np.ndarray, params: Any) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for source, target in enumerate(params["broadcast_dimensions"]):
        shape[target] = grid.shape[source]
    return np.broadcast_to(grid.reshape(shape), params["shape"])


def _cut(grid: np.ndarray, params: Any) -> np.ndarray:
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    return grid[tuple(slice(*bounds) for bounds in zip(starts, limits, strides))]


def _concatenated(site: Site) -> Keys | None:
    parts = [f.keys for f in site.facts]
    if not all(p.entries for p in parts) or math.prod(site.out_shape) > MOST:
        return None
    grids, start = [], 0
    for k, part in enumerate(parts):
        grids.append(positions(site.shape(k)) + start)
        start += len(part.entries)
    together: list[Entry] = [e for p in parts for e in p.entries]
    if site.name == "stack":
        grid = np.stack(grids, site.params["axis"])
    else:
        grid = np.concatenate(grids, site.params["dimension"])
    return named(site, [together[k] for k in grid.ravel().tolist()], site)


def _picked(site: Site) -> Keys | None:
    """One position of the first axis, at a number that may count a loop."""
    shape, sizes = site.shape(0), site.params["slice_sizes"]
    starts = [f.keys.entries for f in site.facts[1:]]
    if not shape or sizes[0] != 1 or tuple(sizes[1:]) != shape[1:]:
        return _some(site)
    found = starts[0][0] if starts[0] else None
    inside = isinstance(found, Index) and found.low >= 0 and found.high < shape[0]
    return _at(site, found if inside else None)  # type: ignore[arg-type]


def _at(site: Site, at: Index | None) -> Keys | None:
    keys, length = site.facts[0].keys, site.shape(0)[0]
    if keys.family is not None:
        return keys._replace(family=of_family(keys.family, site.shape(0), site.facts[0].number, at))
    if not keys.names:
        return None
    columns = positions(site.shape(0)).reshape(length, -1).T.tolist()
    if at is not None and at.constant:
        return named(site, [keys.names[column[at.low]] for column in columns], site)
    return named(site, [on_words([keys.names[k] for k in c], at) for c in columns], site)


def of_family(family: Key, shape: tuple[int, ...], value: int, at: Index | None) -> Key:
    """The name of one position of a large array."""
    if len(shape) > 1 or at is None or at.loop < 0:
        return family
    step: Any = family.step
    stem = ("slice", value, at.stem, at.offset)
    index = step.index._replace(loop=at.loop, stem=stem, offset=0)
    return family.parent.child(step.kind, index)  # type: ignore[union-attr]


def on_words(column: list[Key], at: Index | None) -> Key:
    """`along` for keys or words."""
    words = {key.word() for key in column}
    if words == {None}:
        return along(column, at)
    if len(words) > 1:
        return chosen(frozenset(k.whole for k in column)).loose()
    return along([k.whole for k in column], at).then(column[0].step)  # type: ignore[arg-type]


def _some(site: Site) -> Keys | None:
    """Some entries of an array, nobody knows which."""
    keys = site.facts[0].keys
    if not keys.names or any(k.word() is not None for k in keys.names):
        return None
    return named(site, [along(list(keys.names), None)] * math.prod(site.out_shape), site)


def _gathered(site: Site) -> Keys | None:
    keys, starts = (f.keys for f in site.facts[:2])
    shape, count = site.shape(0), math.prod(site.out_shape)
    flat = len(shape) == 1 and len(starts.entries) == count and bool(keys.names)
    inside = all(isinstance(i, Index) and i.low >= 0 and i.high < shape[0] for i in starts.entries)
    if flat and inside:
        return named(site, [along(list(keys.names), i) for i in starts.entries], site)  # type: ignore[arg-type]
    # Outside of its range, a gather of another mode fills in keys that everyone knows.
    return _some(site) if site.params["mode"] == lax.GatherScatterMode.CLIP else None


def _at_numbers(rule: Callable[[Site], Keys | None]) -> Callable[[Site], Keys | None]:
    """A rule for positions that are no words of a secret: an entry shows where it was taken."""
    return lambda site: None if any(f.keys.names for f in site.facts[1:]) else rule(site)


def _selected(site: Site) -> Keys | None:
    """A case that is always taken, or cases that are one."""
    test, cases = site.facts[0].keys, [f.keys for f in site.facts[1:]]
    first = test.entries[0] if test.entries else None
    decided = isinstance(first, Index) and first.constant
    if decided and all(e == first for e in test.entries):
        return cases[first.low]  # type: ignore[union-attr]
    if all(c.entries and c.entries == cases[0].entries for c in cases):
        return named(site, list(cases[0].entries), site)
    return None


_SOURCES = frozenset({"iota", "random_bits", "random_seed", "random_wrap", "random_gamma"})
_RULES: dict[str, Callable[[Site], Keys | None]] = {
    "iota": iota,
    "random_bits": _bits,
    "random_gamma": _gamma,
    "random_seed": _seed,
    "random_wrap": _wrap,
    "random_unwrap": _unwrap,
    "random_clone": lambda site: site.facts[0].keys,
    "random_split": _split,
    "random_fold_in": _fold,
    "broadcast_in_dim": _moving(_stretched),
    "reshape": _moving(lambda g, p: g.reshape(p["new_sizes"])),  # `dimensions` is always None
    "transpose": _moving(lambda g, p: np.transpose(g, p["permutation"])),
    "squeeze": _moving(lambda g, p: np.squeeze(g, tuple(p["dimensions"]))),
    "slice": _moving(_cut),
    "rev": _moving(lambda g, p: np.flip(g, tuple(p["dimensions"]))),
    "copy": _moving(lambda g, p: g),
    "concatenate": _concatenated,
    "stack": _concatenated,
    "dynamic_slice": _at_numbers(_picked),
    "gather": _at_numbers(_gathered),
    "select_n": _selected,
    "convert_element_type": converted,
    "add": added,
    "sub": added,
    "mul": multiplied,
    "lt": compared,
    "le": compared,
    "gt": compared,
    "ge": compared,
}
# These read keys without drawing from them.
KEPT = frozenset(_RULES) - {"random_bits", "random_gamma"}
