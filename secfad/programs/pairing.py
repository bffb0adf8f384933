"""Pairing: must the clients that answered for a value also answer for its derivative?

Reverse mode asks clients for a sum over the transpose of each broadcast. Such an answer is a part of
the derivative of every sum that the broadcast led to. Where both travel in one contact, they come from the
same clients, whoever these are, and the result is the derivative of the value that they gave. Where they
travel in different contacts, that is so only if the same clients answer twice, even if they keep nothing
for it, because they compute their part from their own data alone.
The same holds for a sum of tangents and that of its values (`secfad.programs.scheduling`).

A message finds its partner by name, order and dataflow, all of which the digest of a program covers: the
transpose of `model` is `model.cotangent`, the tangent of `loss` is `loss.tangent`, and a derivative comes
after its value. Where several messages could
be the partner, one that travels apart is enough: the same clients have to answer again. Rounds that a
program asks for by itself are derivatives of nothing: each may have clients of its own.

Source: Rush, Charles, Garrett (JMLR 2024), sections 3.2 and 3.4; docs/semantics.md, "Stages".
"""

from collections.abc import Iterable
from typing import Any, TypeGuard

from secfad._jax import JaxprEqn, Var
from secfad.jaxprs.dataflow import Marks
from secfad.jaxprs.equations import Broadcast, Cond, Message, Scan, Sum, View, view
from secfad.placements import CLIENTS
from secfad.primitives import COTANGENT, TANGENT
from secfad.programs.placed import Placed
from secfad.programs.stages import Round, Schedule, walk


def goes_back(plan: Schedule) -> bool:
    """True if a client is asked for a derivative in another contact than for the value."""
    contacts: dict[Var, Round] = {}
    for _, item in walk(plan):
        if isinstance(item, Round):
            sent = (v for m in (*item.downloads, *item.uploads) for v in m.outputs)
            contacts.update(dict.fromkeys(sent, item))
    placed = plan.placed
    reader = _Reader(placed)
    results = reader.results(placed.jaxpr, [0] * len(placed.inputs))
    kept = (m for v, m in zip(placed.results, results) if placed.placement(v) is CLIENTS)
    # A derivative that stays with a client is that of all sums to which the client contributed.
    stays = any(COTANGENT in b.name for b in reader.heard(reader.joined(kept)))
    if stays and len({id(c) for c in contacts.values()}) > 1:
        return True
    pairs = _Pairs(reader, contacts)
    return any(pairs.are_apart(step) for step in reader.sums)


class _Pairs:
    """Messages by name and contact, and the sums that depend on each broadcast."""

    def __init__(self, reader: "_Reader", contacts: dict[Var, Round]):
        self.reader = reader
        self.contacts = contacts
        self.broadcasts: dict[str, list[Broadcast]] = {}
        self.values: dict[str, list[Sum]] = {}
        self.sums: dict[Broadcast, list[Sum]] = {}
        self.answered: dict[str, set[Broadcast]] = {}
        for message in reader.broadcasts:
            self.broadcasts.setdefault(_root(message), []).append(message)
        for step, marks in reader.sums.items():
            self.values.setdefault(step.name, []).append(step)
            for message in reader.heard(marks):
                self.sums.setdefault(message, []).append(step)
            if COTANGENT in step.name:
                self.answered.setdefault(_transposed(step), set()).update(self._told(step))

    def are_apart(self, step: Sum) -> bool:
        """Whether a sum may travel without one of whose derivative it is a part."""
        if self.contact(step) is None:
            # A sum of constants: nobody answers.
            return False
        along = step.name.endswith(TANGENT) and self._tangent_is_apart(step)
        return along or (COTANGENT in step.name and self._cotangent_is_apart(step))

    def _tangent_is_apart(self, tangent: Sum) -> bool:
        heard = self.reader.heard(self.reader.sums[tangent])
        if any(not b.name.endswith(TANGENT) and not self._elsewhere(b, tangent) for b in heard):
            # Its value depends on the same broadcast, so it travels here too.
            return False
        values = self.values.get(tangent.name.removesuffix(TANGENT), [])
        previous = self.reader.previous[tangent]
        if isinstance(previous, Sum) and previous in values:
            # Forward mode adds up a value and its tangent one after the other.
            values = [previous]
        return any(self._elsewhere(v, tangent) for v in self._before(tangent, values))

    def _cotangent_is_apart(self, back: Sum) -> bool:
        name = _transposed(back)
        # One of several broadcasts of a value, which are one message, has no name of its own.
        partners = self.broadcasts.get(name, self.reader.broadcasts)
        # If clients answer for a broadcast in its contact, each such broadcast has an answer of its own.
        others = self.answered[name] if self._told(back) else ()
        return any(
            b not in others and self._leads_elsewhere(b, back) for b in self._before(back, partners)
        )

    def _told(self, back: Sum) -> list[Broadcast]:
        """Broadcasts that clients answer for, as it seems, in the contact in which they receive them."""
        name = _transposed(back)
        return [
            b
            for b in self.reader.heard(self.reader.sums[back])
            if (_root(b) == name or name not in self.broadcasts) and not self._elsewhere(b, back)
        ]

    def _leads_elsewhere(self, broadcast: Broadcast, back: Sum) -> bool:
        """Whether all sums that a broadcast led to travel in other contacts than this one."""
        values = self._before(back, self.sums.get(broadcast, ()))
        return bool(values) and all(self._elsewhere(s, back) for s in values)

    def _elsewhere(self, message: Broadcast | Sum, step: Sum) -> bool:
        """Whether a message travels in another contact; sums of constants travel in none."""
        return self.contact(message) not in (None, self.contact(step))

    def _before(self, step: Sum, messages: Iterable[Any]) -> list[Any]:
        """The messages that come before a sum and are not in another branch of one choice."""
        order = self.reader.order
        return [m for m in messages if order[m] < order[step] and not self.reader.exclude(step, m)]

    def contact(self, message: Broadcast | Sum) -> Round | None:
        """The contact in which a message travels; None if it needs none."""
        return self.contacts.get(message.outputs[0])


def _root(message: Broadcast) -> str:
    """The name that a broadcast was given, before it was differentiated."""
    name = message.name
    while name.endswith(TANGENT):
        name = name.removesuffix(TANGENT)
    return name


def _transposed(back: Sum) -> str:
    """The name of the broadcasts of which a sum of cotangents may be the transpose."""
    return back.name.rpartition(COTANGENT)[0]


class _Reader(Marks):
    """Reads a program and everything inside; marks are the broadcasts that client values depend on."""

    strict = False

    def __init__(self, placed: Placed) -> None:
        super().__init__()
        self.placed = placed
        self.messages: dict[JaxprEqn, Broadcast | Sum] = {}
        self.broadcasts: list[Broadcast] = []
        self.marks: dict[Broadcast, int] = {}
        self.sums: dict[Sum, int] = {}
        self.order: dict[Broadcast | Sum, int] = {}
        self.previous: dict[Sum, View | None] = {}
        self.choices: dict[Broadcast | Sum, dict[Cond, int]] = {}
        self._number(placed, {})

    def _number(self, placed: Placed, chosen: dict[Cond, int]) -> None:
        """Finds every message, in order, and the branches that it is in."""
        previous = None
        for step in placed.steps:
            if isinstance(step, Broadcast | Sum):
                self.messages[step.equation] = step
                self.order[step] = len(self.order)
                self.choices[step] = chosen
            if isinstance(step, Broadcast):
                self.marks[step] = 1 << len(self.broadcasts)
                self.broadcasts.append(step)
            if isinstance(step, Sum):
                self.previous[step] = previous
            previous = step
            if not _never_runs(step):
                for number, body in enumerate(placed.bodies(step)):
                    inside = {step: number} if isinstance(step, Cond) else {}
                    self._number(body, chosen | inside)

    def heard(self, marks: int) -> list[Broadcast]:
        """The broadcasts that marks stand for, in order."""
        found = []
        while marks:
            lowest = marks & -marks
            found.append(self.broadcasts[lowest.bit_length() - 1])
            marks ^= lowest
        return found

    def exclude(self, one: Broadcast | Sum, other: Broadcast | Sum) -> bool:
        """Whether two messages are in different branches of one choice."""
        choices = self.choices[other]
        return any(choices.get(step, n) != n for step, n in self.choices[one].items())

    def decided(self, by: int, results: list[int]) -> list[int]:
        return results

    def outputs(self, equation: JaxprEqn, given: list[int]) -> list[int]:
        step = view(equation)
        if isinstance(step, Message):
            return self._message(self.messages[equation], given)
        if self.placed.is_driven(step):
            if _never_runs(step):
                rows = step.split_out(step.outputs)[1]
                return [*step.split(given)[1], *[0] * len(rows)]
            return super().outputs(equation, given)
        at_clients = self.placed.place_of(step) is CLIENTS
        return [self.joined(given) if at_clients else 0] * len(step.outputs)

    def _message(self, step: Broadcast | Sum, given: list[int]) -> list[int]:
        if isinstance(step, Broadcast):
            return [self.marks[step]] * len(given)
        self.sums[step] = self.joined([*given, self.sums.get(step, 0)])
        return [0] * len(given)


def _never_runs(step: View) -> TypeGuard[Scan]:
    return isinstance(step, Scan) and step.length == 0
