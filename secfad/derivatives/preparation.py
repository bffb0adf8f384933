"""What JAX differentiates in each mode, in place of the computation itself.

Forward mode takes the function as it is, the other modes one in which the server does not choose
between branches that communicate (`secfad.derivatives.choices`); in mixed and blockwise mode its
sums bring Jacobians (`secfad.derivatives.mixed`). A program that is badly placed, or that a mode
has no derivative of, is refused here.

Source: Rush, Charles, Garrett (JMLR 2024), sections 3.1-3.3.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax

from secfad import _jax
from secfad.computations import Computation
from secfad.derivatives.blockwise import sum_by_size
from secfad.derivatives.choices import with_selected_branches
from secfad.derivatives.mixed import surrogate
from secfad.derivatives.requirements import require_server_results, separated
from secfad.programs.tracing import require_placed

_jax.hide_file_from_tracebacks(__file__)


def specs_of(args: Sequence[Any]) -> tuple:
    """Shapes and dtypes of arguments in a trace."""
    return tuple(jax.tree.map(lambda x: _jax.spec(jax.typeof(x)), arg) for arg in args)


def value_alone(computation: Computation) -> Computation:
    """A computation of `(value, aux)` without its `aux`; made once."""

    def fun(*args: Any) -> Any:
        return separated(computation.name, computation.fun(*args))[0]

    if "value" not in computation.made:
        made = derived_computation(fun, computation.placements, computation.name)
        computation.made["value"] = made
    return computation.made["value"]


def differentiable(
    computation: Computation, chosen: Sequence[int], mode: str, specs: tuple, has_aux: bool = False
) -> tuple[Callable, bool]:
    """The function that JAX differentiates in a mode, and whether to factor scalars out afterwards.

    Refuses a program that is badly placed. What it costs to go back depends on the value alone.
    """
    if mode == "forward" and computation.tracer is not None:
        # A derivative requires as much of what it derives from, and is then well placed itself.
        return computation.fun, False
    # Without this, a forgotten broadcast would make each client's own partial derivative of what
    # looks like a derivative at the server.
    if require_placed(computation, specs).branches:
        fun = with_selected_branches(computation, specs, mode)
        computation = derived_computation(fun, computation.placements, computation.name)
    if mode == "forward":
        return computation.fun, False
    if mode == "mixed":
        return surrogate(computation, specs, chosen, has_aux=has_aux), False
    if mode == "blockwise":
        return surrogate(computation, specs, chosen, sum_by_size, has_aux), False
    shape = require_placed(value_alone(computation) if has_aux else computation, specs)
    require_server_results(computation, shape, mode)
    return computation.fun, mode == "factored" or (mode == "reverse" and shape.one_contact)


def derived_computation(
    fun: Callable,
    placements: Mapping,
    name: str,
    tracer: Callable | None = None,
    unfactored: Callable | None = None,
    defaults: Mapping | None = None,
) -> Computation:
    """A computation whose placements are those of another one, or more."""
    places = MappingProxyType(dict(placements))
    return Computation(
        fun, places, name, tracer, unfactored, MappingProxyType(dict(defaults or {}))
    )
