"""Checks the results: each has an allowed placement, and a client result is the client's own row.

A value that the server receives is a function of sums. A value that clients keep is their declared
state. A value that a reverse mode returns to clients is the cotangent of their own argument, row by
row or the same for all.
"""

from collections.abc import Sequence
from typing import Any

from audits.checking.frontends import Traced
from audits.rules.findings import Finding, finding
from audits.transfer.interpreter import Checker, Scope
from audits.transfer.labels import REPLICATED, Label, Place
from audits.transfer.styles import Style
from secfad.inner import user_line


def judge_outputs(
    checker: Checker, traced: Traced, style: Style, outs: Sequence[Label], mode: str
) -> list[Finding]:
    """The findings about the results of a walked program."""
    free = [(a.shape, str(a.spec.dtype)) for a in traced.inputs if a.placement == "client_state"]
    found: list[Finding | None] = []
    for position, (label, want) in enumerate(zip(outs, traced.wants)):
        if label.poisoned:
            continue
        aval: Any = traced.closed.jaxpr.outvars[position].aval
        if want == Place.SERVER:
            if label.on_clients:
                found.append(_misplaced(traced, style, position, mode))
        elif want is not None:
            found.append(_returned(checker, traced, style, label, position))
        elif label.place == Place.CLIENT and not style.client_outputs:
            key = (tuple(aval.shape), str(aval.dtype))
            if key in free:
                free.remove(key)
                found.append(_returned(checker, traced, style, label, position))
            else:
                found.append(_escape(traced, position))
    return [f for f in found if f is not None]


def _returned(
    checker: Checker, traced: Traced, style: Style, label: Label, position: int
) -> Finding | None:
    """Checks a result at the clients: their own rows, or one value for all clients."""
    line = producer_line(traced, position)
    what = traced.subjects[position] or f"output {position}"
    same_for_all = label.client_axis is None and label.tags[:1] in ("", REPLICATED)
    if label.place == Place.SERVER:
        if style.stacked and not same_for_all:
            return finding("FAD104", line=line, primitive=what)
        if style.stacked:
            sources = label.axes[0].sources if label.axes else frozenset()
            checker.send(sources, label.depth, Scope())
            return None
        return finding("FAD102", severity=style.implicit, line=line, value=what)
    if not style.stacked or label.client_axis == 0:
        return None
    if same_for_all and label.place != Place.CLIENT:
        return None
    rule = "FAD111" if label.place == Place.PUBLIC else "FAD109"
    return finding(rule, line=line, primitive=what)


def _misplaced(traced: Traced, style: Style, position: int, mode: str) -> Finding:
    value = traced.subjects[position]
    line = producer_line(traced, position)
    if mode == "primal":
        return finding("FAD101", line=line, where=f"output {position}")
    if traced.custom:
        return finding("FAD303", line=line, found="client", expected="server", value=value)
    if style.name == "spmd":
        return finding("FAD308", line=line)
    return finding("FAD301", line=line, mode=mode, value=value)


def _escape(traced: Traced, position: int) -> Finding:
    line = producer_line(traced, position)
    return finding("FAD101", line=line, where=f"output {position}")


def producer_line(traced: Traced, position: int) -> str:
    """The user's line that computes an output."""
    variable = traced.closed.jaxpr.outvars[position]
    for equation in reversed(traced.closed.jaxpr.eqns):
        if any(v is variable for v in equation.outvars):
            return user_line(equation)
    return ""
