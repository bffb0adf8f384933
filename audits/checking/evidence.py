"""Evidence: the placement of every variable, so that a verifier re-checks a proof without search.

The checker finds loop invariants by iteration. The evidence states them, so the verifier confirms
each equation once. It has one letter per variable, in the order constants, inputs, results: K
public, S server, B a client's copy of a broadcast, C a client's own value.
"""

from collections.abc import Mapping

from audits.transfer.interpreter import Checker
from audits.transfer.labels import Place
from secfad.inner import Jaxpr

LETTERS = {Place.PUBLIC: "K", Place.SERVER: "S", Place.COPY: "B", Place.CLIENT: "C"}


def evidence_of(checker: Checker) -> Mapping[str, str]:
    """Path of each jaxpr inside a walked program to the letters of its variables."""
    made = {}
    for path, labels in checker.evidence.items():
        jaxpr = checker.programs[path]
        made["/".join(map(str, path))] = "".join(
            LETTERS[labels[v].place] if v in labels else "K" for v in variables(jaxpr)
        )
    return made


def variables(jaxpr: Jaxpr) -> list:
    """The variables of a jaxpr in the order of the evidence."""
    made = [*jaxpr.constvars, *jaxpr.invars]
    for equation in jaxpr.eqns:
        made += equation.outvars
    return made
