"""Control flow over stacked values: rebuilt around what its bodies become for one client.

Whether a value that a loop carries is stacked follows from its body, so bodies are traced first to see
which of their results are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from secfad._jax import ClosedJaxpr, JaxprEqn
from secfad.interop.stacking import axis_of, bare, dressed, refused, stacked_at
from secfad.jaxprs.equations import REMAT, Call, Cond, Scan, Solve, View, While

Run = Callable[[ClosedJaxpr, Sequence[Any]], list[Any]]
Axes = list[int | None]


def _axes(run: Run, body: ClosedJaxpr, values: Sequence[Any], rest: Sequence[tuple] = ()) -> Axes:
    """The axes of clients of a body's results; `rest` are shapes and axes of further inputs."""
    found: Axes = []

    def probe(arrays: list[Any]) -> list[Any]:
        last = [dressed(x, axis) for x, (_, axis) in zip(arrays, rest)]
        results = run(body, [*values, *last])
        found[:] = map(axis_of, results)
        return [bare(x) for x in results]

    jax.eval_shape(probe, [shape for shape, _ in rest])
    return found


def _settled(
    equation: JaxprEqn, initial: Sequence[Any], results: Callable[[list[Any]], Axes]
) -> tuple[list[Any], Axes]:
    """What a loop carries at first, and which of it is stacked throughout.

    Equal rows, such as zeros, may become either: the body decides.
    """
    axes = [axis_of(x) for x in initial]
    while True:
        tried = [
            x if axis is None else dressed(stacked_at(x, axis, equation), axis)
            for x, axis in zip(initial, axes)
        ]
        grown = [new if axis is None else axis for axis, new in zip(axes, results(tried))]
        if grown == axes:
            return _coerced(equation, initial, axes), axes
        axes = grown


def _coerced(equation: JaxprEqn, values: Sequence[Any], axes: Axes) -> list[Any]:
    return [stacked_at(x, axis, equation) for x, axis in zip(values, axes)]


def _dressed(values: Sequence[Any], axes: Axes) -> list[Any]:
    return [dressed(x, axis) for x, axis in zip(values, axes)]


def _scan(run: Run, loop: Scan, values: list[Any]) -> list[Any]:
    consts, start, rows = loop.split(values)
    if any(axis_of(x) == 0 for x in rows):
        raise refused(loop.equation, "goes from client to client; each would see those before it")
    inside: Axes = [axis and axis - 1 for axis in map(axis_of, rows)]
    arrays = [bare(x) for x in rows]
    slices = [
        (jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x)), axis)
        for x, axis in zip(arrays, inside)
    ]
    made: Axes = []

    def results(carry: list[Any]) -> Axes:
        out, made[:] = loop.split_out(_axes(run, loop.body, [*consts, *carry], slices))
        return out

    carry, axes = _settled(loop.equation, start, results)

    def iteration(carry, row):
        given = [*consts, *_dressed(carry, axes), *_dressed(row, inside)]
        out, last = loop.split_out(run(loop.body, given))
        return _coerced(loop.equation, out, axes), [bare(x) for x in last]

    carry, collected = jax.lax.scan(iteration, carry, arrays, **loop.options)
    outside = [None if axis is None else axis + 1 for axis in made]
    return [*_dressed(carry, axes), *_dressed(collected, outside)]


def _while(run: Run, loop: While, values: list[Any]) -> list[Any]:
    head, consts, start = loop.split(values)
    carry, axes = _settled(
        loop.equation, start, lambda carry: _axes(run, loop.body, [*consts, *carry])
    )

    def go_on(carry):
        return bare(run(loop.predicate, [*head, *_dressed(carry, axes)])[0])

    def step(carry):
        return _coerced(loop.equation, run(loop.body, [*consts, *_dressed(carry, axes)]), axes)

    return _dressed(jax.lax.while_loop(go_on, step, carry), axes)


def _cond(run: Run, cond: Cond, values: list[Any]) -> list[Any]:
    index, inputs = cond.split(values)
    columns = zip(*(_axes(run, body, inputs) for body in cond.branches))
    axes = [next((axis for axis in column if axis is not None), None) for column in columns]
    branches = [
        lambda b=body: _coerced(cond.equation, run(b, inputs), axes) for body in cond.branches
    ]
    return _dressed(jax.lax.switch(bare(index), branches), axes)


def _remat(run: Run, call: Call, values: list[Any]) -> list[Any]:
    axes: Axes = []

    def body() -> list[Any]:
        results = run(call.body, values)
        axes[:] = map(axis_of, results)
        return [bare(x) for x in results]

    options = {key: call.equation.params[key] for key in ("prevent_cse", "policy")}
    return _dressed(jax.checkpoint(body, **options)(), axes)


def _linear_solve(run: Run, solve: Solve, values: list[Any]) -> list[Any]:
    parts, programs = solve.regions(values), solve.programs
    right = parts["right"]
    stacked = any(axis_of(x) is not None for x in values)
    # The unknowns are shaped as the right-hand sides.
    axes: Axes = [0 if stacked and axis_of(x) is None else axis_of(x) for x in right]

    def part(name: str) -> Callable[[list[Any]], list[Any]]:
        def evaluate(vector: list[Any]) -> list[Any]:
            results = run(programs[name], [*parts[name], *_dressed(vector, axes)])
            return _coerced(solve.equation, results, axes)

        return evaluate

    transposed = part("transpose_solve") if programs["transpose_solve"] is not None else None
    results = jax.lax.custom_linear_solve(
        part("matvec"),
        _coerced(solve.equation, right, axes),
        lambda _, vector: part("solve")(vector),
        transpose_solve=transposed and (lambda _, vector: transposed(vector)),
        symmetric=programs["vecmat"] is programs["matvec"],
    )
    return _dressed(results, axes)


def control(run: Run, viewed: View, values: list[Any]) -> list[Any] | None:
    """The results of control flow over stacked values; None of anything else.

    Args:
      run: Evaluates a body.
      viewed: The equation.
      values: Of its operands.
    """
    match viewed:
        case Scan():
            return _scan(run, viewed, values)
        case While():
            return _while(run, viewed, values)
        case Cond():
            return _cond(run, viewed, values)
        case Solve():
            return _linear_solve(run, viewed, values)
        case Call(equation=equation) if equation.primitive is REMAT:
            return _remat(run, viewed, values)
    return None
