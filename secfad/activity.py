"""Activity: which values depend on the inputs that are differentiated.

What does not depend on them needs no derivative, no tangent message and no Jacobian. Dependence is
followed per variable through steps and into loops and branches; values without a derivative
(integers, keys) are never active.
"""

from collections.abc import Iterable, Sequence

import jax.numpy as jnp
from jax import dtypes

from secfad._jax import Literal, Var, spec
from secfad.blocks import Atom, Block, Branch, Loop, Step, While


def is_differentiable(atom: Atom) -> bool:
    """True for floating-point and complex values."""
    return dtypes.issubdtype(spec(atom.aval).dtype, jnp.inexact)


def active_variables(block: Block, active_inputs: Sequence[bool]) -> set[Var]:
    """All active variables of a block; those of nested blocks are not included."""
    active = {v for v, is_active in zip(block.inputs, active_inputs) if is_active}
    active = {v for v in active if is_differentiable(v)}
    for step in block.steps:
        flags = active_outputs(step, [_is_in(v, active) for v in step.inputs])
        active |= {v for v, f in zip(step.outputs, flags) if f and is_differentiable(v)}
    return active


def active_outputs(step: Step, flags: Sequence[bool]) -> list[bool]:
    """Which outputs of a step are active, given its active inputs."""
    match step:
        case Loop():
            return _loop(step, flags)
        case While():
            start = step.predicate_constants + step.body_constants
            head = list(flags[step.predicate_constants : start])
            return _carried(step.body, head, list(flags[start:]), [])[0]
        case Branch():
            rows = [_results(branch, flags[1:]) for branch in step.branches]
            return [any(column) for column in zip(*rows)]
    if hasattr(step, "equation"):
        return [any(flags)] * len(step.outputs)
    # A message moves each of its operands by itself.
    return list(flags)


def loop_carries(step: Loop, flags: Sequence[bool]) -> list[bool]:
    """Which carries of a loop are active in some iteration."""
    split = step.constants + step.carries
    head, carries, tail = flags[: step.constants], flags[step.constants : split], flags[split:]
    return _carried(step.body, list(head), list(carries), list(tail))[0]


def _loop(step: Loop, flags: Sequence[bool]) -> list[bool]:
    carries = loop_carries(step, flags)
    split = step.constants + step.carries
    results = _results(step.body, [*flags[: step.constants], *carries, *flags[split:]])
    return [*carries, *results[step.carries :]]


def _carried(
    body: Block, head: list[bool], carries: list[bool], tail: list[bool]
) -> tuple[list[bool], list[bool]]:
    while True:
        results = _results(body, [*head, *carries, *tail])
        joined = [a or b for a, b in zip(carries, results)]
        if joined == carries:
            return carries, results
        carries = joined


def _results(block: Block, flags: Iterable[bool]) -> list[bool]:
    active = active_variables(block, list(flags))
    return [_is_in(v, active) for v in block.results]


def _is_in(atom: Atom, active: set[Var]) -> bool:
    return not isinstance(atom, Literal) and atom in active
