"""Control flow over stacked values: rebuilt around what its bodies become for one client.

Whether a value that a loop carries is stacked follows from its body, so bodies are traced first to see
which of their results are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn, Primitive
from secfad.interop.stacking import axis_of, bare, dressed, refused, stacked_at
from secfad.jaxprs.equations import COND, LINEAR_SOLVE, SCAN, WHILE, as_call

_jax.hide_file_from_tracebacks(__file__)

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


def _scan(run: Run, equation: JaxprEqn, values: list[Any]) -> list[Any]:
    params = equation.params
    body, consts = params["jaxpr"], params["num_consts"]
    split = consts + params["num_carry"]
    head, rows = values[:consts], values[split:]
    if any(axis_of(x) == 0 for x in rows):
        raise refused(equation, "goes from client to client; each would see those before it")
    inside: Axes = [axis and axis - 1 for axis in map(axis_of, rows)]
    arrays = [bare(x) for x in rows]
    slices = [
        (jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x)), axis)
        for x, axis in zip(arrays, inside)
    ]
    made: Axes = []

    def results(carry: list[Any]) -> Axes:
        made[:] = _axes(run, body, [*head, *carry], slices)
        return made[: params["num_carry"]]

    carry, axes = _settled(equation, values[consts:split], results)

    def iteration(carry, row):
        out = run(body, [*head, *_dressed(carry, axes), *_dressed(row, inside)])
        last = [bare(x) for x in out[len(axes) :]]
        return _coerced(equation, out[: len(axes)], axes), last

    carry, collected = jax.lax.scan(
        iteration,
        carry,
        arrays,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    outside = [None if axis is None else axis + 1 for axis in made[len(axes) :]]
    return [*_dressed(carry, axes), *_dressed(collected, outside)]


def _while(run: Run, equation: JaxprEqn, values: list[Any]) -> list[Any]:
    params = equation.params
    first = params["cond_nconsts"]
    split = first + params["body_nconsts"]
    predicate, body = params["cond_jaxpr"], params["body_jaxpr"]
    head, consts = values[:first], values[first:split]
    carry, axes = _settled(
        equation, values[split:], lambda carry: _axes(run, body, [*consts, *carry])
    )

    def go_on(carry):
        return bare(run(predicate, [*head, *_dressed(carry, axes)])[0])

    def step(carry):
        return _coerced(equation, run(body, [*consts, *_dressed(carry, axes)]), axes)

    return _dressed(jax.lax.while_loop(go_on, step, carry), axes)


def _cond(run: Run, equation: JaxprEqn, values: list[Any]) -> list[Any]:
    bodies, inputs = equation.params["branches"], values[1:]
    columns = zip(*(_axes(run, body, inputs) for body in bodies))
    axes = [next((axis for axis in column if axis is not None), None) for column in columns]
    branches = [lambda b=body: _coerced(equation, run(b, inputs), axes) for body in bodies]
    return _dressed(jax.lax.switch(bare(values[0]), branches), axes)


def _remat(run: Run, equation: JaxprEqn, values: list[Any]) -> list[Any]:
    call = as_call(equation)
    assert call is not None
    axes: Axes = []

    def body() -> list[Any]:
        results = run(call.body, values)
        axes[:] = map(axis_of, results)
        return [bare(x) for x in results]

    options = {key: equation.params[key] for key in ("prevent_cse", "policy")}
    return _dressed(jax.checkpoint(body, **options)(), axes)


def _linear_solve(run: Run, equation: JaxprEqn, values: list[Any]) -> list[Any]:
    lengths, bodies = equation.params["const_lengths"], equation.params["jaxprs"]
    parts, start = {}, 0
    for name in ("matvec", "vecmat", "solve", "transpose_solve"):
        stop = start + (getattr(lengths, name) or 0)
        parts[name] = values[start:stop]
        start = stop

    def part(name: str) -> Callable[[list[Any]], list[Any]]:
        def evaluate(vector: list[Any]) -> list[Any]:
            results = run(getattr(bodies, name), [*parts[name], *vector])
            return _coerced(equation, results, [None] * len(results))

        return evaluate

    transposed = part("transpose_solve") if bodies.transpose_solve is not None else None
    symmetric = bodies.vecmat is bodies.matvec
    return jax.lax.custom_linear_solve(
        part("matvec"),
        _coerced(equation, values[start:], [None] * len(values[start:])),
        lambda _, vector: part("solve")(vector),
        transpose_solve=transposed and (lambda _, vector: transposed(vector)),
        symmetric=symmetric,
    )


CONTROL: Mapping[Primitive, Callable[[Run, JaxprEqn, list[Any]], list[Any]]] = {
    SCAN: _scan,
    WHILE: _while,
    COND: _cond,
    LINEAR_SOLVE: _linear_solve,
    _jax.jax_primitives.remat_p: _remat,
}
