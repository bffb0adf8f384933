"""Slices: the part of a program that some of its results need."""

from collections.abc import Iterable, Sequence

from secfad._jax import ClosedJaxpr, JaxprEqn, Var
from secfad._jax_interpreters import dce
from secfad.jaxprs.equations import Atom
from secfad.jaxprs.inside import variables


def live(closed: ClosedJaxpr, wanted: Sequence[bool] | None = None) -> ClosedJaxpr:
    """The program without what none of its wanted results needs; it keeps its inputs.

    Args:
      closed: The program.
      wanted: Which results stay; all of them by default.
    """
    jaxpr = dce(closed.jaxpr, [True] * len(closed.jaxpr.outvars) if wanted is None else wanted)
    if not jaxpr.constvars:
        return ClosedJaxpr(jaxpr, ())
    used = {v for e in jaxpr.eqns for v in e.invars if isinstance(v, Var)}
    used.update(variables(jaxpr.outvars))
    kept = [(v, c) for v, c in zip(jaxpr.constvars, closed.consts) if v in used]
    constvars = [v for v, _ in kept]
    return ClosedJaxpr(jaxpr.replace(constvars=constvars), [c for _, c in kept])


def leading_to(equations: Sequence[JaxprEqn], atoms: Iterable[Atom]) -> list[JaxprEqn]:
    """Those of the equations that some atoms depend on, in order."""
    wanted, found = {*variables(atoms)}, []
    for equation in reversed(equations):
        if not wanted.isdisjoint(equation.outvars):
            found.append(equation)
            wanted.update(variables(equation.invars))
    return found[::-1]
