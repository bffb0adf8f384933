"""Provenance: traces the client value of a finding back to the arguments of the program.

A rejection names the line of the forbidden flow. This module adds the line where the client value
entered. It walks from the operands back to the arguments of the program, out of loops and calls. It
runs only for rejections and visits every equation at most once per rejection.

Source: the rustc development guide, "Diagnostics": primary and secondary locations.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from audits.checking.frontends import PLACEMENTS, Arg, Traced
from audits.rules.findings import Finding
from audits.rules.rules import Severity
from audits.transfer.interpreter import Checker, Path
from audits.transfer.labels import Place
from secfad.inner import Jaxpr, JaxprEqn, Var, equations, user_line

MOST_FINDINGS = 20


def with_origins(findings: Sequence[Finding], checker: Checker, traced: Traced) -> list[Finding]:
    """Adds the names of the client values, and the lines where they entered, to rejections."""
    made, left = [], MOST_FINDINGS
    for item in findings:
        if item.severity == Severity.REJECT and not item.entered and left > 0:
            left -= 1
            item = _with_origin(item, checker, traced)
        made.append(item)
    return made


def _with_origin(item: Finding, checker: Checker, traced: Traced) -> Finding:
    path = _path_of(item.where)
    if item.rule == "FAD005":
        return item if item.line else _at_first_use(item, checker, path or ())
    jaxpr = None if path is None else checker.programs.get(path[:-1])
    if path is None or jaxpr is None or not isinstance(path[-1], int):
        return item
    operands = [v for v in jaxpr.eqns[path[-1]].invars if isinstance(v, Var)]
    used = _reached(jaxpr, dict.fromkeys(operands, ""))
    arguments, lines = _climb(checker, path[:-1], jaxpr, used)
    held = [
        (traced.inputs[k], line)
        for k, line in zip(arguments, lines)
        if k < len(traced.inputs) and PLACEMENTS[traced.inputs[k].placement] >= Place.COPY
    ]
    if not held:
        return item
    entered = tuple(dict.fromkeys(line for _, line in held if line and line != item.line))
    return dataclasses.replace(item, entered=entered, source=_words([a for a, _ in held]))


def _at_first_use(item: Finding, checker: Checker, path: Path) -> Finding:
    """A captured array has no equation, so report the first line that uses it."""
    jaxpr = checker.programs.get(path)
    if jaxpr is None:
        return item
    for equation in jaxpr.eqns:
        for atom in equation.invars:
            captured = atom in jaxpr.constvars if isinstance(atom, Var) else True
            if captured and f"constant {tuple(atom.aval.shape)} " in item.message:  # type: ignore[attr-defined]
                return dataclasses.replace(item, line=user_line(equation))
    return item


def _words(arguments: Iterable[Arg]) -> str:
    names = list(dict.fromkeys(f"`{a.name}`" for a in arguments))
    return f"client value{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _path_of(where: str) -> Path | None:
    """Parses a path such as `3/body/2` that the interpreter wrote."""
    if not where:
        return None
    return tuple(int(step) if step.isdigit() else step for step in where.split("/"))


def _reached(jaxpr: Jaxpr, atoms: Mapping) -> dict[Var, str]:
    """The variables from which the operands are computed, with the line that uses each one."""
    found: dict[Var, str] = {v: line for v, line in atoms.items() if isinstance(v, Var)}
    for equation in reversed(jaxpr.eqns):
        if any(v in found for v in equation.outvars):
            line = user_line(equation)
            for atom in equation.invars:
                if isinstance(atom, Var):
                    found[atom] = line or found.get(atom, "")
    return found


def _climb(
    checker: Checker, path: Path, jaxpr: Jaxpr, found: dict[Var, str]
) -> tuple[list[int], list[str]]:
    """Maps the inputs of a nested program to those of the whole, with the line that uses each."""
    positions = [k for k, v in enumerate(jaxpr.invars) if v in found]
    lines = [found[jaxpr.invars[k]] for k in positions]
    if not path:
        return positions, lines
    steps = list(path)
    kind = steps.pop() if isinstance(steps[-1], str) else ""
    outer = checker.programs.get(tuple(steps[:-1]))
    if outer is None or not isinstance(steps[-1], int):
        return [], []
    equation = outer.eqns[steps[-1]]
    fed = [equation.invars[_operand(equation, str(kind), k)] for k in positions]
    operands = {atom: line for atom, line in zip(fed, lines) if isinstance(atom, Var)}
    return _climb(checker, tuple(steps[:-1]), outer, _reached(outer, operands))


def _operand(equation: JaxprEqn, kind: str, position: int) -> int:
    """The operand of a call, branch or loop that feeds an input of its program."""
    numbers = range(len(equation.invars))
    match equations.view(equation):
        case equations.Cond() as choice:
            return choice.split(numbers)[1][position]
        case equations.While() as loop:
            test, body, carry = loop.split(numbers)
            return [*(test if kind == "test" else body), *carry][position]
    return min(position, len(equation.invars) - 1)
