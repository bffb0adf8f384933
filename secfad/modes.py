"""Forward and reverse mode: derivatives of computations, as computations.

`broadcast` and `sum` are linear and each other's transpose, so JAX's own forward and reverse mode
give the two modes of the paper: forward sends tangents along with values, reverse sends cotangents
back. The result is again a computation over broadcast and sum, with the same arguments, so modes
compose and nest. `mode` chooses; `mixed` is in `secfad.mixed`, `auto` in `secfad.planning`.

Sources: Rush, Charles, Garrett (JMLR 2024), sections 3.1-3.3, Tables 1-3.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp

from secfad import _jax
from secfad.blockwise import sum_by_size
from secfad.branching import with_replayed_branches
from secfad.computations import Computation
from secfad.errors import ModeError
from secfad.factoring import factored, traced_factored
from secfad.mixed import surrogate
from secfad.placements import SERVER
from secfad.planning import choose_mode
from secfad.requirements import (
    checked_argnums,
    is_complex,
    require_alike,
    require_mode,
    require_numbers,
    require_server_arguments,
    require_server_results,
    unused_name,
    with_checked_results,
)
from secfad.tracing import require_placed

_jax.hide_file_from_tracebacks(__file__)

Mode = Literal["forward", "reverse", "factored", "mixed", "blockwise", "auto"]
Argnums = int | Sequence[int]


def grad(computation: Computation, argnums: Argnums = 0, *, mode: Mode = "reverse") -> Computation:
    """The gradient of a scalar computation, as a computation with the same arguments.

    Guarantees:
      Equals the gradient of the centralised program; communicates by broadcast and sum only.

    Args:
      computation: Returns one floating-point scalar at the server.
      argnums: Position, or positions, of the arguments to differentiate.
      mode: "forward" sends a tangent per differentiated entry with every message, in the same
        rounds. "reverse" sends cotangents back: more rounds, with the same clients. "factored" is
        reverse mode in which clients do not wait for scalar cotangents, which the server multiplies
        by instead (see `secfad.factoring`). "mixed" sends local Jacobians with the values, in the
        same rounds. "blockwise" sends those Jacobians that are small, and cotangents for the other
        sums (see `secfad.blockwise`). "auto" chooses by `plan`.

    Returns:
      A computation that returns a tree like the argument (a tuple for several argnums).

    Raises:
      ArgumentError: The positions are wrong; when traced, if there is nothing to differentiate.
      ModeError: When traced, if the mode does not exist for the program.

    Source: Rush, Charles, Garrett (JMLR 2024), sections 3.1-3.3.
    """
    return _derived(computation, argnums, mode, "grad", _gradient)


def value_and_grad(
    computation: Computation, argnums: Argnums = 0, *, mode: Mode = "reverse"
) -> Computation:
    """`(value, gradient)` of a scalar computation; arguments and modes as for `grad`."""
    return _derived(computation, argnums, mode, "value_and_grad", _value_and_gradient)


def jacobian(
    computation: Computation, argnums: Argnums = 0, *, mode: Mode = "reverse"
) -> Computation:
    """The Jacobian of a computation with any tree of floating-point results at the server.

    Forward mode also takes results at the clients: their Jacobians stay there.
    Arguments and modes as for `grad`; the result has the structure of `jax.jacobian`: for every
    result, for every argument, an array of shape `result.shape + argument.shape`.
    """
    return _derived(computation, argnums, mode, "jacobian", _jacobian)


def jvp(computation: Computation, argnums: Argnums = 0, *, mode: Mode = "forward") -> Computation:
    """Value and directional derivative, as a computation with tangents as further arguments.

    Args:
      computation: What to differentiate.
      argnums: Position, or positions, of the server arguments to differentiate.
      mode: "forward" or "mixed".

    Returns:
      A computation of the same arguments and one `<name>_tangent` per differentiated argument
      (numbered where an argument is called so already), which returns `(value, tangent)`.
    """
    require_mode(mode, ("forward", "mixed"), "jvp")
    argnums = checked_argnums(computation, argnums)
    chosen = _tuple(argnums)
    if mode == "mixed":
        require_server_arguments(computation, chosen, mode)
    names = list(computation.placements)
    added = {unused_name(f"{names[i]}_tangent", names): names[i] for i in chosen}

    def fun(*args: Any) -> Any:
        primals, tangents = args[: len(names)], args[len(names) :]
        local, _ = _local(computation, chosen, mode, _specs(primals))
        values = tuple(primals[i] for i in chosen)
        for value, tangent, (what, of) in zip(values, tangents, added.items()):
            require_alike(tangent, value, what, f"`{of}`")
        with _explaining(computation.name, mode):
            return jax.jvp(
                lambda *x: local(*_replaced(primals, chosen, x)), values, tuple(tangents)
            )

    return _computation(
        fun,
        dict(computation.placements) | {t: computation.placements[of] for t, of in added.items()},
        f"{computation.name}.jvp",
        unfactored=lambda: jvp(computation.fused, argnums, mode=mode),
    )


def vjp(computation: Computation, argnums: Argnums = 0, *, mode: Mode = "reverse") -> Computation:
    """Value and pulled-back cotangent, as a computation with the cotangent as a further argument.

    Args:
      computation: What to differentiate; its results are at the server.
      argnums: Position, or positions, of the arguments to differentiate.
      mode: "reverse", "factored" or "mixed".

    Returns:
      A computation of the same arguments and a last argument `cotangent` (numbered where an argument
      is called so already), shaped like the result, which returns `(value, derivative)` with the
      derivative shaped like the arguments.
    """
    require_mode(mode, ("reverse", "factored", "mixed"), "vjp")
    argnums = checked_argnums(computation, argnums)
    chosen = _tuple(argnums)
    if mode == "mixed":
        require_server_arguments(computation, chosen, mode)
    added = unused_name("cotangent", computation.placements)

    def fun(*args: Any) -> Any:
        *primals, _ = args
        local, factoring = _local(computation, chosen, mode, _specs(primals))

        def derived(*args: Any) -> Any:
            *primals, cotangent = args
            values = tuple(primals[i] for i in chosen)
            value, pull = jax.vjp(lambda *x: local(*_replaced(primals, chosen, x)), *values)
            require_alike(cotangent, value, added, "the result")
            return value, _like(argnums, pull(cotangent))

        with _explaining(computation.name, mode):
            return (factored(derived) if factoring else derived)(*args)

    placements = dict(computation.placements) | {added: SERVER}
    return _computation(fun, placements, f"{computation.name}.vjp")


def _derived(
    computation: Computation,
    argnums: Argnums,
    mode: Mode,
    kind: str,
    derive: Callable,
    *,
    factor: bool = True,
) -> Computation:
    require_mode(mode, get_args(Mode), kind)
    argnums = checked_argnums(computation, argnums)
    chosen = _tuple(argnums)
    if mode in ("forward", "mixed", "blockwise"):
        require_server_arguments(computation, chosen, mode)

    def derived(specs: tuple) -> tuple[Callable, bool, str]:
        require_numbers(computation, specs, chosen, mode)
        use: Any = mode
        if mode == "auto":
            use = choose_mode(
                lambda m: _derived(computation, argnums, cast(Mode, m), kind, derive), specs
            )
        local, factoring = _local(computation, chosen, use, specs)
        local = with_checked_results(local, computation.name, kind, use)
        return lambda *a: derive(local, a, argnums, use), factor and factoring, use

    def fun(*args: Any) -> Any:
        made, factoring, use = derived(_specs(args))
        with _explaining(computation.name, use):
            return (factored(made) if factoring else made)(*args)

    def tracer(specs: tuple) -> tuple[_jax.ClosedJaxpr, Any]:
        made, factoring, use = derived(specs)
        with _explaining(computation.name, use):
            return (traced_factored if factoring else _jax.make_jaxpr)(made, specs)

    def unfactored() -> Computation:
        return _derived(computation.fused, argnums, mode, kind, derive, factor=False)

    return _computation(
        fun, computation.placements, f"{computation.name}.{kind}", tracer, unfactored
    )


def _gradient(local: Callable, args: Sequence[Any], argnums: Argnums, mode: Mode) -> Any:
    if mode == "forward":
        gradient = jax.jacfwd(local, argnums=argnums)(*args)
        return _typed_like(args, argnums, gradient)
    return jax.grad(local, argnums=argnums)(*args)


def _value_and_gradient(local: Callable, args: Sequence[Any], argnums: Argnums, mode: Mode) -> Any:
    if mode == "forward":

        def twice(*a):
            value = local(*a)
            return value, value

        gradient, value = jax.jacfwd(twice, argnums=argnums, has_aux=True)(*args)
        return value, _typed_like(args, argnums, gradient)
    return jax.value_and_grad(local, argnums=argnums)(*args)


def _typed_like(args: Sequence[Any], argnums: Argnums, gradient: Any) -> Any:
    """The gradient in the number types of the arguments, not in that of the value."""
    chosen = args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)
    return jax.tree.map(lambda g, x: g.astype(jnp.result_type(x)), gradient, chosen)


def _jacobian(local: Callable, args: Sequence[Any], argnums: Argnums, mode: Mode) -> Any:
    forward = mode == "forward"
    if mode == "mixed":
        # Only the server differentiates here, so the smaller side decides.
        out, given = jax.eval_shape(local, *args), [args[i] for i in _tuple(argnums)]
        smaller = _size(given) < _size(out)
        forward = _has_complex(out) or (smaller and not _has_complex(given))
    transform = jax.jacfwd if forward else jax.jacrev
    return transform(local, argnums=argnums)(*args)


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _has_complex(tree: Any) -> bool:
    return any(is_complex(leaf.dtype) for leaf in jax.tree.leaves(tree))


def _specs(args: Sequence[Any]) -> tuple:
    return tuple(jax.tree.map(lambda x: _jax.spec(jax.typeof(x)), arg) for arg in args)


def _local(
    computation: Computation, chosen: Sequence[int], mode: str, specs: tuple
) -> tuple[Callable, bool]:
    """The function that JAX differentiates in a mode, and whether to factor scalars out afterwards.

    Refuses a program that is badly placed.
    """
    if mode == "mixed":
        return surrogate(computation, specs, chosen), False
    if mode == "blockwise":
        return surrogate(computation, specs, chosen, sum_by_size), False
    if mode == "forward" and computation.tracer is not None:
        # A derivative requires as much of what it derives from, and is then well placed itself.
        return computation.fun, False
    # Without this, a forgotten broadcast would make each client's own partial derivative of what
    # looks like a derivative at the server.
    shape = require_placed(computation, specs)
    backwards = mode in ("reverse", "factored")
    if backwards:
        require_server_results(computation, shape, mode)
    fun = computation.fun
    if backwards and shape.branches:
        fun = with_replayed_branches(computation, specs, chosen)
    return fun, mode == "factored" or (mode == "reverse" and shape.one_contact)


# What JAX says when a program has no derivative in a direction, why, and which modes may have one.
_REFUSALS = (
    (
        "(jvp) to a custom_vjp function",
        "a custom_vjp has no forward derivative",
        "mode='reverse' or mode='mixed'",
    ),
    (
        "Reverse-mode differentiation does not work for lax.while_loop",
        "the number of iterations of a while loop is not known, so nothing can be saved for reverse "
        "mode",
        "mode='forward', or mode='mixed' if the loop is client code",
    ),
    (
        "jacfwd requires real-valued inputs",
        "complex results have a Jacobian by real arguments only",
        "mode='reverse' or mode='mixed' for the real and the imaginary parts",
    ),
)


@contextlib.contextmanager
def _explaining(name: str, mode: str) -> Iterator[None]:
    """Turns what JAX says about an impossible mode into a `ModeError` that names a possible one."""
    try:
        yield
    except (TypeError, ValueError) as error:
        for words, reason, advice in _REFUSALS:
            if words in str(error):
                raise ModeError(f"`{name}` has no {mode} mode: {reason}. Use {advice}.") from error
        raise


def _tuple(argnums: Argnums) -> tuple[int, ...]:
    return (argnums,) if isinstance(argnums, int) else tuple(argnums)


def _replaced(args: Sequence[Any], chosen: Sequence[int], values: Sequence[Any]) -> list[Any]:
    full = list(args)
    for i, value in zip(chosen, values):
        full[i] = value
    return full


def _like(argnums: Argnums, derivative: tuple) -> Any:
    return derivative[0] if isinstance(argnums, int) else derivative


def _computation(
    fun: Callable,
    placements: Mapping,
    name: str,
    tracer: Callable | None = None,
    unfactored: Callable | None = None,
) -> Computation:
    return Computation(fun, MappingProxyType(dict(placements)), name, tracer, unfactored)
