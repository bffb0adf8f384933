"""Pairs: whether clients are asked for a derivative in another contact than for its value.

Where both travel in one contact they come from the same clients, whoever these are. Where they do not, the
same clients have to answer again. A message finds its partner by name, order and dataflow: the transpose of
`model` is `model.cotangent`, the tangent of `loss` is `loss.tangent`, and a derivative comes after its value.
Where several could be the partner, one that travels apart is enough.

Source: docs/semantics.md, "Stages".
"""

from collections.abc import Iterable, Sequence

from audits.proofs.dataflow import NOTHING, Dataflow, Marks, union
from audits.proofs.programs import Body, Equation
from audits.proofs.timing import COTANGENT, TANGENT, Contact, Timetable, Timing


def goes_back(timing: Timing, table: Timetable) -> bool:
    """True if a client is asked for a derivative in another contact than for the value."""
    contacts = {e: c for c in table.contacts() for e in (*c.downloads, *c.uploads)}
    reader = _Reader(timing)
    reader.number(table.body, {})
    results = reader.results(table.body, [NOTHING] * len(table.body.inputs))
    # A derivative that stays with a client is that of all sums to which the client contributed.
    stays = any(
        timing.at_clients(table.body, atom) and any(COTANGENT in b.label for b in heard)
        for atom, heard in zip(table.body.results, results)
    )
    if stays and len({id(c) for c in contacts.values()}) > 1:
        return True
    pairs = _Pairs(reader, contacts)
    return any(pairs.are_apart(equation) for equation in reader.sums)


class _Pairs:
    """Messages by name and contact, and the sums that depend on each broadcast."""

    def __init__(self, reader: "_Reader", contacts: dict[Equation, Contact]):
        self.reader = reader
        self.contacts = contacts
        self.broadcasts: dict[str, list[Equation]] = {}
        self.values: dict[str, list[Equation]] = {}
        self.sums: dict[Equation, list[Equation]] = {}
        self.answered: dict[str, set[Equation]] = {}
        for message in reader.broadcasts:
            self.broadcasts.setdefault(_root(message), []).append(message)
        for equation, heard in reader.sums.items():
            self.values.setdefault(equation.label, []).append(equation)
            for message in heard:
                self.sums.setdefault(message, []).append(equation)
            if COTANGENT in equation.label:
                answered = self.answered.setdefault(_transposed(equation), set())
                answered.update(self._answered(equation))

    def are_apart(self, equation: Equation) -> bool:
        """Whether a sum may travel without one of whose derivative it is a part."""
        if equation not in self.contacts:
            return False  # of constants
        label = equation.label
        along = label.endswith(TANGENT) and self._tangent_is_apart(equation)
        return along or (COTANGENT in label and self._cotangent_is_apart(equation))

    def _tangent_is_apart(self, tangent: Equation) -> bool:
        heard = self.reader.sums[tangent]
        if any(not b.label.endswith(TANGENT) and not self._elsewhere(b, tangent) for b in heard):
            return False
        values = self.values.get(tangent.label.removesuffix(TANGENT), [])
        previous = self.reader.previous[tangent]
        if previous in values:
            values = [previous]
        return any(self._elsewhere(v, tangent) for v in self._before(tangent, values))

    def _cotangent_is_apart(self, back: Equation) -> bool:
        name = _transposed(back)
        partners = self.broadcasts.get(name, self.reader.broadcasts)
        others = self.answered[name] if self._answered(back) else set()
        return any(
            b not in others and self._leads_elsewhere(b, back) for b in self._before(back, partners)
        )

    def _answered(self, back: Equation) -> list[Equation]:
        """Broadcasts that clients answer for in the contact in which they receive them."""
        name = _transposed(back)
        return [
            b
            for b in self.reader.sums[back]
            if (_root(b) == name or name not in self.broadcasts) and not self._elsewhere(b, back)
        ]

    def _leads_elsewhere(self, broadcast: Equation, back: Equation) -> bool:
        """Whether all sums that a broadcast led to travel in other contacts than this one."""
        values = self._before(back, self.sums.get(broadcast, ()))
        return bool(values) and all(self._elsewhere(s, back) for s in values)

    def _elsewhere(self, message: Equation, equation: Equation) -> bool:
        contact = self.contacts.get(message)
        return contact is not None and contact is not self.contacts.get(equation)

    def _before(self, equation: Equation, messages: Iterable[Equation]) -> list[Equation]:
        """The messages that come before a sum and are not in another branch of one `cond`."""
        order, exclude = self.reader.order, self.reader.exclude
        return [m for m in messages if order[m] < order[equation] and not exclude(equation, m)]


def _root(message: Equation) -> str:
    """The name that a broadcast was given, before it was differentiated."""
    name = message.label
    while name.endswith(TANGENT):
        name = name.removesuffix(TANGENT)
    return name


def _transposed(back: Equation) -> str:
    """The name of the broadcasts of which a sum of cotangents may be the transpose."""
    return back.label.rpartition(COTANGENT)[0]


class _Reader(Dataflow):
    """Reads a program and everything inside; knows which broadcasts every sum depends on."""

    def __init__(self, timing: Timing) -> None:
        super().__init__()
        self.timing = timing
        self.sums: dict[Equation, Marks] = {}
        self.order: dict[Equation, int] = {}
        self.previous: dict[Equation, Equation | None] = {}
        self.branches: dict[Equation, dict[Equation, int]] = {}

    def number(self, body: Body, chosen: dict[Equation, int]) -> None:
        """Finds every message, in order, and the branches that it is in."""
        previous = None
        for equation in body.equations:
            if equation.kind in ("broadcast", "sum"):
                self.order[equation] = len(self.order)
                self.branches[equation] = chosen
                self.previous[equation] = previous
            previous = equation
            if self.timing.is_driven(equation) and not _never_runs(equation):
                for position, inner in enumerate(_in_order(equation)):
                    inside = {equation: position} if equation.kind == "cond" else {}
                    self.number(inner, chosen | inside)

    @property
    def broadcasts(self) -> list[Equation]:
        """Every broadcast, in order."""
        return [m for m in self.order if m.kind == "broadcast"]

    def exclude(self, one: Equation, other: Equation) -> bool:
        """Whether two messages are in different branches of one `cond`."""
        branches = self.branches[other]
        return any(branches.get(e, n) != n for e, n in self.branches[one].items())

    def outputs(self, equation: Equation, given: list[Marks]) -> list[Marks]:
        if equation.kind == "broadcast":
            return [frozenset([equation])] * len(given)
        if equation.kind == "sum":
            self.sums[equation] = union([*given, self.sums.get(equation, NOTHING)])
            return [NOTHING] * len(given)
        if self.timing.is_driven(equation):
            return self._driven(equation, given)
        at_clients = self.timing.side(equation) == "clients"
        return [union(given) if at_clients else NOTHING] * len(equation.outputs)

    def _driven(self, equation: Equation, given: list[Marks]) -> list[Marks]:
        """What decides a branch or an end is the server's, and leads to no client."""
        if _never_runs(equation):
            first, count = equation.number("num_consts"), equation.number("num_carry")
            rows = len(equation.outputs) - count
            return [*given[first : first + count], *[NOTHING] * rows]
        if equation.kind == "cond":
            columns: Sequence = [self.results(b, given[1:]) for b in equation.programs.values()]
            return [union(column) for column in zip(*columns)]
        entering = self.entering(equation, given)
        if equation.kind == "while":
            conds, bodies = equation.number("cond_nconsts"), equation.number("body_nconsts")
            carry = entering[conds + bodies :]
            self.results(equation.programs["cond_jaxpr"], [*entering[:conds], *carry])
            return list(carry)
        first, count = equation.number("num_consts"), equation.number("num_carry")
        rows = self.results(equation.programs["jaxpr"], entering)[count:]
        return [*entering[first : first + count], *rows]


def _in_order(equation: Equation) -> list[Body]:
    """The bodies as they run: the condition of a loop first."""
    if equation.kind == "while":
        return [equation.programs["cond_jaxpr"], equation.programs["body_jaxpr"]]
    return list(equation.programs.values())


def _never_runs(equation: Equation) -> bool:
    return equation.kind == "scan" and equation.number("length") == 0
