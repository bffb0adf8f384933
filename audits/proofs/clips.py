"""Clips: the bounds and the mechanism of a certificate, compared with the clips of its program.

Bounds are accepted only in the form that `privatize` writes: the operand of a sum is a result of
`fad.clip` with a constant bound. Everything that a certificate states about a sum can then be read off
the equation of its clip, so nothing about it has to be believed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from audits.bounds.rounding import slack_of
from audits.proofs.places import Sent
from audits.proofs.programs import Constant, Equation, items
from privacy.accounting.sizes import STATEMENT
from privacy.certificates.certificates import Bound, Certificate
from privacy.mechanisms.mechanisms import Gaussian, Mechanism, MechanismError, Skellam

_CLOSE = 1 + 1e-9


class ClippedSum(NamedTuple):
    """A sum of one result of a clip.

    Attributes:
      name: Of the sum.
      count: How often it is executed; 0 in a branch that sends less.
      clip: The equation of the clip.
      index: Position among its results.
      norm: Largest L2 norm of the result.
      unit: Its unit in the joint norm.
      dtype: Its dtype.
    """

    name: str
    count: int
    clip: Equation
    index: int
    norm: float
    unit: float
    dtype: str


def clipped(sent: Sent) -> ClippedSum | None:
    """The clip of what a sum adds up; None if it is no result of a clip with a constant bound."""
    body, operand = sent.equation.body, sent.operand
    clip = next((e for e in body.equations if operand in e.outputs), None)
    if clip is None or clip.kind != "clip":
        return None
    bound = clip.inputs[0]
    if not isinstance(bound, Constant) or bound.number is None:
        return None
    index = clip.outputs.index(operand)
    kind, text = items(clip.params["norms"])[index]
    unit, dtype = float(text), body.aval(operand).dtype
    if kind != "float" or not 0 < unit < math.inf:
        return None  # the unit of a clip is positive; one below zero would state a smaller norm
    norm = abs(float(bound.number)) * unit
    return ClippedSum(sent.equation.label, sent.count, clip, index, norm, unit, dtype)


def fault_of_bounds(
    certificate: Certificate, mode: str, found: Sequence[ClippedSum], rounds: float
) -> str | None:
    """The first statement about bounds that the program does not prove; None if all hold.

    Args:
      certificate: Of profile `secagg+dp`.
      mode: The mode whose bounds are compared.
      found: The sums of the program, in order.
      rounds: Contacts of the program in which clients send.
    """
    stated = certificate.bounds.get(mode, ())
    if [b.sum for b in stated] != [s.name for s in found]:
        return "The bounds of the certificate are for other sums."
    for bound, proved in zip(stated, found):
        if (fault := _fault_of_one(bound, proved)) is not None:
            return fault
    short = next((p for p in found if slack_of(p.dtype) > 1), None)
    if short is not None and "FAD408" not in {o.rule for o in certificate.obligations}:
        return f"FAD408: sum {short.name!r} is of {short.dtype}, and no obligation says so."
    return _fault_of_groups(stated, found) or _fault_of_mechanism(certificate, found, rounds)


def _fault_of_one(stated: Bound, proved: ClippedSum) -> str | None:
    norm, slack = stated.norm, slack_of(proved.dtype)
    what = f"Sum {stated.sum!r}"
    if not isinstance(norm, int | float) or not proved.norm <= norm * _CLOSE:
        return f"{what} is clipped to {proved.norm}, stated is {norm}."
    if not math.isclose(stated.unit, proved.unit, rel_tol=1e-9):
        return f"{what} has the unit {proved.unit} in its clip, stated is {stated.unit}."
    if not slack <= stated.slack * _CLOSE:
        return f"{what} may exceed its norm by the factor {slack}, stated is {stated.slack}."
    if stated.proof != "clip":
        return f"{what} is bounded by a clip, stated is the proof {stated.proof!r}."
    return None


def _fault_of_groups(stated: Sequence[Bound], found: Sequence[ClippedSum]) -> str | None:
    """Sums of one group must be different results of one clip, and a clip must be one group."""
    clips: dict[str, Equation] = {}
    summed = set()
    for bound, proved in zip(stated, found):
        if clips.setdefault(bound.group, proved.clip) is not proved.clip or not bound.group:
            return f"Sum {bound.sum!r} is not clipped jointly with the others of {bound.group!r}."
        if (proved.clip, proved.index) in summed:
            return f"Sum {bound.sum!r} adds a clipped value that another sum has added."
        summed.add((proved.clip, proved.index))
    return None


def _fault_of_mechanism(
    certificate: Certificate, found: Sequence[ClippedSum], rounds: float
) -> str | None:
    """A mechanism beside smaller clips is consistent; the run compares its noise."""
    record = certificate.mechanism
    if not record:
        return None
    try:
        mechanism = _mechanism(record)
        for proved in found:
            limit = mechanism.clip_norm_of(proved.name)
            if not proved.norm <= limit * _CLOSE:
                return f"Sum {proved.name!r} is clipped to {proved.norm}, its mechanism to {limit}."
    except (MechanismError, TypeError, ValueError) as error:
        return f"The mechanism of the certificate is not one of secfad: {error}"
    if mechanism.by_clients and STATEMENT not in certificate.assumptions:
        return f"The assumption of noise by clients is missing: {STATEMENT!r}."
    clips = {proved.clip: proved.count for proved in found}
    # Each round has a clip, so none has two; of a loop without a length nobody knows.
    apart = math.isinf(rounds) or sum(clips.values()) > rounds
    if mechanism.joint and apart and len(clips) > 1:
        return "The sums of a round are clipped apart, the mechanism states one joint clip."
    return None


def _mechanism(record: Mapping[str, Any]) -> Mechanism:
    options = dict(record)
    kind, noise = options.pop("mechanism", None), options.pop("noise", None)
    if kind == Gaussian.kind:
        return Gaussian(noise=noise, **options)
    if kind == Skellam.kind and noise == "distributed":
        return Skellam(**options)
    raise MechanismError(f"expected {Gaussian.kind!r} or {Skellam.kind!r}, got {kind!r}")
