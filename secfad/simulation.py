"""`simulate`: runs a computation as one fused program, for speed.

`jax.vmap` over the clients with a batching rule for the two primitives: `sum` reduces the mapped
axis, `broadcast` is the identity. Server code is not batched, XLA sees one program, and the result
can be compiled, differentiated and mapped like any JAX function. No message is formed and nothing is
private: this is the honest non-private baseline.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from secfad import _jax
from secfad.arguments import agreed_size, client_specs
from secfad.blocks import Block
from secfad.computations import Computation
from secfad.errors import CohortError
from secfad.inference import place
from secfad.interpreting import Interpreter
from secfad.normalization import normalise
from secfad.placements import CLIENTS
from secfad.programs import Program
from secfad.tracing import trace_flat

_jax.hide_file_from_tracebacks(__file__)


def simulate(computation: Computation) -> Callable:
    """Makes a computation a JAX function of all clients' data.

    Guarantees:
      The value equals what `execute` computes message by message, up to rounding.

    Args:
      computation: What to run.

    Returns:
      A function of the computation's arguments, in which client arguments, and client-placed
      results, carry a leading axis of clients. Compiled per shapes, differentiable, mappable.

    Raises:
      PlacementError: When called, if a value is used where it does not live.
      CohortError: When called, if client arguments disagree on the number of clients.
    """
    compiled: dict[Any, Callable] = {}

    def run(*args: Any, **kwargs: Any) -> Any:
        bound = computation.bind(*args, **kwargs)
        specs, sizes = client_specs(computation, bound)
        if agreed_size(computation.name, sizes) is None:
            raise CohortError(
                f"`{computation.name}` expected an argument placed at the clients, got none. "
                "Declare one with CLIENTS, so that the number of clients is known."
            )
        leaves, tree = jax.tree.flatten(specs)
        key = (tree, tuple((s.shape, s.dtype) for s in leaves), jax.config.jax_enable_x64)  # type: ignore[attr-defined]
        if key in compiled:
            return compiled[key](*bound)
        program = trace_flat(computation, specs)
        if any(isinstance(c, _jax.Tracer) for c in program.source.consts):
            # The computation uses values of an outer trace: valid in this call only.
            return fuse(program)(*bound)
        compiled[key] = jax.jit(fuse(program))
        return compiled[key](*bound)

    run.__name__ = f"simulate_{computation.name}"
    run.__doc__ = computation.__doc__
    return run


def fuse(program: Program) -> Callable:
    """The program as a function of all clients' data."""
    in_axes = [0 if p is CLIENTS else None for p in program.in_placements]
    out_axes = [0 if p is CLIENTS else None for p in program.out_placements]

    if program.block.rewritten:
        # The program as traced has branch residuals without a placement, so it has no axes either.
        normal = normalise(program.source, erase_rules=False)
        block = place(
            normal, program.in_placements, [""] * len(program.in_placements), keep_rules=True
        )
        one_client = functools.partial(_interpreted, block)
    else:

        def one_client(*leaves: Any) -> list[Any]:
            return _jax.eval_jaxpr(program.source.jaxpr, program.source.consts, *leaves)

    over_clients = jax.vmap(
        one_client, in_axes=in_axes, out_axes=out_axes, axis_name=_jax.client_axis
    )

    def fused(*args: Any) -> Any:
        leaves = jax.tree.leaves(args)
        return jax.tree.unflatten(program.out_tree, over_clients(*leaves))

    return fused


def _interpreted(block: Block, *leaves: Any) -> list[Any]:
    return Interpreter().run(block, leaves)
