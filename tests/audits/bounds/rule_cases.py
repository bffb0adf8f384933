"""One family of random equations for every primitive that a rule of `audits/bounds` handles.

A case draws a function with one equation and the shapes, dtypes and roles of its operands. `handled`
reads from the sources of the checker which primitives its rules name, so a new rule without a case
fails the suite.
"""

import ast
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from hostile_values import FLOATS, INTEGERS
from jax import lax

import audits.bounds
import secfad as fad
from audits.rules.families import DECISIONS
from secfad.jaxprs.origins import registered

SHAPES = [(), (), (1,), (3,), (2, 3), (3, 1), (2, 1, 3), (3, 3)]
EVERY = (*FLOATS, *INTEGERS, "bool", "complex64", "float8_e4m3fnuz", "float4_e2m1fn", "int4")
# Calls, branches, loops and messages are entered by the walk: whole programs test them. What is said
# of keys and random draws is of another kind: `test_key_rules.py` tests it.
ELSEWHERE = {
    "programs inside": "call cond scan while jit closed_call remat2 custom_jvp_call custom_vjp_call "
    "custom_linear_solve checkpoint",
    "messages": "federated_broadcast federated_sum psum device_put name optimization_barrier "
    "sharding_constraint",
    "keys": "iota random_bits random_clone random_fold_in random_gamma random_seed random_split "
    "random_unwrap random_wrap threefry2x32",
}


def handled():
    """The primitives that the sources of the second walk name, and that JAX has."""
    known = {name for _, name in registered().values()}
    found = set()
    for file in Path(audits.bounds.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value} & known & set(DECISIONS)
    return found


def elsewhere():
    """The primitives that other tests cover."""
    return {name for names in ELSEWHERE.values() for name in names.split()}


def pick(rng, items):
    """One of several."""
    return items[int(rng.integers(len(items)))]


def some_float(rng):
    """A float dtype, most often float32."""
    return "float32" if rng.random() < 0.5 else pick(rng, FLOATS)


def some_dtype(rng):
    """Any dtype, most often a float."""
    return some_float(rng) if rng.random() < 0.7 else pick(rng, EVERY)


def some_shape(rng, least=0):
    """A small shape."""
    return pick(rng, [s for s in SHAPES if len(s) >= least])


def unary(function, dtypes=some_dtype):
    """A function of one array."""

    def case(rng):
        return function, [(some_shape(rng), dtypes(rng), "any")]

    return case


def binary(function, dtypes=some_dtype):
    """A function of two arrays, of one shape or one of them a scalar."""

    def case(rng):
        shape, dtype = some_shape(rng), dtypes(rng)
        shapes = [shape, shape]
        if rng.random() < 0.2:
            shapes[int(rng.integers(2))] = ()
        return function, [(s, dtype, "any") for s in shapes]

    return case


def bound(name, **params):
    """The primitive itself, where `jax.lax` has no function that gives just this."""
    primitive = next(p for p, known in registered().values() if known == name)
    return lambda *values: primitive.bind(*values, **params)


def _power(rng):
    y = int(pick(rng, [2, 2, -1, -1, 3, 4, -2, 1, 0, 5]))
    return lambda x: lax.integer_pow(x, y), [(some_shape(rng), some_dtype(rng), "any")]


def _round(rng):
    way = pick(rng, list(lax.RoundingMethod))
    return lambda x: lax.round(x, way), [(some_shape(rng), some_float(rng), "any")]


def _clamp(rng):
    shape, dtype = some_shape(rng), pick(rng, [some_float(rng), "int32", "uint8"])
    ends = shape if rng.random() < 0.5 else ()
    low, high = ("zero", "one") if rng.random() < 0.4 else ("any", "any")
    return lax.clamp, [(ends, dtype, low), (shape, dtype, "any"), (ends, dtype, high)]


def _select(rng):
    shape, dtype = some_shape(rng), some_dtype(rng)
    test = shape if rng.random() < 0.7 else ()
    roles = [pick(rng, ["any", "any", "zero"]), "any"]
    return lax.select_n, [(test, "bool", "any"), *((shape, dtype, r) for r in roles)]


def _convert(rng):
    source, target = some_dtype(rng), pick(rng, EVERY)
    if source == "complex64" and target != "complex64":
        source = "float32"
    return (lambda x: lax.convert_element_type(x, target)), [(some_shape(rng), source, "any")]


def _broadcast(rng):
    shape = some_shape(rng)
    out = [pick(rng, [n, 3]) if n == 1 else n for n in shape]
    places, position = [], 0
    for _ in out:
        position += int(rng.random() < 0.3)
        places.append(position)
        position += 1
    full = [2] * (position + int(rng.random() < 0.3))
    for k, n in zip(places, out):
        full[k] = n
    function = lambda x: bound("broadcast_in_dim", shape=tuple(full), broadcast_dimensions=tuple(places),
                               sharding=None)(x)  # fmt: skip
    return function, [(shape, some_dtype(rng), "any")]


RESHAPES = {
    (): [(1,), (1, 1)],
    (1,): [(), (1, 1)],
    (3,): [(1, 3), (3, 1)],
    (2, 3): [(6,), (3, 2), (2, 1, 3)],
    (3, 1): [(3,), (1, 3)],
    (2, 1, 3): [(2, 3), (6,), (3, 2), (2, 3, 1)],
    (3, 3): [(9,), (3, 1, 3)],
}


def _reshape(rng):
    shape = some_shape(rng)
    target = pick(rng, RESHAPES[shape])
    return lambda x: lax.reshape(x, target), [(shape, some_dtype(rng), "any")]


def _transpose(rng):
    shape = some_shape(rng, 1)
    order = tuple(int(k) for k in rng.permutation(len(shape)))
    return (lambda x: bound("transpose", permutation=order)(x)), [(shape, some_dtype(rng), "any")]


def _squeeze(rng):
    shape = pick(rng, [(1,), (3, 1), (2, 1, 3), (1, 3, 1)])
    axes = [k for k, n in enumerate(shape) if n == 1 and rng.random() < 0.7] or [shape.index(1)]
    return lambda x: lax.squeeze(x, tuple(axes)), [(shape, some_dtype(rng), "any")]


def _slice(rng):
    shape = some_shape(rng, 1)
    starts = [int(rng.integers(n)) for n in shape]
    return lambda x: lax.slice(x, starts, shape), [(shape, some_dtype(rng), "any")]


def _split(rng):
    shape = some_shape(rng, 1)
    axis = int(rng.integers(len(shape)))
    sizes = (1, shape[axis] - 1) if shape[axis] > 1 else (1,)
    return lambda x: lax.split(x, sizes, axis), [(shape, some_dtype(rng), "any")]


def _tile(rng):
    shape = some_shape(rng, 1)
    times = tuple(int(k) for k in rng.integers(1, 3, size=len(shape)))
    return (lambda x: bound("tile", reps=times)(x)), [(shape, some_dtype(rng), "any")]


def _rev(rng):
    shape = some_shape(rng, 1)
    return lambda x: lax.rev(x, (int(len(shape) - 1),)), [(shape, some_dtype(rng), "any")]


def _reduce(name):
    def case(rng):
        shape = some_shape(rng, 1)
        axes = tuple(k for k in range(len(shape)) if rng.random() < 0.6) or (0,)
        dtype = some_dtype(rng)
        if name != "reduce_sum" and dtype == "complex64":
            dtype = "float32"
        params = {"axes": axes, "out_sharding": None}
        return (lambda x: bound(name, **params)(x)), [(shape, dtype, "any")]

    return case


def _every(rng):
    shape = some_shape(rng, 1)
    axes = tuple(k for k in range(len(shape)) if rng.random() < 0.6) or (0,)
    return (lambda x: bound("reduce_and", axes=axes)(x)), [(shape, "bool", "any")]


def _concatenate(rng):
    shape, dtype = some_shape(rng, 1), some_dtype(rng)
    axis = int(rng.integers(len(shape)))
    count = int(rng.integers(1, 4))
    return (lambda *x: lax.concatenate(x, axis)), [(shape, dtype, "any")] * count


def _stack(rng):
    shape, dtype = some_shape(rng), some_dtype(rng)
    axis = int(rng.integers(len(shape) + 1))
    return (lambda *x: bound("stack", axis=axis)(*x)), [(shape, dtype, "any")] * 2


def _pad(rng):
    shape, dtype = some_shape(rng, 1), some_dtype(rng)
    config = [tuple(int(n) for n in rng.integers([-1, -1, 0], [2, 2, 2])) for _ in shape]
    kept = rng.random() < 0.5
    config = [
        c if n > 2 and not kept else (max(c[0], 0), max(c[1], 0), c[2])
        for c, n in zip(config, shape)
    ]
    return (lambda x, p: lax.pad(x, p, config)), [
        (shape, dtype, "any"),
        ((), dtype, pick(rng, ["zero", "any"])),
    ]


def _dot(rng):
    shape = pick(rng, [(3,), (2, 3), (3, 3)])
    axes = list(range(len(shape)))
    batch = [k for k in axes if rng.random() < 0.3]
    over = [k for k in axes if k not in batch and rng.random() < 0.8]
    numbers = ((over, over), (batch, batch))
    dtype = pick(rng, ["float32", "float32", "float16", "bfloat16", "int32", "complex64", "uint8"])
    return (lambda x, y: lax.dot_general(x, y, numbers)), [(shape, dtype, "any")] * 2


def _gather(rng):
    shape, dtype = some_shape(rng, 1), some_dtype(rng)
    numbers = lax.GatherDimensionNumbers(tuple(range(1, len(shape))), (0,), (0,))
    mode = pick(rng, [lax.GatherScatterMode.CLIP, lax.GatherScatterMode.FILL_OR_DROP])
    function = lambda x, i: lax.gather(x, i, numbers, (1, *shape[1:]), mode=mode)
    return function, [(shape, dtype, "any"), ((2, 1), "int32", "any")]


def _dynamic_slice(rng):
    shape, dtype = some_shape(rng, 1), some_dtype(rng)
    function = lambda x, i: lax.dynamic_slice(x, [i] * len(shape), [max(n - 1, 1) for n in shape])
    return function, [(shape, dtype, "any"), ((), "int32", "any")]


def _bitcast(rng):
    source, target = pick(rng, [("float32", "int32"), ("int32", "float32"), ("uint32", "float32"),
                                ("float16", "int16"), ("float32", "uint8"), ("uint8", "int8")])  # fmt: skip
    return (lambda x: lax.bitcast_convert_type(x, target)), [(some_shape(rng), source, "any")]


def _shift(rng):
    return binary(lax.shift_right_logical, lambda r: pick(r, ["uint32", "int32", "uint8"]))(rng)


def _clip(rows):
    def case(rng):
        shape, dtype = (
            some_shape(rng, rows),
            pick(rng, ["float32", "float32", "float16", "bfloat16"]),
        )
        again = shape if rows else some_shape(rng)
        clip = lambda x, y, c: fad.clip((x, y), c)
        if not rows:
            return clip, [(shape, dtype, "any"), (again, "float32", "any"), ((), "float32", "any")]
        function = lambda x, c: jax.vmap(lambda v: fad.clip(v, c))(x)
        return function, [(pick(rng, [(3,), (2, 3)]), dtype, "any"), ((), "float32", "any")]

    return case


reals = lambda rng: pick(rng, [some_float(rng), "complex64"]) if rng.random() < 0.9 else "float32"
ordered = lambda rng: pick(rng, [some_float(rng), some_float(rng), "int32", "uint8", "int8"])
logical = lambda rng: pick(rng, ["bool", "bool", "bool", "int32", "uint8"])
CASES = {
    "abs": unary(
        lambda x: (
            jnp.abs(x)
            if x.dtype != jnp.bool_ and not jnp.issubdtype(x.dtype, jnp.unsignedinteger)
            else lax.neg(x)
        ),
        lambda r: pick(r, [some_float(r), "complex64", "int32", "int8"]),
    ),
    "neg": unary(
        lax.neg, lambda r: pick(r, [some_float(r), "complex64", "int32", "uint8", "int8"])
    ),
    "square": unary(lax.square, lambda r: pick(r, [some_float(r), "complex64", "int32", "uint8"])),
    "integer_pow": _power,
    "round": _round,
    "clamp": _clamp,
    "select_n": _select,
    "convert_element_type": _convert,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "slice": _slice,
    "split": _split,
    "rev": _rev,
    "tile": _tile,
    "reduce_sum": _reduce("reduce_sum"),
    "reduce_max": _reduce("reduce_max"),
    "reduce_and": _every,
    "reduce_min": _reduce("reduce_min"),
    "concatenate": _concatenate,
    "stack": _stack,
    "pad": _pad,
    "dot_general": _dot,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "bitcast_convert_type": _bitcast,
    "shift_right_logical": _shift,
    "copy": unary(lambda x: lax.copy_p.bind(x)),
    "is_finite": unary(lax.is_finite, some_float),
    "not": unary(lax.bitwise_not, logical),
    "and": binary(lax.bitwise_and, logical),
    "or": binary(lax.bitwise_or, logical),
    "add_any": binary(bound("add_any"), reals),
    "federated_clip": _clip(0),
    "federated_clip_rows": _clip(1),
}
for _name in ("sqrt", "rsqrt", "tanh", "sin", "cos", "exp", "logistic"):
    CASES[_name] = unary(getattr(lax, _name), reals)
for _name in ("floor", "ceil", "erf", "erf_inv"):
    CASES[_name] = unary(getattr(lax, _name), some_float)
CASES["sign"] = unary(lax.sign, lambda r: pick(r, [some_float(r), "int32"]))
for _name in ("add", "sub", "mul", "div"):
    CASES[_name] = binary(
        getattr(lax, _name),
        lambda r: pick(
            r, [some_float(r), some_float(r), some_float(r), "int32", "complex64", "uint8", "int8"]
        ),
    )
for _name in ("max", "min", "eq", "ne", "lt", "le", "gt", "ge"):
    CASES[_name] = binary(getattr(lax, _name), ordered)


@functools.cache
def automatic(name):
    """A case for an elementwise primitive that has none: the primitive on random floats."""
    if name in CASES:
        return CASES[name]
    if name not in DECISIONS or name in elsewhere() or DECISIONS[name] != "elementwise":
        return None
    function = getattr(lax, name, None) or bound(name)
    whole = lambda rng: "int32"
    for case in (
        unary(function, some_float),
        binary(function, some_float),
        binary(function, whole),
    ):
        try:
            made, operands = case(np.random.default_rng(0))
            jax.eval_shape(made, *(jax.ShapeDtypeStruct(s, d) for s, d, _ in operands))
        except (TypeError, ValueError, AssertionError):
            continue
        return case
    return None
