"""Dependence: which results of an equation depend on which of its inputs.

A loop, a choice or a call may compute several things at once, such as the counter of a client's loop
beside a model. What is asked here is asked for each result by itself, at any depth. A result has the
marks (`dataflow.Marks`) of everything that it depends on; flags are marks of one bit.

`DEPENDENCE`: a value depends on whatever it is computed from. `ACTIVITY`: its derivative depends on
less, not on what passes through `stop_gradient`, an integer or a predicate, and on what a rule of a
user's says.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from secfad._jax_interpreters import dce
from secfad.jaxprs.dataflow import Marks
from secfad.jaxprs.equations import COND, CUSTOM_JVP, CUSTOM_RULES, SCAN, Call, as_call

# Floating-point results whose derivative is zero wherever there is one.
_FLAT = frozenset({"stop_gradient", "sign", "floor", "ceil", "round", "nextafter"})


def is_differentiable(atom: Var | Literal) -> bool:
    """True for floating-point and complex values."""
    return jax.dtypes.issubdtype(_jax.spec(atom.aval).dtype, jnp.inexact)


class _Activity(Marks):
    """What the derivatives of values depend on."""

    def variables(self, body: ClosedJaxpr | Jaxpr, given: Sequence[int]) -> dict[Var, int]:
        inputs = (body.jaxpr if isinstance(body, ClosedJaxpr) else body).invars
        moving = [m if is_differentiable(v) else 0 for v, m in zip(inputs, given)]
        return super().variables(body, moving)

    def outputs(self, equation: JaxprEqn, given: list[int]) -> list[int]:
        made = super().outputs(equation, given)
        return [m if m and is_differentiable(v) else 0 for v, m in zip(equation.outvars, made)]

    def transfer(self, equation: JaxprEqn, given: list[int]) -> list[int]:
        flat = equation.primitive.name in _FLAT
        return [0 if flat else self.joined(given)] * len(equation.outvars)

    def call(self, call: Call, given: list[int]) -> list[int]:
        ruled = call.equation.primitive in CUSTOM_RULES
        return _rule(call.equation, given) if ruled else super().call(call, given)

    def decided(self, by: int, results: list[int]) -> list[int]:
        return results


# Both remember what they found for as long as the programs live.
DEPENDENCE, ACTIVITY = Marks(), _Activity()


def separated(equation: JaxprEqn, flags: Sequence[bool]) -> tuple[list[JaxprEqn], JaxprEqn] | None:
    """The equation as two: what does not depend on the flagged inputs, and the rest.

    Returns:
      None if every output depends on them, or if the equation cannot be split.
    """
    if equation.primitive not in (SCAN, COND) and as_call(equation) is None:
        return None
    dependent = [bool(m) for m in DEPENDENCE.outputs(equation, [*flags])]
    if all(dependent):
        return None
    forbidden = {v for v, f in zip(equation.invars, flags) if f and isinstance(v, Var)}
    free = _kept(equation, [not d for d in dependent])
    rest = _kept(equation, dependent)
    reads = {v for e in free for v in e.invars if isinstance(v, Var)}
    if len(rest) != 1 or reads & forbidden:
        return None
    return free, rest[0]


def one_by_one(equation: JaxprEqn) -> list[JaxprEqn]:
    """One equation per operand, of a primitive that hands on several operands unchanged."""
    count = len(equation.invars)
    if count < 2 or equation.primitive.name not in ("optimization_barrier", "device_put"):
        return [equation]

    def alone(position: int) -> JaxprEqn:
        own = lambda v: (v[position],) if isinstance(v, tuple) and len(v) == count else v
        return equation.replace(
            invars=[equation.invars[position]],
            outvars=[equation.outvars[position]],
            params={name: own(value) for name, value in equation.params.items()},
        )

    return [alone(k) for k in range(count)]


def _kept(equation: JaxprEqn, used: Sequence[bool]) -> list[JaxprEqn]:
    inputs = list(dict.fromkeys(v for v in equation.invars if isinstance(v, Var)))
    # Carries stay for others' sake; the two parts must not both define one variable.
    outvars = [v if u else Var(v.aval) for v, u in zip(equation.outvars, used)]
    whole = _jax.new_jaxpr(inputs, outvars, [equation.replace(outvars=outvars)])
    return list(dce(whole, used).eqns)


def _rule(equation: JaxprEqn, marks: Sequence[int]) -> list[int]:
    """A rule of a user's says on what a derivative depends; what is inside of it says nothing."""
    count = len(equation.outvars)
    moving = [i for i, v in enumerate(equation.invars) if marks[i] and is_differentiable(v)]
    if count == 1 or len(moving) == 0:
        return [ACTIVITY.joined(marks[i] for i in moving)] * count
    specs = [_jax.spec(v.aval) for v in equation.invars]
    live = [i for i, v in enumerate(equation.outvars) if is_differentiable(v)]

    def whole(values: Sequence, *moved: jax.Array) -> list:
        given = list(values)
        for i, value in zip(moving, moved):
            given[i] = value
        out = _jax.evaluate(equation, given)
        return [out[i] for i in live]

    def forward(values: Sequence, tangents: Sequence) -> list:
        chosen = [values[i] for i in moving]
        return jax.jvp(lambda *x: whole(values, *x), chosen, list(tangents))[1]

    def backward(values: Sequence, cotangents: Sequence) -> tuple:
        return jax.vjp(lambda *x: whole(values, *x), *(values[i] for i in moving))[1](
            list(cotangents)
        )

    if equation.primitive is CUSTOM_JVP:
        rule = _jax.make_jaxpr(forward, (specs, [specs[i] for i in moving]))[0].jaxpr
        out = DEPENDENCE.results(rule, [*[0] * len(specs), *(marks[i] for i in moving)])
    else:
        given = [_jax.spec(equation.outvars[i].aval) for i in live]
        rule = _jax.make_jaxpr(backward, (specs, given))[0].jaxpr
        bits = [1 << k for k in range(len(live))]
        reads = DEPENDENCE.results(rule, [*[0] * len(specs), *bits])
        read_by = lambda bit: (marks[i] for i, r in zip(moving, reads) if r & bit)
        out = [ACTIVITY.joined(read_by(bit)) for bit in bits]
    found = dict(zip(live, out))
    return [found.get(i, 0) for i in range(count)]
