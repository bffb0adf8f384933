"""Branching: a server's choice between communicating branches, with a derivative of its own.

Reverse mode saves what each branch needs for its derivative. JAX lets branches share the slots in
which they save, by shape alone, so that a slot may hold a server value if the first branch was taken
and a client value if the second was: nobody could say whose it is. Here every branch saves in slots
of its own, beside the index that decided, and its derivative reads those. The values are the same.

Source: docs/semantics.md; what it avoids for programs that JAX differentiates by itself is in
`secfad.residuals`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from secfad import _jax
from secfad._jax import Var
from secfad.activity import active_variables, loop_carries
from secfad.blocks import Block, Branch, Loop, Step, communicates
from secfad.computations import Computation
from secfad.inference import place
from secfad.interpreting import Interpreter
from secfad.normalization import normalise
from secfad.tracing import flat_placements

_jax.hide_file_from_tracebacks(__file__)


def with_separate_residuals(
    computation: Computation, specs: tuple, argnums: Sequence[int]
) -> Callable:
    """The computation as a function whose reverse derivative keeps every branch's values apart.

    Args:
      computation: What will be differentiated.
      specs: Shapes of its arguments.
      argnums: The arguments that will be differentiated.
    """
    source, out_tree = computation.traced(specs)
    normal = normalise(source, erase_rules=False)
    placements, origins = flat_placements(computation, specs)
    block = place(normal, placements, origins, keep_rules=True)
    active = [i in argnums for i, spec in enumerate(specs) for _ in jax.tree.leaves(spec)]

    def fun(*args: Any) -> Any:
        return jax.tree.unflatten(out_tree, _Separate(active).run(block, jax.tree.leaves(args)))

    return fun


class _Separate(Interpreter):
    """Evaluates blocks with their own derivative for every communicating choice that is active.

    A choice that is not differentiated stays JAX's, so that another mode can differentiate it later.
    """

    def __init__(self, active_inputs: Sequence[bool]):
        self.flags = active_inputs

    def steps(self, block: Block, env: dict[Var, Any]) -> None:
        """Evaluates the steps of a block."""
        active = active_variables(block, self.flags)
        for step in block.steps:
            inside = [isinstance(v, Var) and v in active for v in step.inputs]
            _inner(step, inside).step(step, block, env)

    def branch(self, step: Branch, values: Sequence[Any]) -> list[Any]:
        """Rebuilds a switch."""
        if not any(self.flags) or not any(communicates(b) for b in step.branches):
            return super().branch(step, values)
        branches = [lambda *args, b=b: self.run(b, args) for b in step.branches]
        return _switch(branches)(*values)


def _inner(step: Step, inside: Sequence[bool]) -> Interpreter:
    """The interpreter of the bodies of a step with these active inputs."""
    match step:
        case Loop():
            split = step.constants + step.carries
            carries = loop_carries(step, inside)
            return _Separate([*inside[: step.constants], *carries, *inside[split:]])
        case Branch():
            return _Separate(inside[1:])
    return Interpreter()


@dataclasses.dataclass(frozen=True, eq=False)
class _How:
    """How to pull back through each branch: structures of the pull-backs, and what was active."""

    structures: tuple[Any, ...]
    active: tuple[int, ...]
    operands: int


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["index", "residuals"], meta_fields=["how"]
)
@dataclasses.dataclass(frozen=True)
class _Saved:
    """What the derivative needs: the index that decided and, for every branch, its residuals."""

    index: Any
    residuals: list[list[Any]]
    how: _How


def _switch(branches: Sequence[Callable]) -> Callable:
    """`jax.lax.switch` with a reverse derivative in which branches share no residuals."""

    @jax.custom_vjp
    def switch(index, *operands):
        return jax.lax.switch(index, branches, *operands)

    def forward(index, *operands):
        values = [operand.value for operand in operands]
        active = tuple(i for i, operand in enumerate(operands) if operand.perturbed)
        pulled = [_Pulled(branch, active) for branch in branches]
        shapes = [jax.eval_shape(branch, *values)[1] for branch in pulled]

        def saving(number: int) -> Callable:
            def run(*values):
                out, leaves = pulled[number](*values)
                rows = [[jnp.zeros(s.shape, s.dtype) for s in row] for row in shapes]
                return out, [*rows[:number], leaves, *rows[number + 1 :]]

            return run

        saves = [saving(number) for number in range(len(branches))]
        out, residuals = jax.lax.switch(index.value, saves, *values)
        how = _How(tuple(branch.structure for branch in pulled), active, len(operands))
        return out, _Saved(index.value, residuals, how)

    def backward(saved, cotangents):
        given = [
            jnp.zeros_like(_jax.spec(c.aval)) if isinstance(c, SymbolicZero) else c
            for c in cotangents
        ]
        pulls = [
            lambda residuals, given, i=i, structure=structure: jax.tree.unflatten(
                structure, residuals[i]
            )(given)
            for i, structure in enumerate(saved.how.structures)
        ]
        pulled = dict(
            zip(saved.how.active, jax.lax.switch(saved.index, pulls, saved.residuals, given))
        )
        return (None, *(pulled.get(i) for i in range(saved.how.operands)))

    switch.defvjp(forward, backward, symbolic_zeros=True)
    return switch


class _Pulled:
    """A branch that returns its results and the residuals of its pull-back."""

    def __init__(self, branch: Callable, active: Sequence[int]):
        self.branch = branch
        self.active = active
        self.structure: Any = None

    def __call__(self, *values: Any) -> tuple[Any, list[Any]]:
        def of_active(*moving):
            full = list(values)
            for i, value in zip(self.active, moving):
                full[i] = value
            return self.branch(*full)

        out, pull = jax.vjp(of_active, *(values[i] for i in self.active))
        residuals, self.structure = jax.tree.flatten(pull)
        return out, residuals
