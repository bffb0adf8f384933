"""Random equations of every primitive that has a rule for the axis of clients.

Most axes have length `CLIENTS`, so that each may be that of the clients. A generator gets a NumPy random
generator and returns a function of arrays that is one equation of its primitive, and arrays.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from secfad.jaxprs.origins import registered

CLIENTS = 3
GENERATORS = {}
PRIMITIVES = {name: primitive for primitive, name in registered().values()}


def equations_of(*names):
    """Registers a generator, which also gets the name, for these primitives."""

    def register(make):
        GENERATORS.update(dict.fromkeys(names, make))
        return make

    return register


def bound(name, **params):
    return lambda *operands: PRIMITIVES[name].bind(*operands, **params)


def shape_of(rng, low=1, high=3):
    return tuple(int(d) for d in rng.choice([3, 3, 3, 2], rng.integers(low, high + 1)))


def floats(rng, shape):
    return jnp.asarray(rng.uniform(0.1, 0.9, shape), jnp.float32)


def integers(rng, shape, high=9):
    return jnp.asarray(rng.integers(0, high, shape), jnp.int32)


def some_axes(rng, rank):
    return tuple(int(k) for k in np.flatnonzero(rng.random(rank) < 0.5))


def keys(rng, shape, impl="threefry2x32"):
    return jax.random.split(jax.random.key(int(rng.integers(1000)), impl=impl), shape)


UNARY = [
    "abs",
    "neg",
    "sign",
    "floor",
    "ceil",
    "is_finite",
    "log1p",
    "expm1",
    "asin",
    "atan",
    "sinh",
    "asinh",
    "bessel_i0e",
    "bessel_i1e",
    "lgamma",
    "digamma",
    "erf_inv",
    "copy",
    "square",
]
ACCURATE = ["exp", "exp2", "log", "sqrt", "rsqrt", "cbrt", "logistic", "tanh", "sin", "cos", "tan"]
EXTREME = ["acos", "acosh", "atanh", "cosh", "erf", "erfc"]
BINARY = [
    "add",
    "sub",
    "mul",
    "div",
    "rem",
    "max",
    "min",
    "pow",
    "atan2",
    "nextafter",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "add_any",
    "igamma",
    "igammac",
    "igamma_grad_a",
    "zeta",
    "complex",
    "eq_to",
    "le_to",
    "lt_to",
]
INTEGER = [
    "and",
    "or",
    "xor",
    "shift_left",
    "shift_right_arithmetic",
    "shift_right_logical",
    "mulhi",
]


@equations_of(*UNARY, *EXTREME)
def unary(rng, name):
    scale = 3.0 if name in ("acosh", "floor", "ceil") else 1.0
    return bound(name), [scale * floats(rng, shape_of(rng))]


@equations_of(*ACCURATE)
def accurate(rng, name):
    return bound(name, accuracy=None), [floats(rng, shape_of(rng))]


@equations_of("integer_pow", "round", "reduce_precision", "convert_element_type", "name")
def with_parameters(rng, name):
    functions = {
        "integer_pow": lambda x: lax.integer_pow(x, 3),
        "round": lax.round,
        "reduce_precision": lambda x: lax.reduce_precision(x, 5, 3),
        "convert_element_type": lambda x: lax.convert_element_type(x, jnp.float16),
        "name": lambda x: checkpoint_name(x, "x"),
    }
    return functions[name], [7 * floats(rng, shape_of(rng))]


@equations_of("not", "population_count", "clz")
def bits(rng, name):
    return bound(name), [integers(rng, shape_of(rng), 999)]


@equations_of("real", "imag", "conj")
def of_complex(rng, name):
    shape = shape_of(rng)
    return getattr(lax, name), [lax.complex(floats(rng, shape), floats(rng, shape))]


@equations_of(*BINARY)
def binary(rng, name):
    shape = shape_of(rng)
    return bound(name), [floats(rng, shape), floats(rng, shape)]


@equations_of("polygamma")
def polygamma(rng, name):
    shape = shape_of(rng)
    return bound(name), [jnp.round(1 + 5 * floats(rng, shape)), floats(rng, shape)]


@equations_of(*INTEGER)
def integer(rng, name):
    shape, high = shape_of(rng), 2**30 if name == "mulhi" else 9
    return bound(name), [integers(rng, shape, high), integers(rng, shape, high)]


@equations_of("regularized_incomplete_beta")
def beta(rng, name):
    shape = shape_of(rng)
    return bound(name), [floats(rng, shape) for _ in range(3)]


@equations_of("threefry2x32")
def threefry(rng, name):
    shape = shape_of(rng)
    return bound(name), [integers(rng, shape, 999).astype(jnp.uint32) for _ in range(4)]


@equations_of("select_n")
def select_n(rng, name):
    shape = shape_of(rng)
    which = integers(rng, () if rng.random() < 0.4 else shape, 3)
    return bound(name), [which, *(floats(rng, shape) for _ in range(3))]


@equations_of("clamp")
def clamp(rng, name):
    shape = shape_of(rng)
    ends = [() if rng.random() < 0.4 else shape for _ in range(2)]
    return bound(name), [
        floats(rng, ends[0]) / 2,
        floats(rng, shape),
        0.5 + floats(rng, ends[1]) / 2,
    ]


@equations_of("optimization_barrier", "device_put")
def identities(rng, name):
    values = [floats(rng, shape_of(rng)) for _ in range(2)]
    if name == "device_put":
        return lambda *x: jax.device_put(x), values
    return lambda *x: lax.optimization_barrier(x), values


REDUCTIONS = ["reduce_sum", "reduce_max", "reduce_min", "reduce_prod"]


@equations_of(*REDUCTIONS, "reduce_and", "reduce_or", "reduce_xor", "argmax", "argmin")
def reduction(rng, name):
    shape = shape_of(rng)
    axes = some_axes(rng, len(shape))
    if name.startswith("arg"):
        axis = int(rng.integers(len(shape)))
        return lambda x: getattr(lax, name)(x, axis, jnp.int32), [floats(rng, shape)]
    data = floats(rng, shape) if name in REDUCTIONS else integers(rng, shape)
    return lambda x: getattr(lax, name)(x, axes=axes), [data]


@equations_of("squeeze")
def squeeze(rng, name):
    shape = shape_of(rng, 2, 4)
    ones = tuple(1 if rng.random() < 0.4 else d for d in shape)
    gone = [k for k, d in enumerate(ones) if d == 1 and rng.random() < 0.8]
    return lambda x: bound(name, dimensions=tuple(gone))(x), [floats(rng, ones)]


@equations_of("transpose")
def transpose(rng, name):
    shape = shape_of(rng)
    order = tuple(int(k) for k in rng.permutation(len(shape)))
    return bound(name, permutation=order), [floats(rng, shape)]


@equations_of("broadcast_in_dim")
def broadcast_in_dim(rng, name):
    shape = shape_of(rng)
    rank = len(shape) + int(rng.integers(1, 3))
    places = tuple(sorted(int(k) for k in rng.choice(rank, len(shape), replace=False)))
    ones = tuple(1 if rng.random() < 0.2 else d for d in shape)
    out = [int(d) for d in rng.choice([3, 2], rank)]
    for place, d in zip(places, shape):
        out[place] = d
    return bound(name, shape=tuple(out), broadcast_dimensions=places, sharding=None), [
        floats(rng, ones)
    ]


@equations_of("reshape")
def reshape(rng, name):
    befores = [(3, 4), (3, 2, 2), (2, 3, 2), (4, 3), (2, 2, 3), (12,), (2, 6), (6, 2), (1, 3, 1, 4)]
    first, last = (befores[int(k)] for k in rng.choice(len(befores), 2))
    return bound(name, new_sizes=last, dimensions=None, sharding=None), [floats(rng, first)]


@equations_of("bitcast_convert_type")
def bitcast(rng, name):
    shape = shape_of(rng)
    if rng.random() < 0.5:
        return lambda x: lax.bitcast_convert_type(x, jnp.uint8), [floats(rng, shape)]
    words = integers(rng, (*shape, 2), 2**15).astype(jnp.uint16)
    return lambda x: lax.bitcast_convert_type(x, jnp.uint32), [words]


@equations_of("tile")
def tile(rng, name):
    shape = shape_of(rng)
    times = tuple(int(r) for r in rng.choice([1, 1, 2], len(shape)))
    return bound(name, reps=times), [floats(rng, shape)]


def cuts(rng, shape):
    """Of each axis a whole or a part."""
    starts = [int(rng.integers(2)) if rng.random() < 0.4 else 0 for _ in shape]
    limits = [int(rng.integers(s + 1, d + 1)) if s else d for s, d in zip(starts, shape)]
    return starts, limits


@equations_of("slice")
def slice_(rng, name):
    shape = shape_of(rng)
    starts, limits = cuts(rng, shape)
    strides = [int(s) for s in rng.choice([1, 1, 2], len(shape))] if rng.random() < 0.7 else None
    return lambda x: lax.slice(x, starts, limits, strides), [floats(rng, shape)]


@equations_of("dynamic_slice", "dynamic_update_slice")
def dynamic(rng, name):
    shape = shape_of(rng)
    starts, limits = cuts(rng, shape)
    sizes = tuple(b - a for a, b in zip(starts, limits))
    at = [jnp.int32(rng.integers(3)) for _ in shape]
    if name == "dynamic_slice":
        return bound(name, slice_sizes=sizes), [floats(rng, shape), *at]
    return bound(name), [floats(rng, shape), floats(rng, sizes), *at]


@equations_of("pad")
def pad(rng, name):
    shape = shape_of(rng)
    some = [(0, 0, 0), (0, 0, 0), (1, 0, 0), (-1, 1, 0), (1, -1, 0), (0, 0, 1), (0, -1, 0)]
    config = tuple(some[int(k)] for k in rng.integers(len(some), size=len(shape)))
    return bound(name, padding_config=config), [floats(rng, shape), jnp.float32(0.3)]


@equations_of("rev")
def rev(rng, name):
    shape = shape_of(rng)
    return bound(name, dimensions=some_axes(rng, len(shape))), [floats(rng, shape)]


@equations_of("split", "unstack")
def parted(rng, name):
    shape = shape_of(rng)
    axis = int(rng.integers(len(shape)))
    params = {"sizes": (1, shape[axis] - 1)} if name == "split" else {}
    return lambda x: bound(name, axis=axis, **params)(x), [floats(rng, shape)]


@equations_of("stack", "concatenate")
def joined(rng, name):
    shape = shape_of(rng)
    axis = int(rng.integers(len(shape) + (name == "stack")))
    params = {"axis" if name == "stack" else "dimension": axis}
    return bound(name, **params), [floats(rng, shape) for _ in range(int(rng.integers(2, 4)))]


@equations_of("sort")
def sort(rng, name):
    shape = shape_of(rng)
    axis, several = int(rng.integers(len(shape))), int(rng.integers(1, 3))
    data = [integers(rng, shape, 4).astype(jnp.float32), floats(rng, shape)][:several]
    return lambda *x: lax.sort(x, dimension=axis, num_keys=1), data


@equations_of("top_k")
def top_k(rng, name):
    shape = shape_of(rng)
    axis = int(rng.integers(len(shape)))
    return lambda x: lax.top_k(x, 2, axis=axis), [floats(rng, shape)]


@equations_of("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(rng, name):
    shape = shape_of(rng)
    options = {"axis": int(rng.integers(len(shape))), "reverse": bool(rng.integers(2))}
    return bound(name, **options), [floats(rng, shape)]


def windows(rng, rank):
    pick = lambda options: tuple(options[int(k)] for k in rng.integers(len(options), size=rank))
    return {
        "window_dimensions": pick([1, 1, 1, 2]),
        "window_strides": pick([1, 1, 1, 2]),
        "padding": pick([(0, 0), (0, 0), (0, 0), (1, 0), (1, -1)]),
    }


@equations_of("reduce_window_sum", "reduce_window_max", "reduce_window_min")
def reduce_window(rng, name):
    shape = shape_of(rng)
    pick = lambda: tuple(int(k) for k in rng.choice([1, 1, 1, 2], len(shape)))
    dilations = {"base_dilation": pick(), "window_dilation": pick()}
    return bound(name, **windows(rng, len(shape)), **dilations), [floats(rng, shape)]


@equations_of("select_and_scatter_add", "select_and_gather_add")
def select_and(rng, name):
    shape = shape_of(rng, 2)
    params = windows(rng, len(shape))
    params["padding"] = tuple((0, 0) for _ in shape)
    params["select_prim"] = PRIMITIVES["ge"]
    if name == "select_and_gather_add":
        ones = (1,) * len(shape)
        params |= {"base_dilation": ones, "window_dilation": ones}
        return bound(name, **params), [floats(rng, shape), floats(rng, shape)]
    spans = zip(shape, params["window_dimensions"], params["window_strides"])
    source = tuple((d - w) // s + 1 for d, w, s in spans)
    return bound(name, **params), [floats(rng, source), floats(rng, shape)]


@equations_of("dot_general")
def dot_general(rng, name):
    ranks = rng.integers(1, 4, size=2)
    left, right = ([int(k) for k in rng.permutation(r)] for r in ranks)
    pairs = list(zip(left, right))
    contracted = int(rng.integers(len(pairs) + 1))
    batch = int(rng.integers(len(pairs) - contracted + 1))
    split = pairs[:contracted], pairs[contracted : contracted + batch]
    numbers = tuple((tuple(a for a, _ in p), tuple(b for _, b in p)) for p in split)
    operands = [floats(rng, (3,) * int(r)) for r in ranks]
    return lambda a, b: lax.dot_general(a, b, numbers), operands


@equations_of("conv_general_dilated")
def convolution(rng, name):
    features, batches = [(1, 1), (1, 1), (3, 1), (1, 3)][int(rng.integers(4))]
    lhs, rhs = [3, 3, 4], [3, 3 // features, 2]
    if rng.random() < 0.3:
        rhs[2] = 3
    orders = [tuple(int(k) for k in rng.permutation(3)) for _ in range(3)]
    operands = [jnp.transpose(floats(rng, s), np.argsort(o)) for s, o in zip((lhs, rhs), orders)]
    numbers = lax.ConvDimensionNumbers(*orders)
    options = {"feature_group_count": features, "batch_group_count": batches}
    fun = lambda a, b: lax.conv_general_dilated(
        a, b, (1,), "SAME", dimension_numbers=numbers, **options
    )
    return fun, operands


def roles(rng, rank):
    """What a look-up does with each axis of its table."""
    names = ["one", "whole", "whole", "part", "whole at", "batch"]
    return [names[int(k)] for k in rng.integers(len(names), size=rank)]


def lookup(rng, rank):
    """Numbers of dimensions of a gather or scatter, and shapes."""
    role = roles(rng, rank)
    where = lambda *names: tuple(k for k, r in enumerate(role) if r in names)
    batch, indexed = where("batch"), where("one", "part", "whole at")
    free = int(rng.integers(3 - min(2, len(batch)) + (not batch)))
    places = [int(k) for k in rng.permutation(len(batch) + free)]
    window = where("whole", "part", "whole at")
    rows = len(batch) + free
    out = sorted(int(k) for k in rng.choice(rows + len(window), len(window), replace=False))
    order = tuple(int(k) for k in rng.permutation(indexed)) if indexed else ()
    indices = integers(rng, (*(3,) * rows, len(order)), 3)
    sizes = tuple(1 if r in ("one", "batch") else 2 if r == "part" else 3 for r in role)
    numbers = (tuple(out), where("one"), order, batch, tuple(places[: len(batch)]))
    return numbers, indices, sizes, window


MODES = [lax.GatherScatterMode.CLIP, lax.GatherScatterMode.FILL_OR_DROP]


@equations_of("gather")
def gather(rng, name):
    rank = int(rng.integers(1, 4))
    numbers, indices, sizes, _ = lookup(rng, rank)
    numbers, mode = lax.GatherDimensionNumbers(*numbers), MODES[int(rng.integers(2))]
    fun = lambda x, i: lax.gather(x, i, numbers, sizes, mode=mode)
    return fun, [floats(rng, (3,) * rank), indices]


SCATTERS = ["scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"]


@equations_of(*SCATTERS)
def scatter(rng, name):
    rank = int(rng.integers(1, 4))
    numbers, indices, sizes, window = lookup(rng, rank)
    scatters, mode = lax.ScatterDimensionNumbers(*numbers), MODES[int(rng.integers(2))]
    shape = [3] * (indices.ndim - 1 + len(window))
    for axis, k in zip(numbers[0], window):
        shape[axis] = sizes[k]
    fun = lambda x, i, u: getattr(lax, name.replace("-", "_"))(x, i, u, scatters, mode=mode)
    return fun, [floats(rng, (3,) * rank), indices, floats(rng, tuple(shape))]


@equations_of("fft")
def fft(rng, name):
    shape = tuple(int(d) for d in rng.choice([3, 4], int(rng.integers(1, 4))))
    axes = int(rng.integers(1, len(shape) + 1))
    return lambda x: lax.fft(x, lax.FftType.RFFT, shape[-axes:]), [floats(rng, shape)]


def matrices(rng, rank=2):
    return floats(rng, (3,) * rank) + 3 * jnp.eye(3)


@equations_of("cholesky", "eigh", "lu", "qr", "svd")
def factorisation(rng, name):
    x = matrices(rng, int(rng.integers(2, 5)))
    x = (x + x.mT) / 2 if name in ("cholesky", "eigh") else x
    functions = {
        "cholesky": lambda x: lax.linalg.cholesky(x, symmetrize_input=False),
        "eigh": lambda x: lax.linalg.eigh(x, symmetrize_input=False),
        "svd": lambda x: lax.linalg.svd(x, compute_uv=bool(x.ndim % 2)),
    }
    return functions.get(name) or getattr(lax.linalg, name), [x]


@equations_of("triangular_solve")
def triangular_solve(rng, name):
    rank = int(rng.integers(2, 4))
    left = bool(rng.integers(2))
    fun = lambda a, b: lax.linalg.triangular_solve(a, b, left_side=left)
    return fun, [matrices(rng, rank), floats(rng, (3,) * rank)]


@equations_of("householder_product")
def householder_product(rng, name):
    rank = int(rng.integers(2, 4))
    return lax.linalg.householder_product, [matrices(rng, rank), floats(rng, (3,) * (rank - 1))]


@equations_of("tridiagonal_solve")
def tridiagonal_solve(rng, name):
    rows = (3,) * int(rng.integers(1, 3))
    bands = [floats(rng, rows), 3 + floats(rng, rows), floats(rng, rows)]
    return lax.linalg.tridiagonal_solve, [*bands, floats(rng, (*rows, 3))]


@equations_of("lu_pivots_to_permutation")
def pivots(rng, name):
    shape = (3,) * int(rng.integers(1, 4))
    top = jnp.asarray([int(rng.integers(k, 3)) for k in range(3)], jnp.int32)
    rows = jnp.minimum(2, jnp.maximum(integers(rng, shape, 3), jnp.arange(3)))
    return bound(name, permutation_size=4), [jnp.where(rng.random() < 0.5, rows, top)]


IMPLS = ("threefry2x32", "rbg", "unsafe_rbg")


@equations_of("random_bits", "random_split", "random_clone", "random_unwrap")
def of_keys(rng, name):
    k = keys(rng, (3,) * int(rng.integers(1, 3)), IMPLS[int(rng.integers(3))])
    functions = {
        "random_bits": bound(name, bit_width=32, shape=(3, 2)),
        "random_split": bound(name, shape=(3,)),
        "random_clone": bound(name),
        "random_unwrap": bound(name),
    }
    return functions[name], [k]


@equations_of("random_fold_in")
def fold_in(rng, name):
    shape = (3,) * int(rng.integers(1, 3))
    k = keys(rng, shape, IMPLS[int(rng.integers(3))])
    return bound(name), [k, integers(rng, shape).astype(jnp.uint32)]


@equations_of("random_seed")
def seed(rng, name):
    impl = keys(rng, 1, IMPLS[int(rng.integers(3))]).dtype._impl
    return bound(name, impl=impl), [integers(rng, shape_of(rng))]


@equations_of("random_wrap")
def wrap(rng, name):
    impl = keys(rng, 1).dtype._impl
    words = integers(rng, (*shape_of(rng), 2), 999).astype(jnp.uint32)
    return bound(name, impl=impl), [words]


@equations_of("random_gamma")
def gamma(rng, name):
    rank = int(rng.integers(1, 3))
    k = keys(rng, (3,) * int(rng.integers(0, rank + 1)))
    return bound(name, log_space=True), [k, floats(rng, (3,) * rank)]
