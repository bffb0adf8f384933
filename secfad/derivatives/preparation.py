"""What JAX differentiates in each mode, in place of the computation itself.

Forward mode takes the function as it is, reverse mode one whose choices are taken once more
(`secfad.derivatives.branching`), mixed and blockwise mode one whose sums bring Jacobians
(`secfad.derivatives.mixed`). A program that is badly placed, or that a mode has no derivative of,
is refused here.

Source: Rush, Charles, Garrett (JMLR 2024), sections 3.1-3.3.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax

from secfad import _jax
from secfad.computations import Computation
from secfad.derivatives.blockwise import sum_by_size
from secfad.derivatives.branching import with_replayed_branches
from secfad.derivatives.mixed import surrogate
from secfad.derivatives.refusals import explained
from secfad.derivatives.requirements import require_server_results, separated
from secfad.errors import PlacementError
from secfad.programs.tracing import require_placed

_jax.hide_file_from_tracebacks(__file__)


def specs_of(args: Sequence[Any]) -> tuple:
    """Shapes and dtypes of arguments in a trace."""
    return tuple(jax.tree.map(lambda x: _jax.spec(jax.typeof(x)), arg) for arg in args)


def value_alone(computation: Computation) -> Computation:
    """A computation of `(value, aux)` without its `aux`."""

    def fun(*args: Any) -> Any:
        return separated(computation.name, computation.fun(*args))[0]

    return derived_computation(fun, computation.placements, computation.name)


def differentiable(
    computation: Computation, chosen: Sequence[int], mode: str, specs: tuple, value: Computation
) -> tuple[Callable, bool]:
    """The function that JAX differentiates in a mode, and whether to factor scalars out afterwards.

    Refuses a program that is badly placed. What it costs to go back depends on the value alone.
    """
    has_aux = value is not computation
    if mode == "mixed":
        return surrogate(computation, specs, chosen, has_aux=has_aux), False
    if mode == "blockwise":
        return surrogate(computation, specs, chosen, sum_by_size, has_aux), False
    if mode == "forward" and computation.tracer is not None:
        # A derivative requires as much of what it derives from, and is then well placed itself.
        return computation.fun, False
    # Without this, a forgotten broadcast would make each client's own partial derivative of what
    # looks like a derivative at the server.
    shape = require_placed(computation, specs)
    if mode == "forward":
        return computation.fun, False
    of_value = require_placed(value, specs)
    require_server_results(computation, of_value, mode)
    fun = computation.fun
    if shape.branches:
        fun = with_replayed_branches(computation, specs, chosen)
    return fun, mode == "factored" or (mode == "reverse" and of_value.one_contact)


def needs_held_derivatives(
    computation: Computation, derived: Callable, specs: tuple, mode: str
) -> bool:
    """Whether JAX's derivative is badly placed as it is, which a choice of constants may make it."""
    if mode not in ("forward", "reverse", "factored"):
        return False
    first = computation
    while first.origin is not None:
        first = first.origin
    if not require_placed(first, specs).branches:
        return False
    made = derived_computation(derived, computation.placements, computation.name)
    try:
        with explained(computation.name, mode):
            require_placed(made, specs)
    except PlacementError:
        return True
    return False


def derived_computation(
    fun: Callable,
    placements: Mapping,
    name: str,
    tracer: Callable | None = None,
    unfactored: Callable | None = None,
    origin: Computation | None = None,
) -> Computation:
    """A computation whose placements are those of another one, or more."""
    defaults = MappingProxyType({} if origin is None else origin.defaults)
    places = MappingProxyType(dict(placements))
    return Computation(fun, places, name, tracer, unfactored, origin, defaults)
