"""What every primitive does to the axis of clients: one table, from primitive to rule.

`effect` says what an equation over stacked values is for each client: its own equation, whose results
are rows of the stacked ones (`Kept`) or are summed over clients (`Summed`). Of an equation without
clients it says whether the result has one equal row for each of them (`Replicated`). Anything else is
`Refused`, also every primitive that is not in the table. Primitives are those that JAX registered, not
others of the same name.

>>> import jax, jax.numpy as jnp
>>> trace = jax.make_jaxpr(lambda x, w: x @ w)(jnp.ones((8, 3)), jnp.ones((3, 2)))
>>> effect(trace.jaxpr.eqns[0], [0, None], 8).axes
(0,)
>>> type(effect(trace.jaxpr.eqns[0], [1, 0], 3)).__name__
'Summed'
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from secfad import _jax
from secfad._jax import KEY_GENERATORS, JaxprEqn, Primitive, Var
from secfad.interop import axis_products as products
from secfad.interop import axis_rules as rules
from secfad.interop.axis_rules import (
    RBG,
    THREEFRY,
    Case,
    Kept,
    Refused,
    Replicated,
    Rule,
    Summed,
    along,
    leading,
    random,
    shifted,
)
from secfad.jaxprs.origins import registered

_ENTRYWISE = """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt
    ceil clamp clz complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf
    erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le
    le_to lgamma log log1p logistic lt lt_to max min mul mulhi name ne neg nextafter not or polygamma
    population_count pow random_clone random_unwrap real reduce_precision
    regularized_incomplete_beta rem round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh threefry2x32 xor zeta"""

_ordered = along("axis", "orders", "goes from client to client")
_matrix = leading(2)

# By the name that JAX gave its primitive. A name means its primitive only through `registered`.
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_ENTRYWISE.split(), rules.entrywise),
    **dict.fromkeys(("optimization_barrier", "device_put"), rules.each),
    "reduce_sum": rules.reduce_sum,
    **dict.fromkeys(
        (
            *("reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor"),
            *("argmax", "argmin"),
        ),
        rules.reduced,
    ),
    "squeeze": rules.squeeze,
    "transpose": rules.transpose,
    "broadcast_in_dim": rules.broadcast_in_dim,
    "reshape": rules.reshape,
    "bitcast_convert_type": rules.bitcast,
    "tile": rules.tile,
    "slice": rules.slice_,
    "dynamic_slice": rules.dynamic_slice,
    "dynamic_update_slice": rules.dynamic_update_slice,
    "pad": rules.pad,
    "rev": along("dimensions", "picks", "reverses the order of clients"),
    "split": along("axis", "picks", "picks some of the clients"),
    "stack": rules.stack,
    "unstack": rules.unstack,
    "concatenate": along("dimension", "mixes", "puts clients after one another"),
    "sort": along("dimension", "orders", "sorts the clients"),
    "top_k": along("axis", "orders", "sorts the clients"),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _ordered),
    **dict.fromkeys(
        (
            *("reduce_window_sum", "reduce_window_max", "reduce_window_min"),
            *("select_and_scatter_add", "select_and_gather_add"),
        ),
        rules.window,
    ),
    "dot_general": products.dot_general,
    "conv_general_dilated": products.convolution,
    "gather": products.gather,
    **dict.fromkeys(
        ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"),
        products.scatter,
    ),
    "fft": leading(lambda case: len(case.params["fft_lengths"])),
    **dict.fromkeys(("cholesky", "eigh", "lu", "qr", "svd", "triangular_solve"), _matrix),
    "householder_product": leading(2, 1),
    "tridiagonal_solve": leading(1, 1, 1, 2),
    "lu_pivots_to_permutation": leading(1),
    "random_bits": random(THREEFRY),
    **dict.fromkeys(("random_split", "random_fold_in"), random(THREEFRY, RBG)),
    "random_seed": random(*KEY_GENERATORS),
    "random_wrap": rules.random_wrap,
    "random_gamma": random(THREEFRY, rule=rules.random_gamma),
}


@functools.cache
def table() -> Mapping[Primitive, Rule]:
    """Every primitive that has a rule."""
    named = registered().values()
    return {primitive: _RULES[name] for primitive, name in named if name in _RULES}


Effect = Kept | Summed | Replicated


def effect(equation: JaxprEqn, axes: Sequence[int | None], size: int) -> Effect:
    """What an equation does to the axis of clients.

    Args:
      equation: Any but control flow and calls.
      axes: The position of the axis of clients in each operand; None where it has none.
      size: Length of that axis.

    Raises:
      Refused: The equation does neither of what is described above, or has no rule.
    """
    found = table().get(equation.primitive)
    if found is None and equation.primitive not in _makers():
        raise Refused("unknown", "may mix the values of clients")
    for name in ("sharding", "out_sharding"):
        if equation.params.get(name) is not None:
            raise Refused("unknown", "is given a sharding")
    case = Case(equation, tuple(axes), size)
    if all(axis is None for axis in axes):
        return _replicated(case)
    assert found is not None
    return found(case)


@functools.cache
def _makers() -> Mapping[Primitive, str]:
    """Primitives whose results can have equal rows although no operand has them."""
    named = registered().values()
    return {p: name for p, name in named if name in ("broadcast_in_dim", "iota")}


def _replicated(case: Case) -> Replicated:
    params, takes = case.params, dict.fromkeys(range(len(case.axes)))
    shape, maker = params.get("shape", ()), _makers().get(case.equation.primitive)
    if maker is None or shape[:1] != (case.size,):
        return Replicated(params, takes, None)
    if maker == "iota":
        if params["dimension"] == 0:
            return Replicated(params, takes, None)
        return Replicated(
            {**params, "shape": shape[1:], "dimension": params["dimension"] - 1}, takes, 0
        )
    places = params["broadcast_dimensions"]
    stretched = places.index(0) if 0 in places else None
    if stretched is not None and case.shape(0)[stretched] != 1:
        return Replicated(params, takes, None)
    row = {"shape": shape[1:], "broadcast_dimensions": shifted(places, 0)}
    return Replicated({**params, **row}, {0: stretched}, 0)


def one_client(outcome: Effect, equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Evaluates the equation of one client, or of one row.

    Args:
      outcome: What `effect` says of the equation.
      equation: Over stacked values.
      operands: One client's, in the order of `outcome.takes`.
    """
    unit = not isinstance(outcome, Replicated) and outcome.unit
    if unit:
        places = outcome.takes.values()
        operands = [
            x if axis is None else jnp.expand_dims(x, axis) for x, axis in zip(operands, places)
        ]
    taken: list[Any] = [Var(equation.invars[i].aval) for i in outcome.takes]
    own = equation.replace(params=dict(outcome.params), invars=taken)
    results = _jax.evaluate(own, operands)
    if unit and isinstance(outcome, Kept):
        return [x if k is None else jnp.squeeze(x, k) for x, k in zip(results, outcome.axes)]
    return results
