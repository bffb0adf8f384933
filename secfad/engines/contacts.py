"""Contacts: what clients compute and send in one round, by whether it differs between them.

What follows from broadcasts alone is the same at every client. In a simulation it is computed once,
kept once if a later round needs it, and its sum is a multiple; only the rest is computed per client.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Sequence

from secfad import _jax
from secfad._jax import JaxprEqn, Var
from secfad.jaxprs.dependence import separated
from secfad.primitives import sum_p
from secfad.programs.blocks import Atom
from secfad.programs.stages import Round, Stage


@dataclasses.dataclass(frozen=True)
class Contact:
    """What clients do in a round.

    Attributes:
      alike: What is the same at every client.
      own: What may differ; it reads results of `alike` too. Its results are `sums`, then `kept`.
      sums: Results of the sums of values that may differ.
      kept: Values that may differ and that are needed later.
      multiples: The other sums: a value that is the same at every client, and the result.
    """

    alike: Stage
    own: Stage
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
    stage, own = item.client, set(differing)
    alike: list[JaxprEqn] = []
    rest: list[JaxprEqn] = []
    for equation in stage.jaxpr.eqns:
        flags = [_is_in(v, own) for v in equation.invars]
        if not any(flags):
            alike.append(equation)
            continue
        free, left = separated(equation, flags) or ([], equation)
        alike += free
        rest.append(left)
        own.update(left.outvars)
    pairs = [pair for m in item.uploads for pair in zip(m.inputs, m.outputs)]
    sent = [(v, r) for v, r in pairs if _is_in(v, own)]
    multiples = tuple((v, r) for v, r in pairs if not _is_in(v, own))
    if sent:
        rest.append(_sum(sent))
    sums = tuple(result for _, result in sent)
    kept = tuple(v for v in stage.outputs if v in needed and v in own)
    read = {*needed, *_variables(rest), *(v for v, _ in multiples if isinstance(v, Var))}
    known = [v for e in alike for v in e.outvars if v in read]
    made = _part(stage, alike, known), _part(stage, rest, [*sums, *kept])
    return Contact(*made, sums, kept, multiples)


def _part(stage: Stage, equations: Sequence[JaxprEqn], results: Sequence[Var]) -> Stage:
    """Some equations of a stage; inputs are what they read and do not define."""
    defined = {v for e in equations for v in e.outvars}
    read = [v for v in dict.fromkeys((*_variables(equations), *results)) if v not in defined]
    constants = dict(zip(stage.jaxpr.constvars, stage.constants))
    captured = [v for v in read if v in constants]
    inputs = [v for v in read if v not in constants]
    jaxpr = _jax.new_jaxpr(inputs, results, equations, captured)
    values = tuple(constants[v] for v in captured)
    return Stage(stage.placement, jaxpr, tuple(inputs), tuple(results), values)


def _variables(equations: Iterable[JaxprEqn]) -> Iterator[Var]:
    return (v for e in equations for v in e.invars if isinstance(v, Var))


def _is_in(atom: Atom, variables: Collection[Var]) -> bool:
    return isinstance(atom, Var) and atom in variables


def _sum(pairs: list[tuple[Atom, Var]]) -> JaxprEqn:
    operands, results = zip(*pairs)
    specs = [_jax.spec(v.aval) for v in operands]
    made = _jax.make_jaxpr(functools.partial(sum_p.bind, name="contact"), specs)[0].jaxpr.eqns[0]
    return made.replace(invars=list(operands), outvars=list(results))
