"""Contacts: what clients compute and send in one round, by whether it differs between them.

What follows from broadcasts alone is the same at every client. In a simulation it is computed once,
kept once if a later round needs it, and its sum is a multiple; only the rest is computed per client.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator

from secfad._jax import JaxprEqn, Var
from secfad.jaxprs.dependence import separated
from secfad.jaxprs.equations import Atom
from secfad.jaxprs.inside import is_in, variables
from secfad.programs.retention import Item, read_by_clients
from secfad.programs.stages import Round, Schedule, Stage, stage_of


@dataclasses.dataclass(frozen=True)
class Contact:
    """What clients do in a round.

    Attributes:
      replicated: What is the same at every client.
      per_client: What may differ; it reads results of `replicated` too. Its results are `sums`, then
        `kept`.
      sums: Results of the sums of values that may differ.
      kept: Values that may differ and that are needed later.
      multiples: The other sums: a value that is the same at every client, and the result.
    """

    replicated: Stage
    per_client: Stage
    sums: tuple[Var, ...]
    kept: tuple[Var, ...]
    multiples: tuple[tuple[Atom, Var], ...]


def contact(item: Round, differing: Collection[Var], needed: Collection[Var]) -> Contact:
    """Separates what clients do in a round.

    Args:
      item: The round.
      differing: Values that clients have from before and that may differ between them.
      needed: Values that are read after the round.
    """
    stage, varying = item.client, set(differing)
    replicated: list[JaxprEqn] = []
    per_client: list[JaxprEqn] = []
    for equation in stage.jaxpr.eqns:
        flags = [is_in(v, varying) for v in equation.invars]
        if not any(flags):
            replicated.append(equation)
            continue
        free, rest = separated(equation, flags) or ([], equation)
        replicated += free
        per_client.append(rest)
        varying.update(rest.outvars)
    pairs = [pair for m in item.uploads for pair in zip(m.inputs, m.outputs)]
    sent = [(v, r) for v, r in pairs if is_in(v, varying)]
    multiples = tuple((v, r) for v, r in pairs if not is_in(v, varying))
    if sent:
        operands, results = map(list, zip(*sent))
        per_client.append(item.uploads[0].equation.replace(invars=operands, outvars=results))
    sums = tuple(result for _, result in sent)
    kept = tuple(v for v in stage.outputs if v in needed and v in varying)
    read = {*needed, *_variables(per_client), *variables(v for v, _ in multiples)}
    known = [v for e in replicated for v in e.outvars if v in read]
    constants = dict(zip(stage.jaxpr.constvars, stage.constants))
    alike = stage_of(stage.placement, replicated, known, constants)
    different = stage_of(stage.placement, per_client, [*sums, *kept], constants)
    return Contact(alike, different, sums, kept, multiples)


def read_later(plan: Schedule) -> dict[Item, set[Var]]:
    """For every item of a schedule, what clients after it read, or the result."""
    read, later = set(variables(plan.placed.results)), {}
    for item in reversed(plan.items):
        later[item] = set(read)
        read |= read_by_clients(item)
    return later


def _variables(equations: Iterable[JaxprEqn]) -> Iterator[Var]:
    return variables(v for e in equations for v in e.invars)
