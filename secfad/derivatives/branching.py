"""Branching: derivatives of a program in which the server chooses between communicating branches.

In reverse mode every choice that is differentiated gets the derivative of
`secfad.derivatives.replaying` in place of JAX's, and every choice in a loop is bound to its
iteration (`secfad.programs.turns`). What a derivative starts from, tangents or cotangents, are
constants, such as the rows of an identity matrix; where clients receive one constant or another, as
the server chooses, it has to send them. The values stay the same.

Source: docs/semantics.md; what JAX's own derivative of a choice needs is in `secfad.programs.residuals`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from secfad import _jax
from secfad._jax import Var
from secfad.computations import Computation
from secfad.derivatives.replaying import body_flags, choice, talks
from secfad.jaxprs.activity import active_variables
from secfad.jaxprs.interpreting import Interpreter
from secfad.programs.blocks import Block, Branch
from secfad.programs.inference import place
from secfad.programs.normalization import normalise
from secfad.programs.tracing import flat_placements
from secfad.programs.turns import with_turns

_jax.hide_file_from_tracebacks(__file__)


def with_replayed_branches(
    computation: Computation, specs: tuple, argnums: Sequence[int]
) -> Callable:
    """The computation as a function whose reverse derivative takes every choice once more.

    Args:
      computation: What will be differentiated.
      specs: Shapes of its arguments.
      argnums: The arguments that will be differentiated.
    """
    source, out_tree = computation.traced(specs)
    normal = normalise(source, erase_rules=False, replayed=True)
    placements, origins = flat_placements(computation, specs)
    block = place(with_turns(normal), placements, origins, keep_rules=True)
    active = [i in argnums for i, spec in enumerate(specs) for _ in jax.tree.leaves(spec)]

    def fun(*args: Any) -> Any:
        return jax.tree.unflatten(out_tree, _Choosing(active).run(block, jax.tree.leaves(args)))

    return fun


def with_held_derivatives(fun: Callable, argnums: Sequence[int]) -> Callable:
    """The function; the server holds tangents and cotangents of what it holds, even constants."""

    def held(*args: Any) -> Any:
        own = [jax.tree.map(_held, x) if i in argnums else x for i, x in enumerate(args)]
        return jax.tree.map(_held, fun(*own))

    return held


def _held(value: Any) -> Any:
    if not jnp.issubdtype(jax.typeof(value).dtype, jnp.inexact):
        return value
    value = jnp.asarray(value)
    # What is linear in the value is chosen by the value, between itself and itself.
    return jax.lax.select(value == value, value, value)


class _Choosing(Interpreter):
    """Evaluates blocks with their own derivative for every communicating choice that is active.

    A choice that is not differentiated stays JAX's, so that another mode can differentiate it later.
    """

    def __init__(self, active_inputs: Sequence[int]):
        self.flags = active_inputs

    def steps(self, block: Block, env: dict[Var, Any]) -> None:
        """Evaluates the steps of a block."""
        active = active_variables(block, self.flags)
        for step in block.steps:
            inside = [isinstance(v, Var) and v in active for v in step.inputs]
            inner = _Choosing(body_flags(step, inside)) if any(inside) else Interpreter()
            inner.step(step, block, env)

    def branch(self, step: Branch, values: Sequence[Any]) -> list[Any]:
        """Rebuilds a switch."""
        if not talks(step):
            return super().branch(step, values)
        return choice(step.branches, self.flags)(values[0], None, list(values[1:]))
