"""The two communication primitives: `broadcast` (server to clients) and `sum` (clients to server).

Both are linear and leave the shape of a value as it is, because a traced program has no axis of
clients: `sum` of a value of shape `(d,)` at every client is a value of shape `(d,)` at the server.
Each is the other's transpose, which is all that federated automatic differentiation needs: the
derivative of a computation that communicates by broadcast and sum does so too.

Both take a tree and move all of its leaves in one message (one secure aggregation for `sum`), so
that the numerator and the denominator of a mean come from the same surviving clients. The name of a
message travels through differentiation: `delta` has the tangent `delta.tangent`, and the transpose
of the broadcast `model` is the sum `model.cotangent`.

>>> import jax, jax.numpy as jnp
>>> print(jax.make_jaxpr(lambda x: sum(broadcast(x, name="model"), name="total"))(1.0).eqns[1].primitive)
federated_sum

Sources: Rush, Charles, Garrett (JMLR 2024), Eqs. 6-9 and Tables 1-2.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad import _jax
from secfad._jax_interpreters import linear_primitive
from secfad.errors import ArgumentError, PlacementError, TracingError
from secfad.totals import over_clients

TANGENT = ".tangent"
COTANGENT = ".cotangent"
# The parameter of a message that a walk through its program has found (`following`).
VISIBLE = "visible"
# Kinds of PlacementError.
HIDDEN = "hidden-communication"
OUTSIDE = "outside-computation"


def _tangent(params: dict) -> dict:
    return params | {"name": params["name"] + TANGENT}


def _cotangent(params: dict) -> dict:
    return params | {"name": params["name"].removesuffix(TANGENT) + COTANGENT}


def _check_operands(avals, params) -> None:
    for aval in avals:
        if jnp.issubdtype(aval.dtype, np.bool_) or jax.dtypes.issubdtype(
            aval.dtype, jax.dtypes.extended
        ):
            raise ArgumentError(
                f"{_jax.here()}`sum` named {params['name']!r} expected numbers, got dtype {aval.dtype}. "
                "Convert a flag with .astype(jnp.float32); PRNG keys cannot be added."
            )


def _place_broadcast(clients, operands, mapped, params):
    del clients
    if any(mapped):
        raise PlacementError(
            f"`broadcast` named {params['name']!r} expected a server value, got a value that differs "
            "between clients. Only the server can send to every client; aggregate with `sum` first.",
            kind="addressed-broadcast",
        )
    return operands, mapped


def repeated(value: Any, clients: int) -> jax.Array:
    """The sum over clients of a value that all hold alike; integers wrap around as in any sum."""
    array = jnp.asarray(value)
    return array * np.asarray(clients).astype(array.dtype)


def _place_sum(clients, operands, mapped, params):
    del params
    results = [over_clients(x) if m else repeated(x, clients) for x, m in zip(operands, mapped)]
    return results, [False] * len(results)


def _outside(params: dict) -> PlacementError:
    return PlacementError(
        f"a message named {params['name']!r} was sent outside of a federated computation, where there "
        "are no clients. Run a computation `f` with secfad.simulate(f)(*args) or "
        "secfad.execute(secfad.trace(f, *specs), *args), and differentiate it with secfad.grad(f).",
        kind=OUTSIDE,
        line=_jax.current_line(),
    )


def _hidden(params: dict) -> PlacementError:
    return PlacementError(
        f"a message named {params['name']!r} is sent outside of a federated computation, or inside of "
        "an operation that hides it from the program. Run computations with secfad.simulate or "
        "secfad.execute, and communicate outside of such an operation. If a derivative rule sends it, "
        "differentiate the computation, with secfad.grad, and not its simulation.",
        kind=HIDDEN,
        line=_jax.current_line(),
    )


_RULES: dict[str, Any] = {
    "tangent_params": _tangent,
    "cotangent_params": _cotangent,
    "outside": _outside,
    "hidden": _hidden,
    "mark": VISIBLE,
}
broadcast_p = linear_primitive(
    "federated_broadcast",
    place=_place_broadcast,
    check=lambda avals, params: None,
    **_RULES,
)
sum_p = linear_primitive("federated_sum", place=_place_sum, check=_check_operands, **_RULES)
broadcast_p.transposed = sum_p  # type: ignore[attr-defined]
sum_p.transposed = broadcast_p  # type: ignore[attr-defined]

COMMUNICATION = frozenset({broadcast_p, sum_p})


def _send(primitive, tree: Any, name: str | None, default: str) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    if not leaves:
        return tree
    _require_name(name)
    _require_arrays(leaves, default)
    return jax.tree.unflatten(structure, primitive.bind(*leaves, name=name or default))


def _require_name(name: Any) -> None:
    if name is not None and not isinstance(name, str):
        raise ArgumentError(
            f"{_jax.here()}expected a name of type str, got {name!r}. Write name='model'."
        )


def _require_arrays(leaves: Sequence[Any], what: str) -> None:
    for leaf in leaves:
        try:
            jax.typeof(leaf)
        except TypeError as error:
            raise ArgumentError(
                f"{_jax.here()}`{what}` expected a tree of arrays, got a {type(leaf).__name__} in it. "
                "Text and objects cannot cross; encode them as numbers."
            ) from error


def broadcast(tree: Any, *, name: str | None = None) -> Any:
    """Sends a server value to every client.

    Args:
      tree: A tree of arrays placed at the server. All leaves travel in one message.
      name: What policies, certificates and errors call this message; `"broadcast"` by default.

    Returns:
      The same tree, as each client holds it.

    Raises:
      ArgumentError: A leaf is no array, such as text.
      PlacementError: When the computation is traced, if the value is a client's.

    Source: Rush, Charles, Garrett (JMLR 2024), Eq. 6; its transpose is `sum`.
    """
    return _send(broadcast_p, tree, name, "broadcast")


def sum(tree: Any, *, name: str | None = None) -> Any:
    """Adds a value over all clients of the cohort and gives the result to the server.

    Guarantees:
      One call is one message: all leaves come from the same set of clients.

    Args:
      tree: A tree of numeric arrays, one at each client. A leaf that is a constant contributes the
        constant times the number of clients, and no bytes.
      name: What policies, certificates and errors call this sum; `"sum"` by default.

    Returns:
      The sums, with the structure, shapes and dtypes of `tree`, at the server.

    Raises:
      ArgumentError: A leaf is no number, such as text, a flag or a PRNG key.
      PlacementError: When the computation is traced, if the value is the server's.

    Source: Rush, Charles, Garrett (JMLR 2024), Eq. 7; its transpose is `broadcast`.
    """
    return _send(sum_p, tree, name, "sum")


def mean(tree: Any, *, weights: Any = None, name: str | None = None) -> Any:
    """Averages a value over clients: `sum(w * x) / sum(w)`, both sums in one message.

    Guarantees:
      16-bit numbers and their weights are sent and added up as float32, in which 70,000 clients can be
      counted and large values do not overflow; the mean is rounded once.

    Args:
      tree: A tree of arrays, one at each client. Flags and integers become floating-point numbers, of
        the dtype that `jnp.mean` gives them.
      weights: One number per client, such as its count of examples; equal weights by default.
      name: What policies, certificates and errors call this message; `"mean"` by default.

    Returns:
      The mean, with the structure, shapes and floating-point dtypes of `tree`, at the server. NaN if
      the weights add to 0.

    Raises:
      ArgumentError: A leaf is no array, such as text, the weight is not one number per client, or the
        name is no text.

    Source: Rush, Charles, Garrett (JMLR 2024), section 4.1.
    """
    leaves, structure = jax.tree.flatten(tree)
    if not leaves:
        return tree
    _require_name(name)
    # Objects that JAX can make arrays of are none before.
    _require_arrays([x for x in leaves if not hasattr(x, "__jax_array__")], "mean")
    leaves = [_inexact(x) for x in leaves]
    long = [in_long(x) for x in leaves]
    if weights is None:
        weight = np.ones((), jnp.result_type(*long))
        weighted = long
    else:
        weight = in_long(_checked_weight(weights))
        weighted = [(weight * x).astype(x.dtype) for x in long]
    *totals, total_weight = sum_p.bind(*weighted, weight, name=name or "mean")
    means = [(t / total_weight).astype(x.dtype) for t, x in zip(totals, leaves)]
    return jax.tree.unflatten(structure, means)


def _inexact(value: Any) -> jax.Array:
    """The value as floating-point numbers; their dtype is that of `jnp.mean`."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.inexact):
        return array
    return array.astype(jax.eval_shape(jnp.mean, array).dtype)


def in_long(array: jax.Array) -> jax.Array:
    """The array in at least 32 bits, in which a sum over clients neither overflows nor stands still."""
    return array.astype(jnp.float32) if jnp.finfo(array.dtype).bits < 32 else array


def _checked_weight(weights: Any) -> jax.Array:
    if not hasattr(weights, "shape") and not np.isscalar(weights):
        raise ArgumentError(
            f"{_jax.here()}expected one number per client as `weights`, got a {type(weights).__name__}. "
            "Pass a scalar such as the client's count of examples; it applies to every leaf."
        )
    weight = jnp.asarray(weights)
    if weight.shape != ():
        raise ArgumentError(
            f"{_jax.here()}expected one number per client as `weights`, got shape {weight.shape} at each "
            "client. Pass a scalar; a traced computation has no axis of clients."
        )
    return _inexact(weight)


@functools.cache
def require_messages_stay_in_loops() -> None:
    """Checks once per process that JAX leaves a message in its loop when it differentiates the loop.

    JAX moves what does not change in a loop out of it. That a message stays depends on how JAX forms
    loops (`secfad.jaxprs.iterations`): one sum in place of several would be one release.

    Raises:
      TracingError: A message was moved; this version of JAX is not supported.
    """

    def body(carry: Any, value: Any) -> Any:
        return carry * sum_p.bind(value, name="check")[0]

    def backwards(carry: Any, value: Any, step: Callable) -> Any:
        loop = lambda c: jax.lax.scan(lambda c, _: (step(c, value), None), c, length=2)[0]
        return jax.vjp(loop, carry)[1](carry)

    number = jax.ShapeDtypeStruct((), np.float32)
    for step in (body, jax.checkpoint(body)):
        closed, _ = _jax.make_jaxpr(functools.partial(backwards, step=step), (number, number))
        if any(equation.primitive is sum_p for equation in closed.jaxpr.eqns):
            raise TracingError(
                "Expected JAX to leave messages in their loops when it differentiates them, got a sum "
                f"that was moved out of one by JAX {jax.__version__}. Install a version of JAX that "
                "secfad supports: pip install 'jax>=0.8.3,<0.11'."
            )
