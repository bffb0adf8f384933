"""The verifier: re-checks a certificate against a program in one pass, without search.

This is the trusted part. It shares with the checker only the identity of primitives, the decision
which primitives are local, and the limits of counted loops. It has no fixpoints, no facts and no
recovery. It visits each equation once, reads the placements of operands and results from the
evidence, and compares them with the few rules below. It accepts bounds only in the form that
`privatize` writes: the operand of a sum is the result of a clip with a constant bound.

    K public, S server, B a client's copy of a broadcast, C a client's own

Source: proof-carrying code, where the consumer checks a proof that the producer had to find.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from audits.checking.contacts import phases
from audits.checking.evidence import variables
from audits.checking.verified_bounds import Clipped, ClippedSum, clipped, fault_of_bounds
from audits.rules.assumptions import ASSUMPTIONS
from audits.transfer import registry
from audits.transfer.loops import loop_bound
from audits.transfer.registry import ACCEPTING
from privacy.certificates.certificates import Certificate
from privacy.certificates.cohort_ranges import NONE_STATED, SMALLEST
from secfad import CLIENTS, Program
from secfad.inner import (
    ClosedJaxpr,
    Jaxpr,
    JaxprEqn,
    Literal,
    Var,
    broadcast_p,
    clip_p,
    no_collection,
    sub_jaxprs,
    sum_p,
)

ABOVE = {"K": "KSBC", "S": "S", "B": "BC", "C": "C"}


class VerificationError(Exception):
    """The evidence does not prove the statement; the message names the equation."""


@dataclasses.dataclass(frozen=True)
class _Place:
    path: tuple
    count: int = 1
    by_client: bool = False

    def inside(self, *steps: Any, **changes: Any) -> "_Place":
        return dataclasses.replace(self, path=(*self.path, *steps), **changes)


@no_collection()
def verify(certificate: Certificate, program: Program, mode: str = "primal") -> None:
    """Confirms that a certificate's evidence proves its statement about a program.

    Guarantees:
      Returns only if the digest is the program's, every equation satisfies the placement rules
      under the stated placements, the messages are exactly the stated ones, and under profile
      `secagg+dp` every sum's operand is clipped to at most its stated bound.

    Raises:
      VerificationError: At the first claim that does not hold.
    """
    if certificate.digests.get(mode) != program.digest:
        raise VerificationError(f"FAD006: the certificate has another digest for mode {mode!r}.")
    fault = _fault_of_profile(certificate) or _fault_of_clients(certificate, program)
    if fault is not None:
        raise VerificationError(fault)
    obligations = frozenset(o.rule for o in certificate.obligations)
    reader = _Reader(
        certificate.evidence.get(mode, {}), certificate.profile == "secagg+dp", obligations
    )
    start = ["C" if p is CLIENTS else "S" for p in program.in_placements]
    outs = reader.closed(program.jaxpr, start, _Place(()))
    for letter, placement in zip(outs, program.out_placements):
        if letter in "BC" and placement is not CLIENTS:
            raise VerificationError("FAD101: a client value is a result at the server.")
    stated = [
        (m.kind, m.name, m.shape, m.dtype, m.bytes, m.count)
        for m in certificate.schedule.get(mode, ())
    ]
    if stated != reader.messages:
        raise VerificationError("The messages of the program are not those of the certificate.")
    order = phases(program.schedule)
    # With branches of different messages, the certificate states one of them.
    if len(order) == len(stated) and order != [m.phase for m in certificate.schedule[mode]]:
        raise VerificationError("The phases of the messages are not those of the certificate.")
    if mode == stated_mode(certificate.digests) and list(certificate.arguments) != arguments_of(
        program
    ):
        raise VerificationError("The arguments of the program are not those of the certificate.")
    if reader.bounded:
        fault = fault_of_bounds(certificate, mode, reader.bounds, program.rounds)
        if fault is not None:
            raise VerificationError(fault)


def stated_mode(modes: Iterable[str]) -> str:
    """The mode whose arguments a certificate states; the primal if it has one."""
    return "primal" if "primal" in modes else min(modes)


def _fault_of_clients(certificate: Certificate, program: Program) -> str | None:
    """Clients that are needed again, though the certificate does not say so."""
    cost, stated = program.costs, certificate.clients
    if cost.readdressed and stated.get("readdress") is not True:
        return "The same clients are needed again, which the certificate denies."
    kept = stated.get("residual_bytes")
    # A certificate of several modes states the most of all.
    if not isinstance(kept, int | float) or not cost.state_bytes <= kept:
        return f"Clients keep {cost.state_bytes} bytes between contacts, stated are {kept!r}."
    if cost.readdressed and "FAD306" not in {o.rule for o in certificate.obligations}:
        return "FAD306: the same clients are needed again, and no obligation says so."
    return None


def arguments_of(program: Program) -> list[dict[str, Any]]:
    """Every argument leaf of a program, as certificates state it."""
    return [
        {
            "position": k,
            "shape": list(v.aval.shape),  # type: ignore[attr-defined]
            "dtype": str(v.aval.dtype),  # type: ignore[attr-defined]
            "placement": placement.value,
        }
        for k, (v, placement) in enumerate(zip(program.jaxpr.jaxpr.invars, program.in_placements))
    ]


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


class _Reader:
    """One pass over a program with its evidence."""

    def __init__(self, evidence: Mapping[str, str], bounded: bool, obligations: frozenset[str]):
        self.evidence = evidence
        self.bounded = bounded
        self.obligations = obligations
        self.messages: list[tuple] = []
        self.bounds: list[ClippedSum] = []

    def closed(self, closed: ClosedJaxpr, inputs: Sequence[str], place: _Place) -> list[str]:
        return self.jaxpr(closed.jaxpr, inputs, place)

    def jaxpr(self, jaxpr: Jaxpr, inputs: Sequence[str], place: _Place) -> list[str]:
        letters = self.evidence.get("/".join(map(str, place.path)), "")
        names = variables(jaxpr)
        if len(letters) != len(names) or set(letters) - set(ABOVE):
            raise self._wrong(place, "no evidence for this part")
        env = dict(zip(names, letters))
        for variable, letter in zip(jaxpr.invars, inputs):
            self._at_most(letter, env[variable], place)
        clips: dict[Var, Clipped] = {}
        for position, equation in enumerate(jaxpr.eqns):
            self._equation(equation, env, clips, place.inside(position))
        return [_letter(env, v) for v in jaxpr.outvars]

    def _equation(self, equation: JaxprEqn, env: dict, clips: dict, place: _Place) -> None:
        ins = [_letter(env, v) for v in equation.invars]
        outs = [env[v] for v in equation.outvars]
        primitive = equation.primitive
        if primitive is broadcast_p or primitive is sum_p:
            self._message(equation, ins, outs, clips, place)
            return
        family = registry.family(primitive, style="native")
        if family not in ACCEPTING:
            raise self._wrong(place, f"primitive {primitive.name!r} is not accepted")
        collective = family in ("psum", "extremum_collective")
        if collective and any(not isinstance(axis, int) for axis in equation.params["axes"]):
            raise self._wrong(place, "a collective over a named axis")
        if family in CONTROL:
            results = CONTROL[family](self, equation, ins, place)
        elif family in ("call", "custom_rule"):
            results = self._call(equation, ins, place)
        elif family == "linear_solve":
            results = self._solve(equation, ins, place)
        elif family == "identity":
            results = list(ins)
        else:
            results = [self._join(ins, place)] * len(outs)
            if primitive is clip_p:
                clips.update(clipped(equation, place.path))
        for letter, stated in zip(results, outs):
            self._at_most(letter, stated, place)

    def _message(self, equation: JaxprEqn, ins, outs, clips: dict, place: _Place) -> None:
        down = equation.primitive is broadcast_p
        if place.by_client:
            raise self._wrong(place, "a message under client control")
        for atom, letter, stated in zip(equation.invars, ins, outs):
            if letter == "K":
                self._at_most("K" if down else "S", stated, place)
                continue
            if letter not in ("S" if down else "BC"):
                raise self._wrong(place, f"a message of a value at {letter}")
            self._at_most("B" if down else "S", stated, place)
            aval: Any = atom.aval
            name = equation.params["name"]
            kind = "broadcast" if down else "sum"
            size = math.prod(aval.shape) * aval.dtype.itemsize
            shape, dtype = tuple(aval.shape), str(aval.dtype)
            self.messages.append((kind, name, shape, dtype, size, place.count))
            if self.bounded and not down:
                if atom not in clips:
                    raise self._wrong(place, f"sum {name!r} of a value that is not clipped")
                self.bounds.append(ClippedSum(name, place.count, clips[atom]))

    def _call(self, equation: JaxprEqn, ins: Sequence[str], place: _Place) -> list[str]:
        bodies = [b for value in equation.params.values() for b in sub_jaxprs(value)]
        if len(bodies) != 1:
            raise self._wrong(place, "a call with several bodies")
        body = bodies[0]
        if isinstance(body, ClosedJaxpr):
            return self.closed(body, ins, place)
        return self.jaxpr(body, ins, place)

    def _solve(self, equation: JaxprEqn, ins: Sequence[str], place: _Place) -> list[str]:
        """Only the `solve` program of a linear solve runs; the others serve its derivative."""
        lengths, solve = equation.params["const_lengths"], equation.params["jaxprs"].solve
        if solve is None:
            raise self._wrong(place, "a solve without a program")
        first = lengths.matvec + lengths.vecmat
        right = first + lengths.solve + lengths.transpose_solve
        return self.closed(
            solve, [*ins[first : first + lengths.solve], *ins[right:]], place.inside("solve")
        )

    def _cond(self, equation: JaxprEqn, ins: Sequence[str], place: _Place) -> list[str]:
        index, operands = ins[0], ins[1:]
        by_client = place.by_client or index in "BC"
        before, schedules, columns = len(self.messages), [], []
        bounds, outside = [], self.bounds
        for position, branch in enumerate(equation.params["branches"]):
            inner = place.inside(f"branch{position}", by_client=by_client)
            self.bounds = []
            columns.append(self.closed(branch, operands, inner))
            bounds.append(self.bounds)
            schedules.append(self.messages[before:])
            del self.messages[before:]
        # The checker states the messages of the branch that sends most.
        kinds = [sorted((k, shape, dtype, n) for k, _, shape, dtype, _, n in s) for s in schedules]
        largest = schedules[0]
        if any(kind != kinds[0] for kind in kinds):
            self._admitted("FAD205", "branches communicate differently", place)
            largest = max(schedules, key=lambda s: sum(size * n for *_, size, n in s))
        self.messages += largest
        self.bounds = outside + [
            proved if schedule is largest else proved._replace(count=0)
            for schedule, proven in zip(schedules, bounds)
            for proved in proven
        ]
        return [self._join([index, *column], place) for column in zip(*columns)]

    def _scan(self, equation: JaxprEqn, ins: Sequence[str], place: _Place) -> list[str]:
        params = equation.params
        inner = place.inside("body", count=place.count * int(params["length"]))
        return self._loop(params["jaxpr"], ins, params["num_consts"], params["num_carry"], inner)

    def _while(self, equation: JaxprEqn, ins: Sequence[str], place: _Place) -> list[str]:
        params = equation.params
        conds, bodies = params["cond_nconsts"], params["body_nconsts"]
        start = ins[conds + bodies :]
        inner, test = place.inside("body"), place.inside("test")
        held = self._carried(params["body_jaxpr"].jaxpr, bodies, len(start), inner)
        before = len(self.messages)
        (decided,) = self.closed(params["cond_jaxpr"], [*ins[:conds], *held], test)
        bound = loop_bound(equation)
        if len(self.messages) > before:
            raise self._wrong(place, "messages in the predicate of a loop")
        count = 1 if bound is None else max(bound.iterations, 1)
        by_client = place.by_client or decided in "BC"
        looped = dataclasses.replace(inner, by_client=by_client, count=place.count * count)
        out = self._loop(params["body_jaxpr"], ins[conds:], bodies, len(start), looped)
        if len(self.messages) > before:
            if bound is None:
                raise self._wrong(place, "messages in a loop without a limit")
            if not bound.exact:
                self._admitted("FAD204", "a loop may end before its limit", place)
        return [self._join([decided, letter], place) for letter in out]

    def _carried(self, body: Jaxpr, constants: int, carries: int, place: _Place) -> list[str]:
        letters = self.evidence.get("/".join(map(str, place.path)), "")
        first = len(body.constvars) + constants
        return list(letters[first : first + carries])

    def _loop(
        self, body: ClosedJaxpr, ins, constants: int, carries: int, place: _Place
    ) -> list[str]:
        """The stated carries must hold before the loop and be preserved by one iteration."""
        held = self._carried(body.jaxpr, constants, carries, place)
        out = self.closed(body, ins, place)
        for letter, stated in zip(out, held):
            self._at_most(letter, stated, place)
        return [*held, *out[carries:]]

    def _join(self, letters: Sequence[str], place: _Place) -> str:
        found = set(letters) - {"K"}
        if "S" in found and found - {"S"}:
            raise self._wrong(place, "FAD102: a server value meets a client value")
        return "C" if "C" in found else next(iter(found), "K")

    def _at_most(self, letter: str, stated: str, place: _Place) -> None:
        if stated not in ABOVE[letter]:
            raise self._wrong(place, f"a value at {letter} is stated to be at {stated}")

    def _admitted(self, rule: str, what: str, place: _Place) -> None:
        """The certificate must state the obligation, because its messages are only a limit."""
        if rule not in self.obligations:
            raise self._wrong(place, f"{what}, but the certificate does not state {rule}")

    def _wrong(self, place: _Place, what: str) -> VerificationError:
        return VerificationError(
            f"At equation {'/'.join(map(str, place.path)) or 'start'}: {what}."
        )


# These families have their own rule; every other accepted family is local work.
CONTROL: Mapping[str, Callable[..., list[str]]] = {
    "scan": _Reader._scan,
    "while": _Reader._while,
    "cond": _Reader._cond,
}


def _letter(env: Mapping[Var, str], atom: Var | Literal) -> str:
    return "K" if isinstance(atom, Literal) else env[atom]
