"""Activity: which values depend on the inputs that are differentiated.

What does not depend on them needs no derivative, no tangent message and no Jacobian. Dependence is
followed per variable through steps, into loops, branches and calls, and a message moves each of its
operands by itself; values without a derivative (integers, keys) are never active. How messages are
grouped therefore changes nothing.

Active values are marked by the bits of a whole number (`secfad.jaxprs.dependence`): one bit where only
activity matters, one per source where it matters what a value depends on.
"""

from collections.abc import Sequence

from secfad._jax import Literal, Var
from secfad.jaxprs.dependence import carried, dependent_outputs, is_differentiable, union
from secfad.programs.blocks import Atom, Block, Branch, Broadcast, Local, Loop, Step, Sum, While

__all__ = ["active_outputs", "active_variables", "is_differentiable", "loop_carries"]


def active_variables(block: Block, active_inputs: Sequence[int]) -> dict[Var, int]:
    """All active variables of a block and their marks; those of nested blocks are not included."""
    active = {v: m for v, m in zip(block.inputs, active_inputs) if m and is_differentiable(v)}
    for step in block.steps:
        found = active_outputs(step, [_mark(v, active) for v in step.inputs])
        active.update((v, m) for v, m in zip(step.outputs, found) if m and is_differentiable(v))
    return active


def active_outputs(step: Step, marks: Sequence[int]) -> list[int]:
    """Which outputs of a step are active, given its active inputs."""
    if not any(marks):
        return [False] * len(step.outputs)
    match step:
        case Loop():
            carries = loop_carries(step, marks)
            split = step.constants + step.carries
            results = _results(step.body, [*marks[: step.constants], *carries, *marks[split:]])
            return [*carries, *results[step.carries :]]
        case While():
            start = step.predicate_constants + step.body_constants
            head = marks[step.predicate_constants : start]
            return carried(lambda c: _results(step.body, [*head, *c]), marks[start:])
        case Branch():
            rows = [_results(branch, marks[1:]) for branch in step.branches]
            return [union(column) for column in zip(*rows)]
        case Local():
            return dependent_outputs(step.equation, marks, derivative=True)
        case Broadcast() | Sum():
            return list(marks)


def loop_carries(step: Loop, marks: Sequence[int]) -> list[int]:
    """Which carries of a loop are active in some iteration."""
    split = step.constants + step.carries
    head, tail = marks[: step.constants], marks[split:]
    return carried(
        lambda carries: _results(step.body, [*head, *carries, *tail]), marks[step.constants : split]
    )


def _results(block: Block, marks: Sequence[int]) -> list[int]:
    active = active_variables(block, marks)
    return [_mark(v, active) for v in block.results]


def _mark(atom: Atom, active: dict[Var, int]) -> int:
    return False if isinstance(atom, Literal) else active.get(atom, False)
