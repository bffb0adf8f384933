"""Iterations: a message inside of a loop belongs to its iteration, and stays there.

JAX moves what does not change in a `scan` out of it, when it separates what a derivative needs from
what is known before. Of a sum that would make one message of several, and under noise one release. So
every `scan` that communicates counts its iterations, from the moment it is formed, and each message
in it is *bound* to the count: its operands pass through a primitive that also takes the count, and
gives them back as they are. What depends on a count changes in the loop, for JAX and for whoever
else transforms the program. A `cond` with messages is bound by its index, so that it stays whole.

In nested loops a message is bound to each count. What a trace gives has no counts any more
(`without_counts`), so that programs, costs and digests are those of what was written; evaluating it
counts again.

>>> import jax, jax.numpy as jnp, secfad as fad
>>> add = lambda total, _: (total + fad.sum(1.0), None)
>>> loop = jax.make_jaxpr(lambda: jax.lax.scan(add, 0.0, length=3)[0])()
>>> [e.primitive.name for e in loop.eqns[-1].params["jaxpr"].eqns]
['federated_iteration', 'federated_sum', 'add']

Source: docs/decisions/0043-messages-are-bound-to-iterations.md.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, ShapedArray, Var
from secfad._jax_interpreters import before_binding, check_in_checkpoint, identity_primitive
from secfad.errors import ModeError
from secfad.jaxprs.equations import (
    COND,
    CONTROL_FLOW,
    JIT,
    REMAT,
    SCAN,
    WHILE,
    Atom,
    Call,
    Cond,
    Scan,
    While,
    view,
)
from secfad.jaxprs.inside import Inside, communicates, is_in, variables
from secfad.jaxprs.rewriting import Rewriter

# Gives its first operand; the second is the count of the iteration.
iteration_p = identity_primitive("federated_iteration")

_COUNT = ShapedArray((), np.dtype(np.int32))
_BOUND = jax.make_jaxpr(iteration_p.bind)(0.0, np.int32(0)).eqns[0]


def counted(body: ClosedJaxpr) -> ClosedJaxpr:
    """The body of a scan with the count as its last row, and every message bound to it."""
    return _taking_a_count(body, len(body.jaxpr.invars))


def _taking_a_count(body: ClosedJaxpr, at: int) -> ClosedJaxpr:
    """A program that takes a count at this position, with every message bound to it."""
    count = Var(_COUNT)
    fresh = _Binder(count).rewritten(body)
    invars = list(fresh.jaxpr.invars)
    invars.insert(at, count)
    jaxpr = _jax.new_jaxpr(invars, fresh.jaxpr.outvars, fresh.jaxpr.eqns, fresh.jaxpr.constvars)
    return ClosedJaxpr(jaxpr, fresh.consts)


def without_counts(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The program as it was written: no message is bound, and rows of counts are dead code."""
    return _Freeing().rewritten(closed) if _has_counts.in_jaxpr(closed.jaxpr) else closed


class _Freeing(Rewriter):
    """Takes counts away."""

    def equation(self, equation: JaxprEqn) -> None:
        """Takes them away from an equation and what is inside."""
        if equation.primitive is iteration_p:
            self.define(equation, self.now(equation.invars[:1]))
        elif _has_counts(equation):
            self.inside(equation, _Freeing)
        else:
            self.copy(equation)


_has_counts = Inside(lambda equation: equation.primitive is iteration_p)


class _Binder(Rewriter):
    """Binds the messages of a program to a count."""

    def __init__(self, count: Var):
        super().__init__()
        self.count = count

    def equation(self, equation: JaxprEqn) -> None:
        """Binds a message, or those inside of an equation."""
        if not communicates(equation):
            self.copy(equation)
            return
        match _opened(equation):
            case Scan(body=body, consts=consts) as loop:
                inner = _taking_a_count(body, len(consts))
                self.copy(loop.with_(body=inner, consts=[*consts, self.count]))
            case While() as loop:
                self.copy(
                    loop.with_(
                        predicate=_taking_a_count(loop.predicate, len(loop.predicate_consts)),
                        body=_taking_a_count(loop.body, len(loop.body_consts)),
                        predicate_consts=[*loop.predicate_consts, self.count],
                        body_consts=[*loop.body_consts, self.count],
                    )
                )
            case Cond(index=index, operands=operands) as choice:
                branches = [_taking_a_count(b, len(operands)) for b in choice.branches]
                (index,) = self._bound([index], equation)
                self.copy(
                    choice.with_(index=index, operands=[*operands, self.count], branches=branches)
                )
            case Call(body=body, operands=operands) if equation.primitive in JIT:
                self.define(equation, self.inline(body, self.now(operands), equation))
            case Call(body=body, operands=operands):
                inner = _taking_a_count(body, len(operands)).jaxpr
                params = equation.params | {"jaxpr": inner}
                if isinstance(params["prevent_cse"], tuple):
                    params["prevent_cse"] += (False,)
                self.copy(equation.replace(invars=[*operands, self.count], params=params))
            case None:
                # A call with a derivative rule takes its operands one by one, as a message does.
                self.copy(equation.replace(invars=self._bound(equation.invars, equation)))

    def _bound(self, atoms: Sequence[Atom], equation: JaxprEqn) -> list[Atom]:
        """Atoms that were read, bound to the count."""
        bound: list[Atom] = []
        for atom in self.now(atoms):
            bound.append(Var(atom.aval))  # type: ignore[arg-type]
            self.equations.append(
                _BOUND.replace(
                    invars=[atom, self.count],
                    outvars=bound[-1:],
                    source_info=equation.source_info,
                )
            )
        return bound


def _opened(equation: JaxprEqn) -> Call | Scan | While | Cond | None:
    """The view of control flow and of calls that can take one operand more; None of the others."""
    made = view(equation)
    enters = equation.primitive in CONTROL_FLOW | JIT | {REMAT}
    return made if enters and isinstance(made, Call | Scan | While | Cond) else None


def _is_bound(jaxpr: Jaxpr, changing: set[Var]) -> bool:
    """Whether every message of a program, at any depth, is bound to one of these inputs."""
    bound: set[Var] = set()
    for equation in jaxpr.eqns:
        operands = equation.invars
        if equation.primitive is iteration_p:
            if not (changing | bound).isdisjoint(variables(operands)):
                bound.update(equation.outvars)
        elif communicates(equation):
            control = _opened(equation)
            inside = control.entries(operands) if control else []
            outside = operands[:1] if equation.primitive is COND else operands if not inside else []
            if not all(is_in(v, bound) for v in outside):
                return False
            for body, taken in inside:
                entering = {v for a, v in zip(taken, body.jaxpr.invars) if is_in(a, changing)}
                if not _is_bound(body.jaxpr, entering):
                    return False
    return True


# Bodies of scans, and what they are with a count; None for those that need none.
_known: weakref.WeakKeyDictionary[ClosedJaxpr, ClosedJaxpr | None] = weakref.WeakKeyDictionary()


def _counting(operands: Sequence[Any], params: dict) -> tuple[Sequence[Any], dict]:
    """A scan as it is formed: with a count, if a message in it is not bound to its iterations."""
    body = params["jaxpr"]
    if body not in _known:
        changing = set(body.jaxpr.invars[params["num_consts"] :])
        needs_none = not communicates.in_jaxpr(body.jaxpr) or _is_bound(body.jaxpr, changing)
        _known[body] = None if needs_none else counted(body)
    fresh = _known[body]
    if fresh is None:
        return operands, params
    params = params | {"jaxpr": fresh}
    if "linear" in params:  # JAX before 0.9
        params["linear"] = (*params["linear"], False)
    # Rows and not a carry: what is transposed is linear in its carries.
    return [*operands, jax.lax.iota(np.int32, params["length"])], params


before_binding(SCAN, _counting)


def _require_once(loop: JaxprEqn) -> None:
    if communicates(loop):
        raise ModeError(
            f"{_jax.user_line(loop)}: reverse mode expected no `while` loop that communicates inside of "
            "jax.checkpoint, got one. What a loop of unknown length receives cannot be saved, so "
            "its messages would be sent again. Put jax.checkpoint around the work inside of the loop, or use "
            "mode='forward'."
        )


check_in_checkpoint(WHILE, _require_once)
