"""The computations that differentiation makes: derivatives, and programs that are traced once.

What a mode does depends on the program: whether the server chooses between branches, whether one contact
is enough, whether results stay at the clients. So the user's function is traced once, the program is
looked at, and JAX differentiates the program in place of the function. A program keeps the derivative
rules of the function (`custom_jvp`, `custom_vjp`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax

from secfad import _jax
from secfad.computations import Computation
from secfad.jaxprs.repeats import with_shared_operations
from secfad.placements import CLIENTS
from secfad.programs.explanations import untraceable
from secfad.programs.scheduling import one_contact
from secfad.programs.tracing import trace_flat

Tracer = Callable[[tuple], tuple[_jax.ClosedJaxpr, Any]]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Derivative(Computation):
    """A derivative of a computation.

    Attributes:
      tracer: Gives the program and the tree of its results at arguments of given shapes, where
        that is cheaper than to call `fun` in a trace.
      unfactored: Makes the same computation without anything that only saves messages.
    """

    tracer: Tracer | None = None
    unfactored: Callable[[], Computation] | None = None

    def trace_at(self, specs: tuple) -> tuple[_jax.ClosedJaxpr, Any]:
        """The program and the tree of its results."""
        return self.tracer(specs) if self.tracer else super().trace_at(specs)

    @property
    def fused(self) -> Computation:
        """The computation to simulate as one program, in which no message is formed."""
        return self.unfactored() if self.unfactored else self


@dataclasses.dataclass(frozen=True)
class Traits:
    """What the modes need to know of a program.

    Attributes:
      one_contact: Server and clients exchange one message each way, outside of any loop.
      branches: The server chooses between branches that communicate, or mix places.
      client_results: Some result is a client value.
    """

    one_contact: bool
    branches: bool
    client_results: bool


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Traced(Computation):
    """A computation at arguments of known shapes, whose function evaluates the traced program.

    Attributes:
      specs: Shapes of the arguments.
      source: The program as traced.
      out_tree: Structure of its results.
      is_derivative: Whether it is the gradient or the Jacobian of another computation.
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
    def traits(self) -> Traits:
        """What the modes need to know; raises PlacementError if the program is badly placed."""
        program = trace_flat(self, self.specs)
        return Traits(
            one_contact(program.placed),
            program.placed.has_branches(),
            CLIENTS in program.out_placements,
        )


def traced_once(computation: Computation, specs: tuple) -> Traced:
    """Traces a computation; JAX may differentiate the result.

    Raises:
      TracingError: The function cannot be traced with these shapes.
    """
    if isinstance(computation, Traced):
        return computation
    with untraceable(computation.name, dict(zip(computation.placements, specs))):
        source, tree = computation.traced(specs)
    is_derivative = isinstance(computation, Derivative) and computation.tracer is not None
    return _evaluated(computation, specs, source, tree, is_derivative)


def retraced(known: Traced, fun: Callable) -> Traced:
    """The computation with another function, such as one that evaluates its program differently."""
    return _evaluated(known, known.specs, *_jax.make_jaxpr(fun, known.specs), known.is_derivative)


def _evaluated(
    computation: Computation,
    specs: tuple,
    source: _jax.ClosedJaxpr,
    tree: Any,
    is_derivative: bool,
) -> Traced:
    shared = functools.cache(lambda: with_shared_operations(source))

    def fun(*args: Any) -> Any:
        closed, leaves = shared(), jax.tree.leaves(args)
        return jax.tree.unflatten(tree, _jax.eval_jaxpr(closed.jaxpr, closed.consts, *leaves))

    return Traced(
        fun,
        computation.placements,
        computation.name,
        computation.defaults,
        specs=specs,
        source=source,
        out_tree=tree,
        is_derivative=is_derivative,
    )


def derivative_of(
    fun: Callable,
    placements: Mapping,
    name: str,
    tracer: Tracer | None = None,
    unfactored: Callable[[], Computation] | None = None,
    defaults: Mapping | None = None,
) -> Derivative:
    """A derivative with the placements of what it is a derivative of, or more."""
    places, values = MappingProxyType(dict(placements)), MappingProxyType(dict(defaults or {}))
    return Derivative(fun, places, name, values, tracer=tracer, unfactored=unfactored)
