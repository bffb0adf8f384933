"""Choices: a `cond` that only prepares another one becomes part of it.

JAX's reverse mode splits a server's choice into one that computes what its derivative needs and one
that is the derivative. If nobody needs the value itself, the first one does not communicate any more: it
would have the server choose silently between client values. As both are decided by the same number,
each branch of the first can run inside the same branch of the second, where the clients learn of the
choice anyway.
"""

from collections.abc import Hashable, Sequence
from typing import Any

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from secfad.jaxprs.equations import COND, CONTROL_FLOW, Inside, bodies, communicates, with_bodies
from secfad.jaxprs.rewriting import renamed


def join_choices(jaxpr: Jaxpr, talks: Inside | None = None) -> Jaxpr:
    """Moves every silent `cond` into the communicating one that alone reads it, at any depth.

    Args:
      jaxpr: A program in which communication stands at the top level or in control flow.
      talks: Shared between calls, to look at every nested program once.
    """
    talks = communicates if talks is None else talks
    equations = [
        with_bodies(e, lambda body: join_choices(body, talks))
        if e.primitive in CONTROL_FLOW and talks(e)
        else e
        for e in jaxpr.eqns
    ]
    if any(e.primitive is COND and talks(e) for e in equations):
        equations = _Joiner(jaxpr, equations, talks).joined()
    return _jax.new_jaxpr(jaxpr.invars, jaxpr.outvars, equations, jaxpr.constvars)


class _Joiner:
    """The equations of one program, who reads each variable and what defines it."""

    def __init__(self, jaxpr: Jaxpr, equations: Sequence[JaxprEqn], talks: Inside):
        self.equations: list[JaxprEqn | None] = list(equations)
        self.talks = talks
        # -1 stands for the result of the program.
        self.readers: dict[Var, set[int]] = {v: {-1} for v in jaxpr.outvars if isinstance(v, Var)}
        self.makers: dict[Var, JaxprEqn] = {}
        for position, equation in enumerate(equations):
            self.makers.update((v, equation) for v in equation.outvars)
            for variable in equation.invars:
                if isinstance(variable, Var):
                    self.readers.setdefault(variable, set()).add(position)

    def joined(self) -> list[JaxprEqn]:
        """The equations, with every silent choice in its only reader where that is possible."""
        for position in reversed(range(len(self.equations))):
            self._join(position)
        return [e for e in self.equations if e is not None]

    def _join(self, position: int) -> None:
        first = self.equations[position]
        if first is None or first.primitive is not COND or self.talks(first):
            return
        users = set().union(*(self.readers.get(v, set()) for v in first.outvars))
        if len(users) != 1 or -1 in users:
            return
        user = users.pop()
        second = self.equations[user]
        if second is None or second.primitive is not COND or not self.talks(second):
            return
        if self._meaning(first.invars[0]) != self._meaning(second.invars[0]):
            return
        self.equations[user], self.equations[position] = _composed(first, second), None
        for variable in first.invars:
            if isinstance(variable, Var):
                self.readers[variable] = (self.readers[variable] - {position}) | {user}

    def _meaning(self, atom: Any, depth: int = 4) -> Hashable:
        """Equal for two atoms that are certainly the same number."""
        if isinstance(atom, Literal):
            # Text abbreviates large arrays.
            scalar = atom.aval.shape == ()  # type: ignore[union-attr]
            return (str(atom.aval), str(atom.val)) if scalar else id(atom)
        maker = self.makers.get(atom)
        if maker is None or depth == 0 or len(maker.outvars) > 1 or any(bodies(maker)):
            return id(atom)
        params = tuple((name, str(value)) for name, value in sorted(maker.params.items()))
        operands = tuple(self._meaning(v, depth - 1) for v in maker.invars)
        return (maker.primitive.name, params, operands)


def _composed(first: JaxprEqn, second: JaxprEqn) -> JaxprEqn:
    """The second choice, with the branches of the first inside its own."""
    kept = [i for i, v in enumerate(second.invars[1:]) if v not in first.outvars]
    pairs = zip(first.params["branches"], second.params["branches"])
    branches = tuple(_sequence(a, b, first.outvars, second.invars[1:], kept) for a, b in pairs)
    invars = [*first.invars, *(second.invars[1 + i] for i in kept)]
    return second.replace(invars=invars, params=second.params | {"branches": branches})


def _sequence(
    a: ClosedJaxpr, b: ClosedJaxpr, results: Sequence[Var], operands: Sequence, kept: Sequence[int]
) -> ClosedJaxpr:
    """One branch after the other; `kept` are the operands of the second that stay operands."""
    before = renamed(a)
    made = dict(zip(results, before.jaxpr.outvars))
    inputs = [
        Var(own.aval) if i in kept else made[operand]
        for i, (own, operand) in enumerate(zip(b.jaxpr.invars, operands))
    ]
    after = renamed(b, inputs)
    jaxpr = _jax.new_jaxpr(
        [*before.jaxpr.invars, *(inputs[i] for i in kept)],
        after.jaxpr.outvars,
        [*before.jaxpr.eqns, *after.jaxpr.eqns],
        [*before.jaxpr.constvars, *after.jaxpr.constvars],
    )
    return ClosedJaxpr(jaxpr, [*before.consts, *after.consts])
