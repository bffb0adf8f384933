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

from collections.abc import Callable, Container
from typing import Any

from secfad._jax import ClosedJaxpr, JaxprEqn, Literal, Var
from secfad.jaxprs.equations import (
    CUSTOM_RULES,
    JIT,
    OWN_DERIVATIVE,
    Atom,
    Call,
    Cond,
    Scan,
    While,
    view,
)
from secfad.jaxprs.inside import Inside, communicates
from secfad.jaxprs.iterations import without_counts
from secfad.jaxprs.rewriting import Rewriter
from secfad.jaxprs.slices import live
from secfad.primitives import COTANGENT, TANGENT, broadcast_p

_has_rules = Inside(lambda equation: equation.primitive in CUSTOM_RULES)


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

    def opens(equation: JaxprEqn) -> bool:
        if keep_rules and equation.primitive in OWN_DERIVATIVE:
            return False
        if open_calls and equation.primitive in JIT:
            return True
        return communicates(equation) or (erase_rules and _has_rules(equation))

    return live(_Normaliser(opens).rewritten(live(without_counts(closed))))


def opened(closed: ClosedJaxpr, opens: Callable[[JaxprEqn], bool] = communicates) -> ClosedJaxpr:
    """The program with some calls, by default those that communicate, replaced by their bodies."""
    return _Normaliser(opens).rewritten(closed)


class _Normaliser(Rewriter):
    """Opens calls and merges broadcasts, innermost first."""

    def __init__(self, opens: Callable[[JaxprEqn], bool]):
        """`opens` says which calls are replaced by their bodies, and which control flow is read."""
        super().__init__()
        self.opens = opens
        self.sent: dict[Var, Var] = {}

    def equation(self, equation: JaxprEqn) -> None:
        if equation.primitive is broadcast_p:
            self._broadcast(equation, self.now(equation.invars))
            return
        match view(equation):
            case Call() as call if self.opens(equation):
                results = self.inline(call.body, self.now(call.operands), equation)
                self.define(equation, results)
            case Scan() as loop if self.opens(equation):
                self._scan(loop)
            case While() | Cond() if self.opens(equation):
                self.inside(equation, self._fresh)
            case _:
                self.copy(equation)

    def _fresh(self) -> "_Normaliser":
        return _Normaliser(self.opens)

    def _broadcast(self, equation: JaxprEqn, operands: list[Atom]) -> list[Var]:
        """Sends those of the operands that were not sent before; returns all that was received."""
        fresh, results = [], []
        for operand in operands:
            known = self.sent.get(operand) if isinstance(operand, Var) else None
            if known is None:
                known = Var(operand.aval)
                fresh.append((operand, known))
                if isinstance(operand, Var):
                    self.sent[operand] = known
            results.append(known)
        if fresh:
            invars, outvars = map(list, zip(*fresh))
            self.equations.append(equation.replace(invars=invars, outvars=outvars))
        self.define(equation, results)
        return results

    def _scan(self, loop: Scan) -> None:
        """Moves broadcasts of what does not change in the loop in front of it."""
        body = self._fresh().rewritten(loop.body)
        first, *rest = loop.split(body.jaxpr.invars)
        outside = dict(zip(first, self.now(loop.consts)))
        moved = [e for e in body.jaxpr.eqns if _is_invariant_broadcast(e, outside)]
        received: dict[Any, Var] = {}
        for send in moved:
            operands = [outside[v] if isinstance(v, Var) else v for v in send.invars]
            received.update(zip(send.outvars, self._broadcast(send, operands)))
        kept = [e for e in body.jaxpr.eqns if not any(e is send for send in moved)]
        invars = [*first, *received, *(v for part in rest for v in part)]
        inner = ClosedJaxpr(body.jaxpr.replace(invars=invars, eqns=kept), body.consts)
        consts = [*loop.consts, *received.values()]
        self.copy(loop.with_(body=inner, consts=consts))


def _is_invariant_broadcast(equation: JaxprEqn, outside: Container[Var]) -> bool:
    if equation.primitive is not broadcast_p or equation.params["name"].endswith(
        (TANGENT, COTANGENT)
    ):
        return False
    return all(isinstance(v, Literal) or v in outside for v in equation.invars)
