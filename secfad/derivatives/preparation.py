"""What JAX differentiates in each mode, in place of the computation itself.

Forward mode takes the function as it is, the other modes one in which the server does not choose
between branches that communicate (`secfad.derivatives.choices`); in mixed and blockwise mode its
sums bring Jacobians (`secfad.derivatives.mixed`). A program that is badly placed, or that a mode
has no derivative of, is refused here.

Source: Rush, Charles, Garrett (JMLR 2024), sections 3.1-3.3.
"""

from collections.abc import Callable, Sequence

from secfad.derivatives.choices import with_selected_branches
from secfad.derivatives.jacobians import sum_by_size
from secfad.derivatives.mixed import surrogate
from secfad.derivatives.requirements import require_server_results, separated
from secfad.derivatives.traced import Traced, retraced
from secfad.programs.scheduling import one_contact


def differentiable(
    known: Traced, chosen: Sequence[int], mode: str, has_aux: bool = False
) -> tuple[Callable, bool]:
    """The function that JAX differentiates in a mode, and whether to factor scalars out afterwards.

    Refuses a program that is badly placed. What it costs to go back depends on the value alone.
    """
    if mode == "forward" and known.is_derivative:
        # A derivative requires as much of what it derives from, and is then well placed itself.
        return known.fun, False
    # Without this, a forgotten broadcast would make each client's own partial derivative of what
    # looks like a derivative at the server.
    if known.program.placed.has_branches():
        known = retraced(known, with_selected_branches(known.program, mode))
    if mode == "forward":
        return known.fun, False
    if mode == "mixed":
        return surrogate(known.program, chosen, has_aux=has_aux), False
    if mode == "blockwise":
        return surrogate(known.program, chosen, sum_by_size, has_aux), False
    program = (_value_alone(known) if has_aux else known).program
    require_server_results(program, mode)
    return known.fun, mode == "factored" or (mode == "reverse" and one_contact(program.placed))


def _value_alone(known: Traced) -> Traced:
    """A computation of `(value, aux)` without its `aux`."""
    return retraced(known, lambda *args: separated(known.name, known.fun(*args))[0])
