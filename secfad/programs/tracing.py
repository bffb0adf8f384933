"""`trace`: from a computation and what one client holds to a `Program`.

>>> import jax.numpy as jnp, secfad as fad
>>> @fad.computation(model=fad.SERVER, x=fad.CLIENTS)
... def total(model, x):
...     return fad.sum(fad.broadcast(model) * x)
>>> fad.trace(total, jnp.zeros(3), jnp.zeros(3)).rounds
1
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from secfad import _jax
from secfad.collecting import no_collection
from secfad.computations import Computation, require_computation
from secfad.errors import ArgumentError, ModeError
from secfad.jaxprs.constants import with_own_constants
from secfad.jaxprs.inside import every_equation
from secfad.placements import CLIENTS
from secfad.primitives import require_messages_stay_in_loops
from secfad.programs.explanations import untraceable
from secfad.programs.following import require_followed
from secfad.programs.inference import place
from secfad.programs.normalization import normalise
from secfad.programs.placed import Placed
from secfad.programs.programs import Program


def trace(computation: Computation, /, *specs: Any, **named: Any) -> Program:
    """Traces a computation, checks the placement of every value and puts it into normal form.

    Args:
      computation: What to trace.
      *specs: One per argument: a tree of arrays or `jax.ShapeDtypeStruct`, shaped as the server or
        *one* client holds it. There is no axis of clients. An argument that is left out has its default.
      **named: Specs by the names of their arguments.

    Returns:
      The program. It is independent of the number of clients.

    Raises:
      ArgumentError: The number of specs is wrong, or a leaf is not an array.
      PlacementError: A value is used where it does not live; names the user's line.
      ModeError: The computation takes a tangent through a `custom_vjp`.
      TracingError: The function cannot be traced with these shapes.
    """
    require_computation(computation)
    structs = tuple(
        jax.tree.map(lambda leaf, n=name: as_struct(leaf, n), spec)
        for name, spec in zip(computation.placements, computation.bind(*specs, **named))
    )
    return trace_flat(computation, structs)


@no_collection()
def trace_flat(computation: Computation, structs: tuple) -> Program:
    """`trace` for arguments that are known to be shapes."""
    require_messages_stay_in_loops()
    with untraceable(computation.name, dict(zip(computation.placements, structs))):
        source, out_tree = computation.traced(structs)
    in_tree = jax.tree.structure(structs)
    names = _arguments_of_leaves(computation.placements, in_tree)
    placements = [computation.placements[name] for name in names]
    normal = with_own_constants(normalise(source, erase_rules=True))
    _require_derivatives(computation.name, normal.jaxpr)
    placed = place(normal, placements, [f"argument `{name}`" for name in names])
    require_followed(source, [p is CLIENTS for p in placements])
    return Program(
        name=computation.name,
        source=source,
        placed=placed,
        argument_names=tuple(computation.placements),
        defaults=computation.defaults,
        in_tree=in_tree,
        out_tree=out_tree,
        in_placements=tuple(placements),
        out_placements=tuple(map(placed.placement, placed.results)),
    )


def with_rules(program: Program, **options: bool) -> Placed:
    """What engines run, with the derivative rules of client and server code.

    Args:
      program: A traced program.
      **options: Of `normalise`.
    """
    normal = normalise(program.source, erase_rules=False, **options)
    names = _arguments_of_leaves(program.argument_names, program.in_tree)
    origins = [f"argument `{name}`" for name in names]
    return place(normal, program.in_placements, origins, keep_rules=True)


def _arguments_of_leaves(names: Iterable[str], in_tree: Any) -> list[str]:
    """The name of the argument that each leaf belongs to."""
    return [name for name, tree in zip(names, in_tree.children()) for _ in range(tree.num_leaves)]


def _require_derivatives(name: str, jaxpr: _jax.Jaxpr) -> None:
    """Raises ModeError for a tangent of a `custom_vjp`: JAX traces it, but it can never be run."""
    for equation, _ in every_equation(jaxpr):
        if equation.primitive.name == "custom_lin":
            raise ModeError(
                f"{_jax.user_line(equation)}: `{name}` takes a tangent through a custom_vjp, which has no "
                "forward derivative. Use secfad.grad or secfad.vjp with mode='reverse', or give the "
                "function a custom_jvp."
            )


def as_struct(leaf: Any, name: str) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a leaf of an argument."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return _jax.spec(leaf)
    if isinstance(leaf, jax.Ref):
        raise ArgumentError(
            f"Expected arrays in argument `{name}`, got a mutable reference (jax.new_ref). Pass what it "
            "holds now: ref[...]."
        )
    try:
        dtype = canonical_dtype(leaf)
        if isinstance(leaf, str | type):  # The name of a dtype, or a dtype, is no array.
            raise TypeError
        # A Python number takes the dtype of what it meets, as under `jax.jit`.
        weak = getattr(jax.typeof(leaf), "weak_type", False)
        return jax.ShapeDtypeStruct(jnp.shape(leaf), dtype, weak_type=weak)
    except TypeError as error:
        raise ArgumentError(
            f"Expected arrays in argument `{name}`, got a {type(leaf).__name__}. "
            "Text and objects cannot cross; encode them as numbers."
        ) from error


def canonical_dtype(leaf: Any) -> Any:
    """The dtype that JAX gives a leaf: double precision only where it is enabled; keys as they are."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return dtype
    return jax.dtypes.canonicalize_dtype(jnp.result_type(leaf))
