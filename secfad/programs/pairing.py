"""Pairing: does a client's part of a derivative travel with its part of the value?

Reverse mode asks clients for a sum over the transpose of each broadcast. Such an answer is a part of
the derivative of every sum that the broadcast led to. Where both travel in one contact, they come from the
same clients, whoever these are, and the result is the derivative of the value that they gave. Where they
travel in different contacts, that is so only if the same clients answer twice, even if they keep nothing
for it: because they compute their part from their own data alone, or are told once more what they need.

A sum finds its broadcast by name and the user's calls, which differentiation keeps: the transpose of
`model` is `model.cotangent`, what a client is told once more is `model.again`. Rounds that a program
asks for by itself are transposes of nothing: each may have clients of its own. Tangents travel with
their values (`secfad.programs.scheduling`), and so do Jacobians.

Source: Rush, Charles, Garrett (JMLR 2024), sections 3.2 and 3.4; docs/semantics.md, "Stages".
"""

from collections.abc import Callable, Iterable, Sequence

from secfad._jax import Var, user_calls
from secfad.placements import CLIENTS
from secfad.primitives import AGAIN, COTANGENT, TANGENT
from secfad.programs.blocks import Atom, Block, Branch, Broadcast, Local, Loop, Step, Sum, While
from secfad.programs.stages import Round, Schedule, walk

# The broadcasts that a client value depends on.
Heard = frozenset[Broadcast]
_NOTHING: Heard = frozenset()


def goes_back(plan: Schedule) -> bool:
    """True if a client is asked for a derivative in another contact than for the value."""
    contacts: dict[Var, Round] = {}
    for _, item in walk(plan):
        if isinstance(item, Round):
            sent = (v for m in (*item.downloads, *item.uploads) for v in m.outputs)
            contacts.update(dict.fromkeys(sent, item))
    reader = _Reader()
    results = reader.run(plan.block, [_NOTHING] * len(plan.block.inputs))
    # A derivative that stays with a client is that of all sums to which the client contributed.
    stays = any(
        COTANGENT in b.name
        for v, heard in zip(plan.block.results, results)
        if plan.block.placement(v) is CLIENTS
        for b in heard
    )
    if stays and len({id(c) for c in contacts.values()}) > 1:
        return True
    pairs = _Pairs(reader, contacts)
    return any(pairs.are_apart(step) for step in reader.sums if COTANGENT in step.name)


class _Pairs:
    """Broadcasts by name and place, and the sums that depend on each."""

    def __init__(self, reader: "_Reader", contacts: dict[Var, Round]):
        self.reader = reader
        self.contacts = contacts
        self.named: dict[str, set[Broadcast]] = {}
        self.written: dict[tuple[str, str], set[Broadcast]] = {}
        self.called: dict[tuple[str, str], set[Broadcast]] = {}
        self.sums: dict[Broadcast, list[Sum]] = {}
        for message in reader.broadcasts:
            name = _root(message)
            self.named.setdefault(name, set()).add(message)
            self.written.setdefault((name, message.line), set()).add(message)
            self.called.setdefault((name, user_calls(message.equation)), set()).add(message)
        for step, heard in reader.sums.items():
            for message in heard:
                self.sums.setdefault(message, []).append(step)

    def are_apart(self, back: Sum) -> bool:
        """Whether a sum of cotangents travels without any sum of whose derivative it is a part."""
        name = back.name.rpartition(COTANGENT)[0]
        # Broadcasts of one value are one message, which has the line of the first.
        partners = (
            self.called.get((name, user_calls(back.equation)))
            or self.written.get((name, back.line))
            or self.named.get(name, set())
        )
        here = self.contact(back)
        if here is None:
            # A sum of constants: nobody answers.
            return False
        told = [b for b in self.reader.sums[back] & partners if AGAIN not in b.name]
        if any(self.contact(b) is here for b in told):
            return False
        values = {s for b in partners for s in self.sums.get(b, ()) if s is not back}
        values = {s for s in values if not self.reader.exclude(back, s)}
        return bool(values) and all(self.contact(s) is not here for s in values)

    def contact(self, message: Broadcast | Sum) -> Round | None:
        """The contact in which a message travels; None if it needs none."""
        return self.contacts.get(message.outputs[0])


def _root(message: Broadcast) -> str:
    """The name that a broadcast was given, before it was differentiated or told once more."""
    name = message.name
    while name.endswith((AGAIN, TANGENT)):
        name = name.removesuffix(AGAIN).removesuffix(TANGENT)
    return name


class _Reader:
    """Reads a block and everything inside; knows what every sum depends on."""

    def __init__(self) -> None:
        self.sums: dict[Sum, Heard] = {}
        self.broadcasts: set[Broadcast] = set()
        self.chosen: dict[Branch, int] = {}
        self.choices: dict[Sum, dict[Branch, int]] = {}

    def exclude(self, one: Sum, other: Sum) -> bool:
        """Whether two sums are in different branches of one choice."""
        choices = self.choices[other]
        return any(choices.get(step, n) != n for step, n in self.choices[one].items())

    def run(self, block: Block, inputs: Sequence[Heard]) -> list[Heard]:
        """What the results of a block depend on, given that of its inputs."""
        env: dict[Var, Heard] = dict(zip(block.inputs, inputs))

        def read(atoms: Iterable[Atom]) -> list[Heard]:
            return [env.get(v, _NOTHING) if isinstance(v, Var) else _NOTHING for v in atoms]

        for step in block.steps:
            env.update(zip(step.outputs, self._step(step, read(step.inputs))))
        return read(block.results)

    def _step(self, step: Step, heard: list[Heard]) -> list[Heard]:
        match step:
            case Local(placement=placement):
                made = _joined(heard) if placement is CLIENTS else _NOTHING
                return [made] * len(step.outputs)
            case Broadcast():
                self.broadcasts.add(step)
                return [frozenset({step})] * len(step.outputs)
            case Sum():
                self.sums[step] = _joined([*heard, self.sums.get(step, _NOTHING)])
                self.choices[step] = dict(self.chosen)
                return [_NOTHING] * len(step.outputs)
            case Loop():
                return self._loop(step, heard)
            case While():
                return self._while(step, heard)
        return self._branch(step, heard)

    def _branch(self, step: Branch, heard: list[Heard]) -> list[Heard]:
        rows = []
        for number, body in enumerate(step.branches):
            self.chosen[step] = number
            rows.append(self.run(body, heard[1:]))
        del self.chosen[step]
        return [_joined(column) for column in zip(*rows)]

    def _loop(self, step: Loop, heard: list[Heard]) -> list[Heard]:
        if step.length == 0:
            return [*heard[step.constants :][: step.carries], *[_NOTHING] * len(step.outputs)]
        return _settled(
            lambda given: self.run(step.body, given), heard, step.constants, step.carries
        )

    def _while(self, step: While, heard: list[Heard]) -> list[Heard]:
        first, start = step.predicate_constants, step.predicate_constants + step.body_constants

        def iteration(given: list[Heard]) -> list[Heard]:
            self.run(step.predicate, [*given[:first], *given[start:]])
            return self.run(step.body, given[first:])

        return _settled(iteration, heard, start, len(heard) - start)


def _joined(heard: Sequence[Heard]) -> Heard:
    """The union; the same object where all are equal, which most are."""
    some = [h for h in heard if h]
    if not some:
        return _NOTHING
    first = some[0]
    return first if all(h is first for h in some) else first.union(*some[1:])


def _settled(
    iteration: Callable[[list[Heard]], list[Heard]], heard: list[Heard], start: int, carries: int
) -> list[Heard]:
    """What a loop gives, carries first, after as many iterations as change anything."""
    given, stop = list(heard), start + carries
    while True:
        results = iteration(given)
        later = [_joined(pair) for pair in zip(given[start:stop], results)]
        if later == given[start:stop]:
            return [*later, *results[carries:]]
        given[start:stop] = later
