"""Slices: parts of a program that lead from some variables to others."""

from collections.abc import Sequence

from secfad._jax import ClosedJaxpr
from secfad._jax_interpreters import dce
from secfad.jaxprs.equations import variables


def live(closed: ClosedJaxpr, wanted: Sequence[bool] | None = None) -> ClosedJaxpr:
    """The program without what none of its wanted results needs; it keeps its inputs.

    Args:
      closed: The program.
      wanted: Which results stay; all of them by default.
    """
    jaxpr = dce(closed.jaxpr, [True] * len(closed.jaxpr.outvars) if wanted is None else wanted)
    used = {v for e in jaxpr.eqns for v in variables(e.invars)} | {*variables(jaxpr.outvars)}
    kept = [(v, c) for v, c in zip(jaxpr.constvars, closed.consts) if v in used]
    constvars, consts = ([v for v, _ in kept], [c for _, c in kept])
    return ClosedJaxpr(jaxpr.replace(constvars=constvars), consts)
