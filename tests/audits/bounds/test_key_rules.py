"""Each rule of the keys against the primitive itself.

Random keys and numbers go into every primitive that a rule names. In every result, a named entry must
be the key that the name says, or one of them, a number must lie in its range, and a key that changes
the result must be among those that the walk has behind it.
"""

import collections
import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from abstract_soundness import Refused, checked
from jax import lax
from rule_cases import bound, pick

from audits.bounds.domains import key_numbers, key_rules
from audits.bounds.domains.key_rules import argument
from audits.bounds.proving import Prover
from audits.bounds.values.facts import Fact, everything
from audits.bounds.values.keys import Bits, Edge, Index, Key
from audits.transfer.labels import Label, Place, data_axes

SHAPES = [(), (3,), (2, 3), (1, 4), (4, 1)]
SIZES = [pytest.param(6, id="short"), pytest.param(60, id="long", marks=pytest.mark.slow)]
IMPLS = ["threefry2x32", "threefry2x32", "rbg", "unsafe_rbg"]


# Operands: "keys", "words" of keys, or "seeds", with a shape.


def keys_at(least, function, kinds=("keys", "words")):
    """A function of an array of keys, or of their words."""

    def case(rng):
        shape = pick(rng, [s for s in SHAPES if len(s) >= least])
        return function(rng), [(pick(rng, kinds), shape)]

    return case


def numbers(rng, shape):
    """Integers that the walk knows, from a random dtype, axis, factor and offset."""
    dtype = pick(rng, ["int32", "uint32", "int8"])
    axis = int(rng.integers(max(len(shape), 1)))
    factor, offset = int(rng.integers(1, 4)), int(rng.integers(-2, 3)) * (dtype != "uint32")
    base = lax.broadcasted_iota(dtype, shape, axis) if shape else jnp.asarray(2, dtype)
    return base * jnp.asarray(factor, dtype) + jnp.asarray(offset, dtype)


def of_numbers(function):
    """A function of one or two arrays of integers."""

    def case(rng):
        shape, seed = pick(rng, SHAPES), int(rng.integers(1 << 30))
        made = lambda: function(*(numbers(np.random.default_rng([seed, k]), shape) for k in (0, 1)))
        return made, []

    return case


def _cast(rng):
    target = pick(rng, ["int8", "uint8", "int32", "uint32", "float32"])
    if rng.random() < 0.5:
        return (lambda w: lax.convert_element_type(w, target)), [("words", pick(rng, SHAPES))]
    return of_numbers(lambda a, _: lax.convert_element_type(a, target))(rng)


def _fold(rng):
    shape, seed = pick(rng, SHAPES[:2]), int(rng.integers(1 << 30))
    data = lambda: numbers(np.random.default_rng(seed), shape)
    if shape:
        return (lambda k: jax.vmap(jax.random.fold_in)(k, data())), [("keys", shape)]
    if rng.random() < 0.3:
        return jax.random.fold_in, [("keys", ()), ("seeds", ())]
    if rng.random() < 0.3:
        return (lambda k, b: jax.random.fold_in(k, jax.random.bits(b))), [("keys", ())] * 2
    return (lambda k: jax.random.fold_in(k, data())), [("keys", shape)]


def _joined(function):
    def case(rng):
        shape, axis = pick(rng, SHAPES[1:]), int(rng.integers(2))
        kind = pick(rng, ["keys", "words"])
        return (lambda *x: function(x, axis % len(shape))), [(kind, shape)] * 2

    return case


def _pick_row(rng):
    start = int(rng.integers(-1, 4))
    rows, kept = pick(rng, [1, 1, 2]), rng.random(size=3) < 0.5

    def function(x):
        sizes = [n if k else 1 for n, k in zip(x.shape[1:], kept)]
        starts = [jnp.asarray(start), *[jnp.asarray(0)] * len(sizes)]
        return lax.dynamic_slice(x, starts, (min(rows, x.shape[0]), *sizes))

    return function


def _gather(rng):
    at = [int(k) for k in rng.integers(-1, 4, size=2)]
    mode = pick(rng, ["clip", "fill"])
    return lambda x: jnp.take(x, jnp.asarray(at[0]) + lax.iota("int32", 2), axis=0, mode=mode)


def _looked_up(x, i):
    numbers = lax.GatherDimensionNumbers(tuple(range(1, x.ndim)), (0,), (0,))
    return lax.gather(x, i[None, None], numbers, (1, *x.shape[1:]), mode="clip")


def _secret_row(function):
    """A row at a number that is a secret."""
    return lambda rng: (function, [("words", pick(rng, SHAPES[1:])), ("seeds", ())])


def either(one, other):
    """One of two cases."""
    return lambda rng: (one if rng.random() < 0.6 else other)(rng)


def _select(rng):
    shape, kind = pick(rng, SHAPES), pick(rng, ["keys", "words"])
    flag = bool(rng.random() < 0.5)
    if rng.random() < 0.5:
        test = lambda: lax.lt(jnp.asarray(1), jnp.asarray(2 if flag else 0))
        return (lambda a, b: lax.select(test(), a, b) if shape else jnp.where(test(), a, b)), [
            (kind, shape)
        ] * 2
    return (lambda s, a, b: jnp.where(s > 5, a, b)), [("seeds", ())] + [(kind, shape)] * 2


def _split(rng):
    shape = pick(rng, [(2,), (3,), (2, 2)])
    one = lambda k: jax.random.split(k, shape)
    return lambda k: jax.vmap(one)(k) if k.shape == (3,) else one(k)


def _bits(rng):
    shape, dtype = pick(rng, [(), (), (2,)]), pick(rng, ["uint32", "uint32", "uint8"])
    one = lambda k: jax.random.bits(k, shape, dtype)
    return lambda k: jax.vmap(one)(k) if k.shape else one(k)


def _axes(rng):
    order = [int(k) for k in rng.permutation(2)]
    return lambda x: lax.transpose(x, (*order, *range(2, x.ndim)))


single = lambda function: lambda rng: (function(rng), [("keys", pick(rng, SHAPES[:2]))])
compared = lambda name: of_numbers(lambda a, b: getattr(lax, name)(a, b.astype(a.dtype)))
binary = lambda name: of_numbers(lambda a, b: getattr(lax, name)(a, b.astype(a.dtype)))
CASES = {
    "iota": of_numbers(lambda a, _: lax.broadcasted_iota(a.dtype, a.shape, 0) if a.shape else a),
    "random_bits": single(_bits),
    "random_gamma": lambda rng: (lambda k: jax.random.gamma(k, 2.0), [("keys", ())]),
    "random_seed": lambda rng: (jax.random.key, [("seeds", ())]),
    "random_wrap": keys_at(0, lambda rng: jax.random.wrap_key_data, ["words"]),
    "random_unwrap": keys_at(0, lambda rng: jax.random.key_data, ["keys"]),
    "random_clone": keys_at(0, lambda rng: jax.random.clone, ["keys"]),
    "random_split": single(_split),
    "random_fold_in": _fold,
    "broadcast_in_dim": keys_at(0, lambda rng: lambda x: jnp.broadcast_to(x, (2, *x.shape))),
    "reshape": keys_at(1, lambda rng: lambda x: x.reshape(-1)),
    "transpose": keys_at(2, _axes),
    "squeeze": lambda rng: (lambda x: jnp.squeeze(x, 0), [(pick(rng, ["keys", "words"]), (1, 4))]),
    "slice": keys_at(1, lambda rng: lambda x: x[int(rng.integers(x.shape[0])) :]),
    "rev": keys_at(1, lambda rng: lambda x: lax.rev(x, (0,)), ["words"]),
    "copy": keys_at(0, lambda rng: lambda x: lax.copy_p.bind(x), ["words"]),
    "concatenate": _joined(lax.concatenate),
    "stack": _joined(lambda x, axis: bound("stack", axis=axis)(*x)),
    "dynamic_slice": either(keys_at(1, _pick_row), _secret_row(lax.dynamic_index_in_dim)),
    "gather": either(keys_at(1, _gather), _secret_row(_looked_up)),
    "select_n": _select,
    "convert_element_type": _cast,
    **{name: binary(name) for name in ("add", "sub", "mul")},
    **{name: compared(name) for name in ("lt", "le", "gt", "ge")},
}  # fmt: skip
SILENT = {"random_bits", "random_gamma"}  # draws have no name that says their value


def meanings(key, roots):
    """The keys that a name may be; None if there are too many."""
    if key.step is None:
        if key.root.kind == "choice":
            found = [meanings(k, roots) for k in key.root.what]
            return None if None in found else [v for options in found for v in options]
        return [roots[key.root]] if key.root in roots else None
    parents = meanings(key.parent, roots)
    if parents is None or not isinstance(key.step, Edge):
        return None
    kind, index = key.step
    if index.high - index.low > 8 or (isinstance(kind, tuple) and kind[0] == "bits"):
        return None
    return [child(p, kind, i) for p in parents for i in range(index.low, index.high + 1)]


def child(key, kind, index):
    """Child number `index` of a concrete key."""
    match kind:
        case "entry":
            return key.reshape(-1)[index]
        case "fold":
            return jax.random.fold_in(key, jnp.asarray(index, "uint32"))
        case "seed":
            return jax.random.key(key)
        case "split", shape:
            return jax.random.split(key, shape).reshape(-1)[index]
        case "word", _:
            return jax.random.key_data(key)[index]
    raise AssertionError(kind)


def words(value):
    """A key or number as integers."""
    typed = jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(value) if typed else value)


def wrong_entry(entry, value, roots):
    """What is wrong about one entry; empty if nothing, None if the name says nothing."""
    if isinstance(entry, Index):
        inside = entry.low <= int(value) <= entry.high
        return "" if inside else f"{value} is outside of {entry.low}..{entry.high}"
    options = None if isinstance(entry, Bits) else meanings(entry, roots)
    if options is None:
        return None
    same = any(np.array_equal(words(option), words(value)) for option in options)
    return "" if same else f"{words(value)} is not {entry}"


def behind(keys):
    """The roots of the keys behind a value."""
    pending = [e.key if isinstance(e, Bits) else e for e in keys.entries]
    pending += [keys.family, *keys.shown, *keys.drawn]
    found = set()
    while pending:
        key = pending.pop()
        if isinstance(key, Key):
            choice = key.root.kind == "choice"
            pending += list(key.root.what) if choice else []
            found |= set() if choice else {key.root}
    return found


def drawn(rng, kind, shape, impl):
    """The secret of an operand."""
    if kind == "seeds":
        return jnp.asarray(rng.integers(8), "uint32")
    return jax.random.split(jax.random.key(int(rng.integers(1 << 30)), impl=impl), shape)


def value_of(kind, secret):
    """An operand, given its secret."""
    return jax.random.key_data(secret) if kind == "words" else secret


def fuzz(name, count):
    """What the rules of one primitive state falsely, and what was tried."""
    found, seen = [], collections.Counter()
    for index in range(count):
        rng = np.random.default_rng([zlib.crc32(name.encode()), index])
        impl = pick(rng, IMPLS)
        function, operands = CASES[name](rng)
        if any(kind == "words" for kind, _ in operands) or name == "random_seed":
            impl = "threefry2x32"
        secrets = [drawn(rng, *operand, impl) for operand in operands]
        values = [value_of(kind, s) for (kind, _), s in zip(operands, secrets)]
        closed = jax.make_jaxpr(function)(*values)
        labels = [Label(Place.CLIENT, data_axes(v.ndim)) for v in values]
        given = [argument(k, v.shape, v.dtype, "client") for k, v in enumerate(values)]
        facts = [
            Fact(k, everything(v.dtype), keys=g) for k, (v, g) in enumerate(zip(values, given))
        ]
        try:
            checker, _ = checked(closed, labels)
        except Refused:
            seen["refused"] += 1
            continue
        prover = Prover(checker)
        for fact in facts:
            prover.number("given", fact.number)
        (stated,) = [f.keys for f in prover.closed(closed, facts, ())]
        roots = {next(iter(behind(g))): s for g, s in zip(given, secrets)}
        (result,) = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *values)
        flat = result.reshape(-1)
        for entry, value in zip(stated.entries, flat, strict=bool(stated.entries)):
            text = wrong_entry(entry, value, roots)
            seen["named"] += text is not None
            found += [f"{text}\n{closed.jaxpr}"] * bool(text)
        # Secret bits hide the key that they are folded into.
        hiding = name == "random_fold_in" and [kind for kind, _ in operands] == ["keys"] * 2
        for k, (operand, root) in list(enumerate(zip(operands, roots)))[hiding:]:
            other = [
                *values[:k],
                value_of(operand[0], drawn(rng, *operand, impl)),
                *values[k + 1 :],
            ]
            (changed,) = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *other)
            if not np.array_equal(words(changed), words(result)) and root not in behind(stated):
                found.append(f"operand {k} changes the result\n{closed.jaxpr}")
    return found, seen


def test_every_rule_has_a_case():
    assert set(key_rules._RULES) == set(CASES)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_names_of_keys_are_what_they_say(name, size):
    found, seen = fuzz(name, size)
    assert not found, "\n\n".join(found[:3])
    assert seen["named"] or name in SILENT, seen


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_and_differences_of_numbers_contain_those_of_their_ends(sign):
    spans = [Index(2, 2), Index(5, 5), Index(0, 3), Index(20, 22)]
    for a, b in itertools.product(spans, repeat=2):
        made = key_numbers._plus(a, b, sign, np.dtype("int32"))
        ends = [x + sign * y for x in (a.low, a.high) for y in (b.low, b.high)]
        assert made is None or (made.low <= min(ends) and max(ends) <= made.high), (a, b, made)
        assert (made is not None) == (b.constant or (a.constant and sign == 1))
