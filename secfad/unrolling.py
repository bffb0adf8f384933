"""Unrolling: a scan written out, iteration by iteration.

Needed where a transformation must see through the iterations, such as mixed mode when clients carry
differentiated state. Bounded: a long scan is refused instead of making an endless program.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn
from secfad.errors import ModeError
from secfad.interpreting import read

MOST_ITERATIONS = 64


def unroll(closed: ClosedJaxpr, scan: JaxprEqn) -> ClosedJaxpr:
    """The program with one scan at its top level written out.

    Raises:
      ModeError: The scan is longer than 64 iterations.
    """
    length = scan.params["length"]
    if length > MOST_ITERATIONS:
        raise ModeError(
            f"Mixed mode expected at most {MOST_ITERATIONS} iterations of a scan in which clients "
            f"carry differentiated state, got {length} ({_jax.user_line(scan)}). "
            "Use mode='reverse' or mode='forward'."
        )

    if not any(equation.outvars == scan.outvars for equation in closed.jaxpr.eqns):
        raise ModeError(
            f"Mixed mode cannot unroll the scan at {_jax.user_line(scan)}, which is inside another "
            "call. Use mode='reverse' or mode='forward'."
        )

    def fun(*args: Any) -> list[Any]:
        env = dict(zip(closed.jaxpr.constvars, closed.consts))
        env.update(zip(closed.jaxpr.invars, args))
        for equation in closed.jaxpr.eqns:
            values = [read(env, v) for v in equation.invars]
            same = equation.outvars == scan.outvars
            results = _iterate(scan, values) if same else _jax.evaluate(equation, values)
            env.update(zip(equation.outvars, results))
        return [read(env, v) for v in closed.jaxpr.outvars]

    specs = [_jax.spec(v.aval) for v in closed.jaxpr.invars]
    return _jax.make_jaxpr(fun, specs)[0]


def _iterate(scan: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    params = scan.params
    consts, carries = params["num_consts"], params["num_carry"]
    split = consts + carries
    carry, rows = list(values[consts:split]), []
    body = params["jaxpr"]
    for index in range(params["length"])[:: -1 if params["reverse"] else 1]:
        slices = [x[index] for x in values[split:]]
        inputs = [*values[:consts], *carry, *slices]
        out = _jax.eval_jaxpr(body.jaxpr, body.consts, *inputs)
        carry = out[:carries]
        rows.append(out[carries:])
    columns = zip(*rows[:: -1 if params["reverse"] else 1])
    return [*carry, *(jnp.stack(column) for column in columns)]
