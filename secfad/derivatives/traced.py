"""The computations that differentiation makes: derivatives, and programs that are traced once.

What a mode does depends on the program: whether the server chooses between branches, whether one contact
is enough, whether results stay at the clients. So the user's function is traced once, the program is
looked at, and JAX differentiates the program in place of the function. A program keeps the derivative
rules of the function (`custom_jvp`, `custom_vjp`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from secfad import _jax
from secfad.computations import Computation
from secfad.jaxprs.repeats import with_shared_operations
from secfad.programs.explanations import untraceable
from secfad.programs.programs import Program
from secfad.programs.tracing import trace_flat

Tracer = Callable[[tuple], tuple[_jax.ClosedJaxpr, Any]]


def specs_of(args: Sequence[Any]) -> tuple:
    """Shapes and dtypes of arguments in a trace."""
    return tuple(jax.tree.map(lambda x: _jax.spec(jax.typeof(x)), arg) for arg in args)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Derivative(Computation):
    """A derivative of a computation.

    Attributes:
      tracer: Gives the program and the tree of its results at arguments of given shapes; cheaper than
        to call `fun` in a trace.
      unfactored: Makes the same computation without anything that only saves messages.
    """

    tracer: Tracer
    unfactored: Callable[[], Computation] | None = None

    def trace_at(self, specs: tuple) -> tuple[_jax.ClosedJaxpr, Any]:
        """The program and the tree of its results."""
        return self.tracer(specs)

    @property
    def fused(self) -> Computation:
        """The computation to simulate as one program, in which no message is formed."""
        return self.unfactored() if self.unfactored else self


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Traced(Computation):
    """A computation at arguments of known shapes, whose function evaluates the traced program.

    Attributes:
      specs: Shapes of the arguments.
      source: The program as traced.
      out_tree: Structure of its results.
      is_derivative: Whether it is a derivative of another computation.
    """

    specs: tuple
    source: _jax.ClosedJaxpr
    out_tree: Any
    is_derivative: bool = False

    def trace_at(self, specs: tuple) -> tuple[_jax.ClosedJaxpr, Any]:
        """The program and the tree of its results."""
        del specs
        return self.source, self.out_tree

    @functools.cached_property
    def program(self) -> Program:
        """What the modes look at; raises PlacementError if the program is badly placed."""
        return trace_flat(self, self.specs)


def traced_once(computation: Computation, specs: tuple) -> Traced:
    """Traces a computation; JAX may differentiate the result.

    Raises:
      TracingError: The function cannot be traced with these shapes.
    """
    if isinstance(computation, Traced):
        return computation
    with untraceable(computation.name, dict(zip(computation.placements, specs))):
        source, tree = computation.traced(specs)
    return _traced(computation, specs, source, tree, isinstance(computation, Derivative))


def retraced(known: Traced, fun: Callable) -> Traced:
    """The computation with another function, such as one that evaluates its program differently."""
    return _traced(known, known.specs, *_jax.make_jaxpr(fun, known.specs), known.is_derivative)


def _traced(
    computation: Computation,
    specs: tuple,
    source: _jax.ClosedJaxpr,
    tree: Any,
    is_derivative: bool,
) -> Traced:
    shared = functools.cache(lambda: with_shared_operations(source))
    return Traced(
        lambda *args: evaluated(shared(), tree, args),
        computation.placements,
        computation.name,
        computation.defaults,
        specs=specs,
        source=source,
        out_tree=tree,
        is_derivative=is_derivative,
    )


def evaluated(closed: _jax.ClosedJaxpr, tree: Any, args: Sequence[Any]) -> Any:
    """The results of a program, with the tree that they have."""
    leaves = jax.tree.leaves(args)
    return jax.tree.unflatten(tree, _jax.eval_jaxpr(closed.jaxpr, closed.consts, *leaves))
