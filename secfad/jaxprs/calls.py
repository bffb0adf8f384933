"""Equations that hold other programs: which call one, which loop over one, which choose one.

JAX nests programs inside equation parameters under different names and in different shapes. This
module is the one place that knows them. A *call* (`jit`, `remat`, custom derivative rules, a linear
solve) means its body, once, and can be replaced by it; *control flow* (`scan`, `while`, `cond`)
cannot.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from secfad.jaxprs.nesting import Nested
from secfad.primitives import COMMUNICATION

JIT = frozenset(
    {
        _jax.jax_primitives.jit_p,
        _jax.jax_primitives.closed_call_p,
        _jax.jax_primitives.call_p,
    }
)
_PLAIN_CALLS = JIT | {_jax.jax_primitives.remat_p}
CUSTOM_RULES = frozenset(
    {_jax.jax_primitives.custom_jvp_call_p, _jax.jax_primitives.custom_vjp_call_p}
)
LINEAR_SOLVE = _jax.jax_primitives.linear_solve_p
# Calls whose derivative is not that of their body.
OWN_DERIVATIVE = CUSTOM_RULES | {LINEAR_SOLVE}
SCAN = _jax.jax_primitives.scan_p
WHILE = _jax.jax_primitives.while_p
COND = _jax.jax_primitives.cond_p
CONTROL_FLOW = frozenset({SCAN, WHILE, COND})
# What may communicate inside: everything else is looked into only to find out that it does not.
_FOLLOWED = _PLAIN_CALLS | OWN_DERIVATIVE | CONTROL_FLOW
# Their functions run on the host, where no message can be sent.
_CALLBACKS = frozenset({"pure_callback", "io_callback", "debug_callback", "debug_print"})


@dataclasses.dataclass(frozen=True)
class Call:
    """The body of a call and the equation's inputs that it takes."""

    body: ClosedJaxpr
    inputs: Sequence


def as_call(equation: JaxprEqn) -> Call | None:
    """The body that a call-like equation stands for, or None."""
    primitive, params = equation.primitive, equation.params
    if primitive is LINEAR_SOLVE:
        lengths, bodies = params["const_lengths"], params["jaxprs"]
        start = lengths.matvec + lengths.vecmat
        stop = start + lengths.solve
        right_hand_side = equation.invars[_constants(lengths) :]
        return Call(bodies.solve, [*equation.invars[start:stop], *right_hand_side])
    if primitive in _PLAIN_CALLS or primitive in CUSTOM_RULES:
        body = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
        return Call(
            body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ()), equation.invars
        )
    return None


def _constants(lengths) -> int:
    total = lengths.matvec + lengths.vecmat + lengths.solve
    return total + (lengths.transpose_solve or 0)


def renamed(
    body: ClosedJaxpr, inputs: Sequence | None = None, caller: JaxprEqn | None = None
) -> ClosedJaxpr:
    """The program with new variables, so that a body that is used twice is two programs.

    Args:
      body: The program.
      inputs: What it reads, in place of its inputs.
      caller: Gives its line to equations without one, such as those of JAX's own functions.
    """
    jaxpr = body.jaxpr
    constants = [Var(v.aval) for v in jaxpr.constvars]
    env: dict[Var, Var | Literal] = dict(zip(jaxpr.constvars, constants))
    arguments = [Var(v.aval) for v in jaxpr.invars] if inputs is None else list(inputs)
    env.update(zip(jaxpr.invars, arguments))

    def now(atom):
        return atom if isinstance(atom, Literal) else env[atom]

    equations = []
    for equation in jaxpr.eqns:
        equation = _jax.with_line(equation, caller) if caller else equation
        invars = [now(v) for v in equation.invars]
        outvars = [Var(v.aval) for v in equation.outvars]
        env.update(zip(equation.outvars, outvars))
        equations.append(equation.replace(invars=invars, outvars=outvars))
    fresh = _jax.new_jaxpr(
        [v for v in arguments if isinstance(v, Var)],
        [now(v) for v in jaxpr.outvars],
        equations,
        constants,
    )
    return ClosedJaxpr(fresh, body.consts)


def with_bodies(equation: JaxprEqn, change: Callable[[Jaxpr], Jaxpr]) -> JaxprEqn:
    """The equation with every program nested in its parameters changed."""

    def changed(value: Any) -> Any:
        if isinstance(value, ClosedJaxpr):
            return ClosedJaxpr(change(value.jaxpr), value.consts)
        if isinstance(value, Jaxpr):
            return change(value)
        if isinstance(value, tuple) and any(isinstance(v, ClosedJaxpr) for v in value):
            items = [changed(v) for v in value]
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        return value

    return equation.replace(params={k: changed(v) for k, v in equation.params.items()})


def bodies(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """Every program nested in an equation's parameters."""
    for value in equation.params.values():
        for body in _jax.sub_jaxprs(value):
            yield body.jaxpr if isinstance(body, ClosedJaxpr) else body


def every_body(equation: JaxprEqn) -> Iterable[Jaxpr]:
    """`bodies`, and every program that a primitive holds in any other way."""
    return bodies(equation) if equation.primitive in _FOLLOWED else Nested(equation.params).programs


def is_opaque(equation: JaxprEqn) -> bool:
    """True if an equation holds what cannot be looked into, such as a function."""
    unknown = equation.primitive not in _FOLLOWED and equation.primitive.name not in _CALLBACKS
    return unknown and Nested(equation.params).opaque


class Communicates:
    """Says whether an equation communicates, at any depth; remembers the programs it has seen."""

    def __init__(self) -> None:
        # Holds the jaxprs themselves, so that an id is never reused while it is a key.
        self._known: dict[int, tuple[Jaxpr, bool]] = {}

    def __call__(self, equation: JaxprEqn) -> bool:
        """True if the equation or a program inside it is a broadcast or a sum."""
        return equation.primitive in COMMUNICATION or any(
            self.in_jaxpr(b) for b in every_body(equation)
        )

    def in_jaxpr(self, jaxpr: Jaxpr) -> bool:
        """True if any equation of the program communicates."""
        if id(jaxpr) not in self._known:
            self._known[id(jaxpr)] = (jaxpr, any(self(equation) for equation in jaxpr.eqns))
        return self._known[id(jaxpr)][1]
