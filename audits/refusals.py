"""Turns errors of the front end, raised before a program exists, into findings of the checker.

A placement error names the line of the misuse. This module adds the rule, and the line that
declares the client argument from which the value comes.
"""

import dataclasses
import inspect
import linecache
import re
from types import MappingProxyType
from typing import Any

from audits.rules.findings import Finding, finding
from secfad import Computation
from secfad.errors import ModeError, PlacementError, SecfadError

PLACEMENT_RULES = MappingProxyType(
    {
        "implicit-broadcast": "FAD102",
        "addressed-broadcast": "FAD104",
        "misplaced-operand": "FAD117",
        "client-branch": "FAD201",
        "client-control": "FAD202",
    }
)
LONGEST_HEAD = 20
UNTRACEABLE = "`{}` cannot be traced: "  # what FAD007 says by itself


def refusal(computation: Computation, mode: str, error: Exception) -> Finding:
    """The finding for an error of the front end."""
    if isinstance(error, PlacementError):
        rule = PLACEMENT_RULES.get(error.kind, "FAD101")
        named = re.search(r"server value \(argument `([^`]+)`\)", str(error))
        made = finding(
            rule,
            line=error.line,
            value=named.group(1) if named else "the server value",
            primitive="federated operation",
            expected="other",
            found="misplaced",
            where="the program",
        )
        said = str(error).removeprefix(f"{error.line}: ")
        # The rule has its own remedy, so drop the advice of the error.
        made = dataclasses.replace(made, message=said.split(". ")[0].rstrip("."))
        client = re.search(r"client value \(argument `(\w+)`\)", said)
        if client is None:
            return made
        declared = declaration_line(computation.fun, client.group(1))
        source = f"client value `{client.group(1)}`"
        return dataclasses.replace(made, entered=declared, source=source)
    line = getattr(error, "line", "")
    text = (str(error).splitlines() or [""])[0].removeprefix(f"{line}: ")
    said, _, advice = text.removeprefix(UNTRACEABLE.format(computation.name)).partition(". ")
    short = f"{type(error).__name__}: {said.rstrip('.')}"
    # An error of secfad says what to do; one of JAX does not.
    remedy = advice.rstrip(".") if isinstance(error, SecfadError) else ""
    if mode == "primal" and not isinstance(error, ModeError):
        return finding("FAD007", function=computation.name, error=short, remedy=remedy, line=line)
    return finding("FAD304", mode=mode, error=short, remedy=remedy, line=line)


def declaration_line(fun: Any, argument: str) -> tuple[str, ...]:
    """The line in or above a function's signature that names an argument, in the format of
    findings.
    """
    code = getattr(inspect.unwrap(fun), "__code__", None)
    if code is None:
        return ()
    for number in range(code.co_firstlineno, code.co_firstlineno + LONGEST_HEAD):
        text = linecache.getline(code.co_filename, number)
        found = re.search(rf"\b{re.escape(argument)}\b", text)
        if found:
            return (f"{code.co_filename}:{number}:{found.start() + 1} ({code.co_name})",)
    return ()
