"""What a caller declares about a program, and its comparison with what the check found."""

import dataclasses
from collections.abc import Sequence

from audits.bounds.noise_scales import REPLACE_FACTOR
from audits.bounds.sum_bounds import SumBound
from audits.checking.frontends import PLACEMENTS, Traced
from audits.rules.findings import Event, Finding, finding
from audits.rules.rules import Severity

_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Declared:
    """The caller's statements about the program; public information."""

    public: frozenset[str] = frozenset()
    neighbouring: str | None = None
    noise_multipliers: Sequence[float] | None = None
    sensitivity: Sequence[float] | None = None
    primal_bounded: bool = False
    noised_when_run: bool = False

    def __post_init__(self) -> None:
        if self.neighbouring is not None and self.neighbouring not in REPLACE_FACTOR:
            raise ValueError(
                f"Expected a relation of {', '.join(REPLACE_FACTOR)}, got {self.neighbouring!r}."
            )


def with_outputs(traced: Traced, outputs: Sequence[str] | None) -> Traced:
    """The program with a required placement of every flat output.

    Raises:
      ValueError: A placement is unknown, or their number is not that of the outputs.
    """
    if outputs is None:
        return traced
    if len(outputs) != len(traced.wants) or set(outputs) - set(PLACEMENTS):
        raise ValueError(
            f"Expected a placement of {', '.join(PLACEMENTS)} for each of the {len(traced.wants)} "
            f"outputs, got {list(outputs)}."
        )
    names = tuple(f"output {k}" for k in range(len(outputs)))
    return dataclasses.replace(traced, wants=tuple(PLACEMENTS[o] for o in outputs), subjects=names)


def sensitivity_findings(
    declared: Declared, bounds: Sequence[SumBound], events: dict[int, Event]
) -> list[Finding]:
    """Compares declared sensitivities, one per sum, with the bounds under the declared relation."""
    if declared.sensitivity is None:
        return []
    if len(declared.sensitivity) != len(bounds):
        raise ValueError(
            f"Expected a sensitivity for each of the {len(bounds)} sums, got "
            f"{len(declared.sensitivity)}."
        )
    relation = declared.neighbouring or "add_remove"
    found = []
    for stated, bound in zip(declared.sensitivity, bounds):
        least = None if bound.amount is None else bound.amount.number
        line, allowed = events[bound.event].line, stated * (1 + _ROUNDING)
        if least is None or least * bound.slack * REPLACE_FACTOR[relation] <= allowed:
            continue
        if least * bound.slack <= allowed:
            words = {"found": "add or remove one", "expected": relation.replace("_", " ")}
            found.append(finding("FAD412", severity=Severity.REJECT, line=line, **words))
        else:
            found.append(
                finding(
                    "FAD406",
                    line=line,
                    std=f"for a declared sensitivity of {stated:.4g}",
                    sensitivity=f"{least * REPLACE_FACTOR[relation]:.4g}",
                    multiplier="too small",
                    expected="a sensitivity of at least the bound",
                )
            )
    return found
