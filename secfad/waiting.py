"""Waiting: does any client wait for the cotangent of a sum that it has answered?

Reverse mode sends the cotangent of a sum to the clients, who answer with their part of a derivative.
Where the cotangent depends on what the server has learned since the sum, this is a later contact, and
it gives the derivative of the value only if those come back whose values were added up. That is so
also for a client that kept nothing, because it can compute its part from its own data alone, or is
told once more what it needs.

For every value two times are followed: when it is known, and when it would be known if all cotangents
were known from the start. A message that differs in them waits. Control flow that the server drives
comes after what it does not depend on too; if it goes back through a message that earlier control flow
sent, its clients have waited as well. Two rounds that a program asks for by itself have no
cotangents: the clients of the second may be others.

Source: Rush, Charles, Garrett (JMLR 2024), sections 3.2 and 3.4; docs/semantics.md, "Stages".
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from secfad._jax import Var
from secfad.blocks import (
    Atom,
    Block,
    Branch,
    Broadcast,
    Local,
    Loop,
    Step,
    Sum,
    While,
    inner_blocks,
)
from secfad.placements import CLIENTS
from secfad.primitives import AGAIN, COTANGENT

# As many rounds as no loop of known length has.
_OPEN = 10**9


class Times(NamedTuple):
    """When a value is known, as a number of sums that follow one another.

    Attributes:
      known: With everything that it depends on.
      alone: Apart from cotangents that clients receive.
    """

    known: int = 0
    alone: int = 0


def waits_for_cotangents(block: Block) -> bool:
    """True if a client's answer, or a result that stays with it, waits for a cotangent."""
    walk = _Walk()
    results = walk.run(block, [Times()] * len(block.inputs), 0)
    at_clients = (block.placement(v) is CLIENTS for v in block.results)
    return walk.waits or any(t.known > t.alone for t, c in zip(results, at_clients) if c)


class _Walk:
    """Follows a block and everything inside; `decided` is when the server chose to come there."""

    def __init__(self) -> None:
        self.waits = False

    def run(self, block: Block, inputs: Sequence[Times], decided: int) -> list[Times]:
        """Times of the results of a block."""
        env: dict[Var, Times] = dict(zip(block.inputs, inputs))

        def read(atoms: Sequence[Atom]) -> list[Times]:
            return [env.get(v, Times()) if isinstance(v, Var) else Times() for v in atoms]

        received: set[str] = set()
        for step in block.steps:
            env.update(zip(step.outputs, self._step(step, block, read(step.inputs), decided)))
            if inner_blocks(step):
                own = {n for body in inner_blocks(step) for n in _received(body)}
                gone_back = {n for body in inner_blocks(step) for n in _gone_back(body)}
                self.waits |= bool((gone_back - own) & received)
                received |= own
        return read(block.results)

    def _step(self, step: Step, block: Block, times: list[Times], decided: int) -> list[Times]:
        match step:
            case Local(placement=placement):
                made = _latest(times, decided)
                made = made if placement is CLIENTS else Times(made.known, made.known)
                return [made] * len(step.outputs)
            case Broadcast(name=name):
                sent = [max(t.known, decided) for t in times]
                return [Times(t, decided if COTANGENT in name else t) for t in sent]
            case Sum():
                return self._sum(step, block, times, decided)
            case Loop():
                return self._loop(step, times, decided)
            case While():
                return self._while(step, times, decided)
        return self._branch(step, times, decided)

    def _sum(self, step: Sum, block: Block, times: list[Times], decided: int) -> list[Times]:
        sent = [t for v, t in zip(step.inputs, times) if block.placement(v) is CLIENTS]
        self.waits |= any(t.known > max(t.alone, decided) for t in sent)
        # A sum of constants is the size of the cohort, which the server knows.
        known = _latest(times, decided).known + bool(sent)
        return [Times(known, known)] * len(step.outputs)

    def _branch(self, step: Branch, times: list[Times], decided: int) -> list[Times]:
        chosen = max(decided, times[0].known)
        rows = [self.run(body, times[1:], chosen) for body in step.branches]
        return [_latest(column, chosen) for column in zip(*rows)]

    def _loop(self, step: Loop, times: list[Times], decided: int) -> list[Times]:
        def iteration(given: list[Times]) -> list[Times]:
            return self.run(step.body, given, decided)

        return _repeated(iteration, times, step.constants, step.carries, step.length)

    def _while(self, step: While, times: list[Times], decided: int) -> list[Times]:
        first, start = step.predicate_constants, step.predicate_constants + step.body_constants

        def iteration(given: list[Times]) -> list[Times]:
            constants, own, carried = given[:first], given[first:start], given[start:]
            (goes_on,) = self.run(step.predicate, [*constants, *carried], decided)
            return self.run(step.body, [*own, *carried], max(decided, goes_on.known))

        return _repeated(iteration, times, start, len(times) - start, _OPEN)


def _received(block: Block) -> set[str]:
    """Names of what a block broadcasts, at any depth, and not only once more."""
    here = {s.name for s in block.steps if isinstance(s, Broadcast) and AGAIN not in s.name}
    return here.union(*(_received(b) for s in block.steps for b in inner_blocks(s)))


def _gone_back(block: Block) -> set[str]:
    """Names of the broadcasts that sums of a block, at any depth, are transposes of."""
    names = [s.name for s in block.steps if isinstance(s, Sum)]
    here = {n.rpartition(COTANGENT)[0] for n in names if COTANGENT in n}
    return here.union(*(_gone_back(b) for s in block.steps for b in inner_blocks(s)))


def _latest(times: Iterable[Times], decided: int) -> Times:
    known, alone = zip(Times(decided, decided), *times)
    return Times(max(known), max(alone))


def _repeated(
    iteration: Callable[[list[Times]], list[Times]],
    times: list[Times],
    start: int,
    carries: int,
    length: int,
) -> list[Times]:
    """Times of what a loop gives, from an iteration that is neither the first nor the last.

    Args:
      iteration: From the times of what an iteration reads to those of what it gives, carries first.
      times: Of what the loop reads.
      start: Where its carries stand.
      carries: Their number.
      length: How often the iteration is taken.
    """
    begin = _latest(times, 0).known
    given, stop = list(times), start + carries
    while True:
        results = iteration(given)
        # What an iteration adds is known to the next one, which cannot be told from any other.
        later = [
            Times(*(max(old, min(new, begin + 1)) for old, new in zip(before, after)))
            for before, after in zip(given[start:stop], results)
        ]
        if later == given[start:stop]:
            return [Times(*(_after(t, begin, length) for t in both)) for both in results]
        given[start:stop] = later


def _after(time: int, begin: int, length: int) -> int:
    return begin + (time - begin) * length if time > begin else time
