"""The verifier: re-checks a certificate against a program as data, without search.

This is the trusted part. It shares with the checker only the table of accepted primitives. It runs nothing
of the program, needs neither JAX nor the program's code, and finds nothing by iteration that the evidence
could state. It confirms placements (`places`), derives the schedule and what clients keep again (`timing`,
`state`, `pairs`), and reads bounds off the clips (`clips`).

Source: proof-carrying code, where the consumer checks a proof that the producer had to find.
"""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from audits.proofs import programs as data
from audits.proofs.clips import ClippedSum, clipped, fault_of_bounds
from audits.proofs.pairs import goes_back
from audits.proofs.places import Places, Sent, VerificationError
from audits.proofs.state import State
from audits.proofs.timing import Timing
from audits.rules.assumptions import ASSUMPTIONS
from privacy.certificates.certificates import Certificate
from privacy.certificates.cohort_ranges import NONE_STATED, SMALLEST
from privacy.checking import shown

if TYPE_CHECKING:
    from secfad import Program

_MALFORMED = (
    *(AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError),
    ArithmeticError,
)


def verify(certificate: Certificate, program: "Program | str", mode: str = "primal") -> None:
    """Confirms that a certificate's evidence proves its statement about a program.

    Guarantees:
      Returns only if the digest is the program's, every equation satisfies the placement rules under
      the stated placements, the messages, their phases, the arguments and what is said of clients are
      those of the program, and under profile `secagg+dp` every sum's operand is clipped to at most its
      stated bound.

    Args:
      certificate: The statement, with its evidence.
      program: A traced program, or its canonical form (`Program.canonical`).
      mode: The mode of the certificate that the program is of.

    Raises:
      VerificationError: At the first claim that does not hold.
    """
    form = program if isinstance(program, str) else getattr(program, "canonical", None)
    if not isinstance(certificate, Certificate) or not isinstance(form, str):
        raise VerificationError(
            f"Expected a certificate and a traced program, got {shown(certificate)} and "
            f"{shown(program)}. Call audits.verify(certificate, private.program), or trace the "
            "computation with secfad.trace; read a certificate with privacy.Certificate.from_json."
        )
    try:
        _verify(certificate, form, mode)
    except _MALFORMED as error:
        raise VerificationError(
            f"Expected a program in canonical form with evidence for it, got {error!r}."
        ) from error


def _verify(certificate: Certificate, form: str, mode: str) -> None:
    if certificate.digests.get(mode) != hashlib.sha256(form.encode()).hexdigest():
        raise VerificationError(f"FAD006: the certificate has another digest for mode {mode!r}.")
    program = data.Program.read(form)
    _require(_fault_of_profile(certificate))
    obligations = frozenset(o.rule for o in certificate.obligations)
    places = Places(certificate.evidence.get(mode, {}), obligations)
    start = ["C" if p == "clients" else "S" for p in program.placements]
    for letter, place in zip(places.confirm(program.body, start), program.results, strict=True):
        if letter in "BC" and place != "clients":
            raise VerificationError("FAD101: a client value is a result at the server.")
    timing = Timing(places)
    table, state = timing.timetable(program.body), State(timing)
    costs = state.costs(table)
    _require(_fault_of_clients(certificate, costs.state_bytes, goes_back(timing, table)))
    _require(_fault_of_messages(certificate, mode, places, list(state.phases(table))))
    if mode == stated_mode(certificate.digests) and _arguments(program) != list(
        map(_stated_argument, certificate.arguments)
    ):
        raise VerificationError("The arguments of the program are not those of the certificate.")
    if certificate.profile == "secagg+dp":
        found = list(map(_clipped, places.sums))
        _require(fault_of_bounds(certificate, mode, found, costs.rounds))


def _clipped(sent: Sent) -> ClippedSum:
    found = clipped(sent)
    if found is None:
        raise VerificationError(f"Sum {sent.equation.label!r} adds a value that is not clipped.")
    return found


def _require(fault: str | None) -> None:
    if fault is not None:
        raise VerificationError(fault)


def stated_mode(modes: Iterable[str]) -> str:
    """The mode whose arguments a certificate states; the primal if it has one."""
    return "primal" if "primal" in modes else min(modes)


def _arguments(program: data.Program) -> list[dict[str, Any]]:
    return [
        {
            "position": k,
            "shape": list(program.body.avals[v].shape),
            "dtype": program.body.avals[v].dtype,
            "placement": placement,
        }
        for k, (v, placement) in enumerate(zip(program.body.inputs, program.placements))
    ]


def _stated_argument(stated: Any) -> dict[str, Any]:
    return {**stated, "shape": list(stated["shape"])}


def _fault_of_messages(
    certificate: Certificate, mode: str, places: Places, phases: list[int]
) -> str | None:
    stated = certificate.schedule.get(mode, ())
    found = [sent.statement for sent in places.messages]
    if [(m.kind, m.name, m.shape, m.dtype, m.bytes, m.count) for m in stated] != found:
        return "The messages of the program are not those of the certificate."
    # With branches of different messages, the certificate states one of them.
    if len(phases) == len(stated) and phases != [m.phase for m in stated]:
        return "The phases of the messages are not those of the certificate."
    return None


def _fault_of_clients(certificate: Certificate, state_bytes: float, goes_back: bool) -> str | None:
    """Clients that are needed again, though the certificate does not say so."""
    stated, again = certificate.clients, state_bytes > 0 or goes_back
    if again and stated.get("readdress") is not True:
        return "The same clients are needed again, which the certificate denies."
    kept = stated.get("residual_bytes")
    # A certificate of several modes states the most of all.
    if not isinstance(kept, int | float) or not state_bytes <= kept:
        return f"Clients keep {state_bytes} bytes between contacts, stated are {kept!r}."
    if again and "FAD306" not in {o.rule for o in certificate.obligations}:
        return "FAD306: the same clients are needed again, and no obligation says so."
    return None


def _fault_of_profile(certificate: Certificate) -> str | None:
    """A statement that the profile or the modes of the certificate do not cover."""
    if certificate.profile == "secagg" and (certificate.bounds or certificate.mechanism):
        return "Bounds and a mechanism are stated, but the profile proves communication only."
    stated = {*certificate.schedule, *certificate.bounds, *certificate.evidence}
    if other := stated - set(certificate.digests):
        return f"Modes without a digest are stated: {sorted(other)}."
    if missing := set(ASSUMPTIONS) - set(certificate.assumptions):
        return f"An assumption of every proof is missing: {min(missing)!r}."
    if certificate.cohort.minimum < SMALLEST and certificate.cohort != NONE_STATED:
        return f"Sums over fewer than {SMALLEST} clients are stated to be secure."
    return None
