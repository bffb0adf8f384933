"""Replaying: the derivative of a server's choice, by taking the same branch once more.

JAX's reverse mode keeps what each branch computed, in slots that branches share by shape: a slot may
hold a server value after one branch, a client value after another, or a constant that both sides
know, and nobody could say whose it is. Here a choice keeps what the sums of the taken branch gave,
its *tape*, and its derivative computes everything else again, in the same branch, each value where it
was computed before. No sum is repeated; what was broadcast is broadcast again, beside the cotangents.
So all that a choice keeps is the server's, clients keep no more than what entered it, and the
derivative is again a choice between communicating branches, of which there are derivatives too.

Source: docs/semantics.md, "Derivatives".
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from secfad import _jax
from secfad._jax import ClosedJaxpr, Var
from secfad._jax_interpreters import dce
from secfad.errors import ModeError
from secfad.jaxprs import equations
from secfad.jaxprs.activity import active_variables, loop_carries
from secfad.jaxprs.dependence import dependent_results
from secfad.jaxprs.equations import OWN_DERIVATIVE
from secfad.jaxprs.interpreting import Interpreter, read
from secfad.placements import CLIENTS
from secfad.primitives import AGAIN, broadcast_p, sum_p
from secfad.programs.blocks import (
    Block,
    Branch,
    Broadcast,
    Local,
    Loop,
    Step,
    Sum,
    While,
    communicates,
    inner_blocks,
)
from secfad.programs.normalization import opened
from secfad.programs.retention import received_results

_jax.hide_file_from_tracebacks(__file__)

# What the sums of a block gave, step by step; None while it is being noted.
Tape = Any


def talks(step: Step) -> bool:
    """True if a step has blocks inside that communicate."""
    return any(communicates(b) for b in inner_blocks(step))


def body_flags(step: Step, inside: Sequence[bool]) -> list[int]:
    """Which inputs of the body of a step are active."""
    match step:
        case Loop():
            split = step.constants + step.carries
            carries = loop_carries(step, inside)
            return [*inside[: step.constants], *carries, *inside[split:]]
        case Branch():
            return list(inside[1:])
    return list(inside)


def choice(branches: Sequence[Block], flags: Sequence[int]) -> Callable:
    """`jax.lax.switch` over blocks, with a reverse derivative that takes the branch once more.

    Args:
      branches: The blocks.
      flags: Which operands are active.

    Returns:
      A function of the index, the tapes of the branches (None to take a branch for the first time)
      and the operands.
    """

    @jax.custom_vjp
    def choose(index: Any, tapes: Tape, operands: list) -> list:
        return _taken(branches, index, tapes, operands)[0]

    def forward(index: Any, tapes: Tape, operands: list) -> tuple:
        index, tapes, operands = jax.tree.map(lambda x: x.value, (index, tapes, operands))
        out, noted = _taken(branches, index, tapes, operands)
        return out, (index, noted if tapes is None else tapes, operands)

    def backward(saved: tuple, cotangents: list) -> tuple:
        index, tapes, operands = saved
        live = [not isinstance(c, SymbolicZero) for c in cotangents]
        given = [c for c, is_live in zip(cotangents, live) if is_live]
        arguments = tapes, operands, given
        pulls = [_pull(block, flags, live, i, arguments) for i, block in enumerate(branches)]
        # A zero that every branch would make for itself is nobody's value.
        moved = [any(column) for column in zip(*(_moved(pull, len(given)) for pull in pulls))]
        runs = [_with_results(pull, moved) for pull in pulls]
        pulled = iter(jax.lax.switch(index, runs, *jax.tree.leaves(arguments)))
        places = iter(moved)
        return None, None, [next(pulled) if f and next(places) else None for f in flags]

    choose.defvjp(forward, backward, symbolic_zeros=True)
    return lambda *args: [_discrete(value) for value in choose(*args)]


def _discrete(value: Any) -> Any:
    """The value; an integer without the tangent that JAX gives it behind a custom rule."""
    if not jnp.issubdtype(value.dtype, jnp.integer) and value.dtype != bool:
        return value
    return jax.lax.bitwise_or(value, jnp.zeros_like(value))


def _taken(
    branches: Sequence[Block], index: Any, tapes: Tape, operands: list
) -> tuple[list[Any], Tape]:
    """The results of the chosen branch, and one tape per branch: zeros for those not taken."""
    inactive = [False] * len(operands)
    silent = _silent(branches)

    def run(number: int, tapes: Tape, operands: list) -> tuple[list[Any], Tape]:
        tape = None if tapes is None else tapes[number]
        return _taped(branches[number], inactive, operands, tape)

    def take(number: int, tapes: Tape, operands: list) -> tuple[list[Any], list[Tape]]:
        out, noted = run(number, tapes, operands)
        out = [_told(index, value) if s else value for value, s in zip(out, silent)]
        return out, [*empty[:number], noted, *empty[number + 1 :]]

    numbers = range(len(branches))
    shapes = [jax.eval_shape(functools.partial(run, i), tapes, operands)[1] for i in numbers]
    empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.switch(index, [functools.partial(take, i) for i in numbers], tapes, operands)


def _silent(branches: Sequence[Block]) -> list[bool]:
    """Which results clients hold without having been sent anything in any branch."""
    rows = [
        [(block.placement(v) is CLIENTS, heard) for v, heard in zip(block.results, found)]
        for block in branches
        for found in [received_results(block, [False] * len(block.inputs))]
    ]
    return [any(at for at, _ in c) and not any(heard for _, heard in c) for c in zip(*rows)]


def _told(index: Any, value: Any) -> Any:
    """The value, at clients who are told which branch was taken and may be told nothing else."""
    (told,) = broadcast_p.bind(index, name="choice")
    return jax.lax.select(jnp.broadcast_to(told == told, jnp.shape(value)), value, value)


def _pull(
    block: Block, flags: Sequence[int], live: Sequence[bool], number: int, arguments: tuple
) -> ClosedJaxpr:
    """The cotangents of a branch's active operands, from those of its live results.

    Args:
      block: The branch.
      flags: Which operands are active.
      live: Which results have a cotangent.
      number: The branch's.
      arguments: Tapes of all branches, operands, cotangents: what the program is a function of.
    """

    def pull(tapes: Tape, operands: list, given: list) -> tuple:
        def replay(*moving: Any) -> list[Any]:
            rest = iter(moving)
            full = [next(rest) if active else value for active, value in zip(flags, operands)]
            out = _taped(block, flags, full, tapes[number])[0]
            return [value for value, is_live in zip(out, live) if is_live]

        return jax.vjp(replay, *(v for v, active in zip(operands, flags) if active))[1](given)

    specs = jax.tree.map(lambda x: _jax.spec(jax.typeof(x)), arguments)
    # A rule that is left is of something that no active operand moves: its body is right.
    return opened(_jax.make_jaxpr(pull, specs)[0])


def _moved(pull: ClosedJaxpr, count: int) -> list[bool]:
    """Which results depend on the last `count` inputs; in these a pull is linear."""
    others = len(pull.jaxpr.invars) - count
    given = [i >= others for i in range(len(pull.jaxpr.invars))]
    return [bool(m) for m in dependent_results(pull.jaxpr, given)]


def _with_results(pull: ClosedJaxpr, wanted: Sequence[bool]) -> Callable:
    """The program as a function, with some of its results."""
    live = dce(pull.jaxpr, wanted)
    return functools.partial(_jax.eval_jaxpr, live, pull.consts)


def _taped(
    block: Block, flags: Sequence[int], values: Sequence[Any], tape: Tape
) -> tuple[list[Any], Tape]:
    """Results of a block and what its sums gave; the latter is read from `tape` if there is one."""
    env: dict[Var, Any] = dict(block.constants)
    env.update(zip(block.inputs, values))
    active = active_variables(block, flags)
    given, noted = iter(tape or ()), []
    for step in block.steps:
        if not (isinstance(step, Sum) or talks(step)):
            if tape is not None:
                _require_no_rule(step)
                step = _told_again(step)
            Interpreter().step(step, block, env)
            continue
        inside = [isinstance(v, Var) and v in active for v in step.inputs]
        operands = [read(env, v) for v in step.inputs]
        results, note = _STEPS[type(step)](
            step, inside, operands, None if tape is None else next(given)
        )
        noted.append(note)
        env.update(zip(step.outputs, results))
    return [read(env, v) for v in block.results], noted if tape is None else []


def _told_again(step: Step) -> Step:
    """The step; a broadcast under a name that says that clients have had it."""
    if not isinstance(step, Broadcast) or step.name.endswith(AGAIN):
        return step
    return dataclasses.replace(step, name=step.name + AGAIN)


def _require_no_rule(step: Step) -> None:
    """Refuses a call with a derivative of its own, which would communicate again in every replay."""
    if not isinstance(step, Local) or step.equation.primitive not in OWN_DERIVATIVE:
        return
    if equations.communicates(step.equation):
        raise ModeError(
            "Reverse mode expected branches without custom derivative rules and linear solvers around "
            f"communication, got `{step.equation.primitive.name}` ({_jax.user_line(step.equation)}). "
            "Use mode='forward'."
        )


def _sum(step: Sum, inside: Sequence[bool], values: Sequence[Any], tape: Tape) -> tuple:
    def add(*operands: Any) -> list[Any]:
        with _jax.at_line(step.equation):
            return sum_p.bind(*operands, name=step.name)

    results = add(*values) if tape is None else _known(add, inside, values, tape)
    return results, results


def _while(step: While, inside: Sequence[bool], values: Sequence[Any], tape: Tape) -> tuple:
    def repeat(*operands: Any) -> list[Any]:
        return Interpreter().while_loop(step, operands)

    results = repeat(*values) if tape is None else _known(repeat, inside, values, tape)
    return results, results


def _loop(step: Loop, inside: Sequence[bool], values: Sequence[Any], tape: Tape) -> tuple:
    split, flags = step.constants + step.carries, body_flags(step, inside)

    def body(carry: list, slices: tuple) -> tuple:
        own, row = slices
        inputs = [*values[: step.constants], *carry, *own]
        out, noted = _taped(step.body, flags, inputs, row)
        return out[: step.carries], (out[step.carries :], noted)

    carry, (collected, noted) = jax.lax.scan(
        body,
        list(values[step.constants : split]),
        (list(values[split:]), tape),
        length=step.length,
        reverse=step.reverse,
    )
    return [*carry, *collected], noted


def _branch(step: Branch, inside: Sequence[bool], values: Sequence[Any], tape: Tape) -> tuple:
    flags, operands = body_flags(step, inside), list(values[1:])
    if tape is not None and any(flags):
        return choice(step.branches, flags)(values[0], tape, operands), None
    return _taken(step.branches, values[0], tape, operands)


_STEPS: dict[type, Callable] = {Sum: _sum, While: _while, Loop: _loop, Branch: _branch}


def _known(
    fun: Callable, inside: Sequence[bool], values: Sequence[Any], results: Sequence[Any]
) -> list[Any]:
    """What a communicating function gave before, with its derivative."""
    if not any(inside):
        return list(results)

    @jax.custom_jvp
    def known(results: list, operands: list) -> tuple:
        # Nobody reads the second part, which says what the rule is the derivative of.
        return results, fun(*operands)

    def rule(primals: tuple, tangents: tuple) -> tuple:
        results, operands = primals
        live = [not isinstance(t, SymbolicZero) for t in tangents[1]]

        def of_live(*moving: Any) -> list[Any]:
            rest = iter(moving)
            return fun(*(next(rest) if is_live else v for v, is_live in zip(operands, live)))

        moving = tuple(v for v, is_live in zip(operands, live) if is_live)
        moved = tuple(t for t, is_live in zip(tangents[1], live) if is_live)
        again, tangent = jax.jvp(of_live, moving, moved)
        return (results, again), (tangent, tangent)

    known.defjvp(rule, symbolic_zeros=True)
    return known(list(results), list(values))[0]
