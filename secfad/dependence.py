"""Dependence: which results of an equation with programs inside depend on which of its inputs.

A loop or a call may compute several things at once. Some of its results may depend on no placed
input although it has some, such as the counter of a client's loop, or a value that a call only
passes through; those results have no placement.
"""

from collections.abc import Sequence

from secfad import _jax
from secfad._jax import Jaxpr, JaxprEqn, Literal, Var
from secfad.calls import COND, SCAN, as_call


def dependent_outputs(equation: JaxprEqn, flags: Sequence[bool]) -> list[bool]:
    """Which outputs depend on the flagged inputs; all of them where nothing finer is known."""
    if equation.primitive is SCAN:
        return _scan(equation, list(flags))
    if equation.primitive is COND:
        rows = [dependent_results(b.jaxpr, flags[1:]) for b in equation.params["branches"]]
        return [flags[0] or any(column) for column in zip(*rows)]
    call = as_call(equation)
    if call is not None and len(call.inputs) == len(equation.invars):
        return dependent_results(call.body.jaxpr, flags)
    return [any(flags)] * len(equation.outvars)


def separated(equation: JaxprEqn, flags: Sequence[bool]) -> tuple[list[JaxprEqn], JaxprEqn] | None:
    """The equation as two: what does not depend on the flagged inputs, and the rest.

    Returns:
      None if every output depends on them, or if the equation cannot be split.
    """
    if equation.primitive not in (SCAN, COND) and as_call(equation) is None:
        return None
    dependent = dependent_outputs(equation, flags)
    if all(dependent):
        return None
    forbidden = {v for v, f in zip(equation.invars, flags) if f and isinstance(v, Var)}
    free = _kept(equation, [not d for d in dependent])
    rest = _kept(equation, dependent)
    reads = {v for e in free for v in e.invars if isinstance(v, Var)}
    if len(rest) != 1 or reads & forbidden:
        return None
    return free, rest[0]


def _kept(equation: JaxprEqn, used: Sequence[bool]) -> list[JaxprEqn]:
    inputs = list(dict.fromkeys(v for v in equation.invars if isinstance(v, Var)))
    whole = _jax.new_jaxpr(inputs, equation.outvars, [equation])
    return list(_jax.dce(whole, used).eqns)


def dependent_results(jaxpr: Jaxpr, flags: Sequence[bool]) -> list[bool]:
    """Which results of a program depend on its flagged inputs."""
    reached = {v for v, f in zip(jaxpr.invars, flags) if f}

    def flagged(atom) -> bool:
        return not isinstance(atom, Literal) and atom in reached

    for equation in jaxpr.eqns:
        out = dependent_outputs(equation, [flagged(v) for v in equation.invars])
        reached |= {v for v, f in zip(equation.outvars, out) if f}
    return [flagged(v) for v in jaxpr.outvars]


def _scan(equation: JaxprEqn, flags: list[bool]) -> list[bool]:
    params = equation.params
    first, split = params["num_consts"], params["num_consts"] + params["num_carry"]
    while True:
        out = dependent_results(params["jaxpr"].jaxpr, flags)
        joined = [a or b for a, b in zip(flags[first:split], out)]
        if joined == flags[first:split]:
            return [*joined, *out[split - first :]]
        flags[first:split] = joined
