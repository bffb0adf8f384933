"""`secfad accept`: writes who accepts an obligation of a program, and why."""

from collections.abc import Callable

from audits.commands.certification import CERTIFIED, REJECTED
from audits.commands.projects import Project, add_acceptances
from audits.commands.targets import UnusableInput
from audits.rules.catalogue import RULES
from audits.rules.rules import Severity
from privacy.certificates.acceptances import Acceptance


def accept_rule(
    rule: str,
    *,
    reason: str,
    by: str,
    date: str,
    program: str | None = None,
    project: Project | None = None,
    write: Callable[[str], None] = print,
) -> int:
    """Accepts every obligation that a program has under a rule, in all modes that it is certified in.

    Args:
      rule: Rule id.
      reason: Why it is acceptable.
      by: Who accepts it.
      date: The day, as YYYY-MM-DD.
      program: Name of a program of the project, or a target; the only one with the rule by default.
      project: Where the acceptances are kept; that of the current folder by default.
      write: Receives what was accepted.

    Returns:
      0 written; 1 the program is rejected.

    Raises:
      UnusableInput: There is no such rule, no such obligation, or the acceptance is incomplete.
    """
    project = project or Project.find()
    if rule not in RULES:
        raise UnusableInput(f"Expected a rule of an obligation, such as FAD306, got {rule!r}.")
    if RULES[rule].severity == Severity.NOTE:
        raise UnusableInput(f"Expected a rule of an obligation, got {rule}, which is a note.")
    requests = project.programs if program is None else project.requests(program)
    found: dict[str, list[Acceptance]] = {}
    for name, request in requests.items():
        answer = request.answer()
        if answer.rejected and program is not None:
            write(f"{name} is rejected. See secfad certify {request.target}.")
            return REJECTED
        made = [
            Acceptance(rule, o.text, reason, by, date, project.identity(request.target))
            for o in answer.obligations
            if o.rule == rule and not answer.rejected
        ]
        if made:
            found[name] = made
    if len(found) != 1 and (program is None or not found):
        raise UnusableInput(_which(rule, found, requests))
    given = [a for made in found.values() for a in made]
    faults = [a.fault for a in given if a.fault is not None]
    if faults:
        raise UnusableInput(f"Expected {faults[0]}, got another one.")
    add_acceptances(project.acceptances, given)
    for acceptance in dict.fromkeys(given):
        write(f"{acceptance.program}: {acceptance}\n  {acceptance.text}")
    write(f"written to {project.acceptances}")
    return CERTIFIED


def _which(rule: str, found: dict, requests: object) -> str:
    if found:
        names = ", ".join(found)
        return f"Expected one program with {rule}, got {names}. Name one with --program."
    if not requests:
        return "Expected a program, got none. Name one with --program FILE.py:NAME."
    return f"Expected a program with the obligation {rule}, got none that has it."
