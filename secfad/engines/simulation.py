"""`simulate`: runs a computation as one fused program, for speed.

`jax.vmap` over the clients with a batching rule for the two primitives: `sum` reduces the mapped
axis, `broadcast` is the identity. Server code is not batched, XLA sees one program, and the result
can be compiled, differentiated and mapped like any JAX function. No message is formed and nothing is
private: this is the honest non-private baseline.
"""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from secfad import _jax
from secfad.computations import Computation, require_computation
from secfad.engines.arguments import agreed_size, client_specs
from secfad.engines.chunked import stream
from secfad.engines.contractions import over_clients
from secfad.engines.sharding import Layout, require_no_types, require_shards
from secfad.errors import ArgumentError, CohortError
from secfad.jaxprs.slices import live
from secfad.placements import CLIENTS
from secfad.programs.cutting import schedule
from secfad.programs.programs import Program
from secfad.programs.tracing import trace_flat, with_rules

# Settings of JAX that enter a program when it is traced; each may be changed for a while.
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
)


def simulate(
    computation: Computation, *, chunk_size: int | None = None, mesh: Mesh | None = None
) -> Callable:
    """Makes a computation a JAX function of all clients' data.

    Guarantees:
      The value equals what `execute` computes message by message, up to rounding.

    Args:
      computation: What to run.
      chunk_size: How many clients are computed at a time; all of them by default. With it, memory
        for client work does not grow with the cohort, and it is the computation, not the simulation,
        that should be differentiated: a client's residuals would be kept for all of them. The last
        chunk may be smaller.
      mesh: Devices over which clients are sharded, along all axes of the mesh together. The number
        of clients, and a `chunk_size` below it, must be multiples of the number of devices. The
        devices may belong to several processes (`jax.distributed`): every process then makes the
        same call, with the same host arrays or with its part of global ones, and gets the server's
        results.

    Returns:
      A function of the computation's arguments, in which client arguments, and client-placed
      results, carry a leading axis of clients. Compiled per shapes, differentiable, mappable. It is
      made once per computation and options, so that a call in a loop compiles once; as under
      `jax.jit`, a later change of a Python variable that the computation reads is not seen.

    Raises:
      PlacementError: When called, if a value is used where it does not live.
      CohortError: When called, if client arguments disagree on the number of clients, or if these
        cannot be split evenly over the devices.
      ArgumentError: `chunk_size` is not a whole number; or, when called, arguments lie on a mesh with
        explicit axes that is not `mesh`, and a mesh or `chunk_size` is given.
      CohortError: `chunk_size` is below 1.
    """
    require_computation(computation)
    if chunk_size is not None:
        chunk_size = _checked_size(chunk_size)
    key = ("simulate", chunk_size, mesh)
    if key not in computation.made:
        computation.made[key] = _simulation(computation, chunk_size, mesh)
    return computation.made[key]


def _simulation(computation: Computation, chunk_size: int | None, mesh: Mesh | None) -> Callable:
    compiled: dict[Any, Callable] = {}
    traced = computation.fused if chunk_size is None else computation

    def run(*args: Any, **kwargs: Any) -> Any:
        bound = computation.bind(*args, **kwargs)
        specs, sizes = client_specs(computation, bound)
        clients = agreed_size(computation.name, sizes)
        if clients is None:
            raise CohortError(
                f"`{computation.name}` expected an argument placed at the clients, got none. "
                "Declare one with CLIENTS, so that the number of clients is known."
            )
        leaves, tree = jax.tree.flatten(specs)
        if mesh is not None:
            require_shards(clients, chunk_size, mesh)
        elif chunk_size is not None:
            require_no_types(jax.tree.leaves(bound), "Give the mesh: simulate(..., mesh=mesh).")
        streamed = clients if chunk_size else None
        settings = tuple(getattr(jax.config, name) for name in _SETTINGS)
        forms = tuple((leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves)
        key = (tree, streamed, forms, settings)
        if key in compiled:
            return compiled[key](*bound)
        program = trace_flat(traced, specs)
        if any(isinstance(c, _jax.Tracer) for c in program.source.consts):
            # The computation uses values of an outer trace: valid in this call only.
            return _whole(program, clients, chunk_size, mesh)(*bound)
        compiled[key] = _whole(program, clients, chunk_size, mesh, jax.jit)
        return compiled[key](*bound)

    run.__name__ = f"simulate_{computation.name}"
    run.__doc__ = computation.__doc__
    run.__signature__ = inspect.signature(computation)  # type: ignore[attr-defined]
    return run


def _checked_size(chunk_size: Any) -> int:
    try:
        size = operator.index(chunk_size)
    except TypeError as error:
        raise ArgumentError(
            f"Expected chunk_size to be a whole number, known before tracing, got {chunk_size!r}. "
            "Write simulate(computation, chunk_size=50)."
        ) from error
    if size < 1:
        raise CohortError(
            f"Expected chunk_size to be at least 1, got {size}. It is how many clients are computed at a "
            "time; leave it out to compute all of them at once."
        )
    return size


def _whole(
    program: Program,
    clients: int,
    chunk_size: int | None,
    mesh: Mesh | None,
    compiled: Callable[[Callable], Callable] = lambda fun: fun,
) -> Callable[..., Any]:
    """The program as a function of its arguments, fused or streamed, sharded or not."""
    layout = None if mesh is None else Layout(mesh)
    places = program.in_placements, program.out_placements

    if chunk_size is None:
        over_leaves = fused_leaves(program)
    else:
        over_leaves = stream(schedule(with_rules(program)), clients, chunk_size, layout)
    if layout is not None:
        over_leaves = layout.outside(compiled(layout.inside(over_leaves, *places)), *places)

    def whole(*args: Any) -> Any:
        return jax.tree.unflatten(program.out_tree, over_leaves(*jax.tree.leaves(args)))

    return compiled(whole) if layout is None else whole


def fused_leaves(program: Program) -> Callable[..., list[Any]]:
    """The program as a function of the leaves of its arguments, client values of all clients."""
    differing = [p is CLIENTS for p in program.in_placements]
    stacked = [p is CLIENTS for p in program.out_placements]
    return over_clients(live(program.source), differing, stacked)
