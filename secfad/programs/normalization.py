"""Normalisation: what a program says about communication, and nothing more.

A trace holds communication that nobody needs: the primal sum that a gradient drops, the same
broadcast written twice, a broadcast of the same value in every iteration of a loop. Before anything
is counted, certified or run,

1. dead equations are removed, and dead operands of n-ary sums and broadcasts;
2. calls that communicate (`jit`, `remat`, custom rules, a linear solve) are replaced by their bodies,
   so that communication stands at the top level or directly inside control flow;
3. a broadcast of a value that was already broadcast is merged with it, and a broadcast of a
   loop-invariant value is moved out of its `scan`, but not a tangent or a cotangent, for which
   clients would have to keep what they need in a round only.

Sums are never merged or moved: under noise one sum is one release.
"""

import dataclasses
from collections.abc import Sequence

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from secfad._jax_interpreters import dce
from secfad.jaxprs.equations import (
    CONTROL_FLOW,
    CUSTOM_RULES,
    JIT,
    OWN_DERIVATIVE,
    SCAN,
    Inside,
    as_call,
    communicates,
    with_bodies,
)
from secfad.primitives import COTANGENT, TANGENT, broadcast_p


def normalise(
    closed: ClosedJaxpr,
    *,
    erase_rules: bool,
    open_calls: bool = False,
    keep_rules: bool = False,
) -> ClosedJaxpr:
    """Puts a traced program into normal form; its inputs, outputs and values stay the same.

    Args:
      closed: The program as traced.
      erase_rules: Also replace `custom_jvp` and `custom_vjp` calls by their bodies everywhere. Right
        for a program that will run; wrong for one that is still to be differentiated.
      open_calls: Also replace every `jit` call at the top level or in communicating control flow, so
        that dependence can be followed through it.
      keep_rules: Leave communicating calls with a derivative rule of their own whole, because the
        derivative of their body is another one.
    """
    jaxpr = dce(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    flat = _Flattener(erase_rules, open_calls, keep_rules).closed(ClosedJaxpr(jaxpr, closed.consts))
    merged = _merge_broadcasts(flat.jaxpr)
    jaxpr = dce(merged, [True] * len(merged.outvars))
    return _without_unused_constants(ClosedJaxpr(jaxpr, flat.consts))


def opened(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Replaces calls that communicate by their bodies, and changes nothing else."""
    return _Flattener(erase_rules=False, open_calls=False).closed(closed)


def _without_unused_constants(closed: ClosedJaxpr) -> ClosedJaxpr:
    jaxpr = closed.jaxpr
    used = {v for eqn in jaxpr.eqns for v in eqn.invars if isinstance(v, Var)}
    used |= {v for v in jaxpr.outvars if isinstance(v, Var)}
    kept = [(v, c) for v, c in zip(jaxpr.constvars, closed.consts) if v in used]
    return ClosedJaxpr(jaxpr.replace(constvars=[v for v, _ in kept]), [c for _, c in kept])


@dataclasses.dataclass
class _Scope:
    """Equations emitted so far, and what the variables of the program being read stand for."""

    equations: list[JaxprEqn]
    constants: list[tuple[Var, object]]


_has_rules = Inside(lambda equation: equation.primitive in CUSTOM_RULES)


class _Flattener:
    """Replaces calls by their bodies where that matters; every inlined variable is new."""

    def __init__(self, erase_rules: bool, open_calls: bool, keep_rules: bool = False):
        self.erase_rules = erase_rules
        self.open_calls = open_calls
        self.keep_rules = keep_rules

    def closed(self, closed: ClosedJaxpr) -> ClosedJaxpr:
        scope = _Scope([], list(zip(closed.jaxpr.constvars, closed.consts)))
        env: dict[Var, object] = {}
        self._read(closed.jaxpr, env, scope)
        outvars = [_lookup(env, v) for v in closed.jaxpr.outvars]
        jaxpr = _jax.new_jaxpr(
            closed.jaxpr.invars, outvars, scope.equations, [v for v, _ in scope.constants]
        )
        return ClosedJaxpr(jaxpr, [c for _, c in scope.constants])

    def _read(self, jaxpr: Jaxpr, env: dict, scope: _Scope, caller: JaxprEqn | None = None) -> None:
        for equation in jaxpr.eqns:
            equation = _jax.with_line(equation, caller) if caller else equation
            inputs = [_lookup(env, v) for v in equation.invars]
            call = as_call(equation)
            if call is not None and (self._opens(equation) or self._is_plain(equation)):
                self._inline(
                    equation, call.body, [_lookup(env, v) for v in call.operands], env, scope
                )
            else:
                self._copy(equation, inputs, env, scope)

    def _is_plain(self, equation: JaxprEqn) -> bool:
        return self.open_calls and equation.primitive in JIT

    def _opens(self, equation: JaxprEqn) -> bool:
        if self.keep_rules and equation.primitive in OWN_DERIVATIVE:
            return False
        return communicates(equation) or (self.erase_rules and _has_rules(equation))

    def _inline(
        self, equation, body: ClosedJaxpr, inputs: Sequence, env: dict, scope: _Scope
    ) -> None:
        inner: dict[Var, object] = dict(zip(body.jaxpr.invars, inputs))
        for variable, value in zip(body.jaxpr.constvars, body.consts):
            inner[variable] = Var(variable.aval)
            scope.constants.append((inner[variable], value))  # type: ignore[arg-type]
        self._read(body.jaxpr, inner, scope, equation)
        for variable, result in zip(equation.outvars, body.jaxpr.outvars):
            env[variable] = _lookup(inner, result)

    def _copy(self, equation: JaxprEqn, inputs: Sequence, env: dict, scope: _Scope) -> None:
        outputs = [Var(v.aval) for v in equation.outvars]
        params = equation.params
        if equation.primitive in CONTROL_FLOW and self._opens(equation):
            params = {k: self._parameter(v) for k, v in params.items()}
        env.update(zip(equation.outvars, outputs))
        scope.equations.append(
            equation.replace(invars=list(inputs), outvars=outputs, params=params)
        )

    def _parameter(self, value):
        if isinstance(value, ClosedJaxpr):
            return self.closed(value)
        if isinstance(value, tuple) and any(isinstance(v, ClosedJaxpr) for v in value):
            return tuple(self._parameter(v) for v in value)
        return value


def _lookup(env: dict, atom):
    return atom if isinstance(atom, Literal) else env.get(atom, atom)


def _merge_broadcasts(jaxpr: Jaxpr) -> Jaxpr:
    """Merges repeated broadcasts and moves loop-invariant ones out of scans, innermost first."""
    merger = _Merger()
    for equation in jaxpr.eqns:
        merger.add(equation)
    outvars = [_lookup(merger.env, v) for v in jaxpr.outvars]
    return _jax.new_jaxpr(jaxpr.invars, outvars, merger.equations, jaxpr.constvars)


class _Merger:
    """One scope of `_merge_broadcasts`."""

    def __init__(self) -> None:
        self.equations: list[JaxprEqn] = []
        self.env: dict[Var, object] = {}
        self.sent: dict[Var, Var] = {}

    def add(self, equation: JaxprEqn) -> None:
        equation = equation.replace(invars=[_lookup(self.env, v) for v in equation.invars])
        if equation.primitive is broadcast_p:
            self._broadcast(equation)
        elif equation.primitive is SCAN:
            self._scan(equation)
        elif equation.primitive in CONTROL_FLOW:
            self.equations.append(with_bodies(equation, _merge_broadcasts))
        else:
            self.equations.append(equation)

    def _broadcast(self, equation: JaxprEqn) -> None:
        fresh = []
        for operand, result in zip(equation.invars, equation.outvars):
            if isinstance(operand, Var) and operand in self.sent:
                self.env[result] = self.sent[operand]
            else:
                fresh.append((operand, result))
                if isinstance(operand, Var):
                    self.sent[operand] = result
        if fresh:
            operands, results = zip(*fresh)
            self.equations.append(equation.replace(invars=list(operands), outvars=list(results)))

    def _scan(self, equation: JaxprEqn) -> None:
        body, consts = equation.params["jaxpr"], equation.params["num_consts"]
        inner = ClosedJaxpr(_merge_broadcasts(body.jaxpr), body.consts)
        invariant = dict(zip(inner.jaxpr.invars[:consts], equation.invars[:consts]))
        moved = [e for e in inner.jaxpr.eqns if _is_invariant_broadcast(e, invariant)]
        if not moved:
            self.equations.append(equation.replace(params=equation.params | {"jaxpr": inner}))
            return
        received: list[tuple[Var, object]] = []
        for send in moved:
            results = [Var(v.aval) for v in send.outvars]
            outer = [v if isinstance(v, Literal) else invariant[v] for v in send.invars]
            self._broadcast(send.replace(invars=outer, outvars=results))
            received += [(v, _lookup(self.env, r)) for v, r in zip(send.outvars, results)]
        self.equations.append(_with_constants(equation, inner, moved, received))


def _is_invariant_broadcast(equation: JaxprEqn, invariant: dict) -> bool:
    if equation.primitive is not broadcast_p or equation.params["name"].endswith(
        (TANGENT, COTANGENT)
    ):
        return False
    return all(isinstance(v, Literal) or v in invariant for v in equation.invars)


def _with_constants(equation, body: ClosedJaxpr, moved: list, received: list) -> JaxprEqn:
    """The scan without its moved broadcasts, whose results it takes as further constants."""
    consts = equation.params["num_consts"]
    kept = [e for e in body.jaxpr.eqns if not any(e is send for send in moved)]
    invars = body.jaxpr.invars
    inner = _jax.new_jaxpr(
        [*invars[:consts], *(v for v, _ in received), *invars[consts:]],
        body.jaxpr.outvars,
        kept,
        body.jaxpr.constvars,
    )
    params = equation.params | {
        "jaxpr": ClosedJaxpr(inner, body.consts),
        "num_consts": consts + len(received),
    }
    if "linear" in params:
        linear = params["linear"]
        params["linear"] = (*linear[:consts], *(False for _ in received), *linear[consts:])
    outer = [*equation.invars[:consts], *(v for _, v in received), *equation.invars[consts:]]
    return equation.replace(invars=outer, params=params)
