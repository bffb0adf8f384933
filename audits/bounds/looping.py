"""Facts through calls, branches and loops.

The walk repeats a loop until the facts of its carries hold in every iteration. It widens growing
facts to no bound, so a few passes are enough. A value computed inside a loop is a new value in
every iteration; this finds a key that all iterations use.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from audits.bounds.domains.facts import (
    Fact,
    Identity,
    Interval,
    everything,
    join_facts,
    touched,
    weaker,
)
from audits.bounds.domains.steps import Site
from audits.bounds.records import KeyUse, Records
from audits.transfer.interpreter import Checker, Path
from audits.transfer.labels import Label, public
from secfad.inner import ClosedJaxpr, Literal, equations, sub_jaxprs

MAX_PASSES = 6


class Steady(NamedTuple):
    """The facts that hold in every iteration: carries, results and records."""

    carry: list[Fact]
    out: list[Fact]
    seen: Records


class ControlFlow:
    """The part of the prover that enters nested programs; `Prover` provides the rest."""

    checker: Checker
    records: Records
    count: int
    born: dict[int, tuple[int, ...]]
    _loops: tuple[int, ...]
    _invariants: dict[Path, list[Fact]]

    number: Any
    closed: Any
    _visit: Any
    _watch_decision: Any
    jaxpr: Any

    def _call(self, site: Site, path: Path) -> list[Fact]:
        if site.name in ("linear_solve", "custom_linear_solve"):
            return self._solve(site, path)
        bodies = [b for v in site.params.values() for b in sub_jaxprs(v)]
        body = bodies[0]
        if isinstance(body, ClosedJaxpr):
            return self.closed(body, site.facts, path)
        return self.jaxpr(body, [], site.facts, path)

    def _solve(self, site: Site, path: Path) -> list[Fact]:
        """Only the `solve` program of a linear solve runs, as for labels."""
        solve = equations.viewed(site.equation, equations.Solve)
        return self.closed(solve.body, solve.split(site.facts), (*path, "solve"))

    def _cond(self, site: Site, path: Path) -> list[Fact]:
        choice = equations.viewed(site.equation, equations.Cond)
        outs = [
            self.closed(branch, site.facts[1:], (*path, f"branch{k}"))
            for k, branch in enumerate(choice.branches)
        ]
        made = []
        for position, column in enumerate(zip(*outs)):
            result = column[0]
            for other in column[1:]:
                result = join_facts(self.number("branch", path, position), result, other)
            made.append(touched(result, site.facts[:1]))
        return made

    def _scan(self, site: Site, path: Path) -> list[Fact]:
        loop = equations.viewed(site.equation, equations.Scan)
        fixed, start, stacked = loop.split(site.facts)
        inner = (*path, "body" if (*path, "body") in self.checker.evidence else "row")
        outside, self._loops = self._loops, (*self._loops, self.number("loop", path))
        slices = [self._slice(f, inner, k) for k, f in enumerate(stacked)]
        run = lambda carry: self._visit(loop.body, [*fixed, *carry, *slices], inner)
        before, self.count = self.count, self.count * max(loop.length, 1)
        carry, out, seen = self._steady(start, run, inner)
        self.records.add(seen)
        self._reused_carries(carry, out)
        self.count, self._loops = before, outside
        return [
            join_facts(self.number("carry out", path, k), a, b)
            for k, (a, b) in enumerate(zip(loop.split_out(out)[0], start))
        ] + [self._stack(f, path, k) for k, f in enumerate(loop.split_out(out)[1])]

    def _slice(self, fact: Fact, path: Path, index: int) -> Fact:
        number = self.number("slice", path, index)
        return Fact(
            number, fact.interval, raw=fact.raw, divisors=fact.divisors, blame=fact.blame,
            lineage=fact.lineage | {number} if fact.lineage else frozenset(),
            draws=fact.draws,
            reveals=fact.reveals,
            identity=_one_of(fact.identity),
        )  # fmt: skip

    def _stack(self, fact: Fact, path: Path, index: int) -> Fact:
        return Fact(
            self.number("stacked", path, index),
            fact.interval,
            raw=fact.raw,
            divisors=fact.divisors,
            direct=fact.direct,
            blame=fact.blame,
            draws=fact.draws,
            reveals=fact.reveals,
            lineage=fact.lineage,
            identity=_one_of(fact.identity),
        )

    def _steady(self, start: Sequence[Fact], body, path: Path) -> Steady:
        """The facts of loop carries that hold in every iteration, confirmed by one visit that
        starts from them.

        Changing facts are widened and finally forgotten; the remaining sets are finite.
        """
        facts = [_fresh(f, self.number("carry", path, k)) for k, f in enumerate(start)]
        known = self._invariants.get(path)
        if (
            known is not None
        ):  # the loop around this one has grown, so most of it will be needed again
            facts = [weaker(a.number, a, b).replace(amount=None) for a, b in zip(facts, known)]
        for attempt in itertools.count():
            out, seen = body(facts)
            merged = [self._widened(a, b, attempt) for a, b in zip(facts, out)]
            if attempt >= MAX_PASSES:
                merged = [_forgotten(f) for f in merged]
            if merged == facts:
                self._invariants[path] = facts
                return Steady(facts, out, seen)
            facts = merged
        raise AssertionError("unreachable: the passes have no end")

    def _widened(self, before: Fact, after: Fact, attempt: int) -> Fact:
        joined = join_facts(before.number, before, after)
        if joined.interval == before.interval or attempt < 1:
            return joined.replace(amount=None)
        i = joined.interval
        low = -math.inf if i.low < before.interval.low else i.low
        high = math.inf if i.high > before.interval.high else i.high
        norms = joined.norms if joined.norms == before.norms else ()
        return joined.replace(interval=Interval(low, high, True, True), amount=None, norms=norms)

    def _while(self, site: Site, path: Path) -> list[Fact]:
        loop = equations.viewed(site.equation, equations.While)
        tested, fixed, start = loop.split(site.facts)
        inner = (*path, "body")
        outside, self._loops = self._loops, (*self._loops, self.number("loop", path))
        before, self.count = self.count, self.count * 2
        batched = bool(loop.predicate.jaxpr.outvars[0].aval.shape)  # type: ignore[attr-defined]

        def once(carry: Sequence[Fact]) -> tuple[list[Fact], Records]:
            out, seen = self._visit(loop.body, [*fixed, *carry], inner)
            return (list(map(_of_several, out)) if batched else out), seen

        carry, out, seen = self._steady(
            list(map(_of_several, start)) if batched else start, once, inner
        )
        decided = self.closed(loop.predicate, [*tested, *carry], (*path, "test"))
        self._watch_decision(site, path, decided[0], self._tested(path))
        self.records.add(seen)
        self._reused_carries(carry, out)
        self.count, self._loops = before, outside
        # Every result reveals the number of iterations, even a result without data.
        return [
            touched(join_facts(self.number("carry out", path, k), a, b), decided)
            for k, (a, b) in enumerate(zip(out, start))
        ]

    def _tested(self, path: Path) -> Label:
        """The label of the predicate of a `while` loop."""
        inside = (*path, "test")
        (condition,) = self.checker.programs[inside].outvars
        literal = isinstance(condition, Literal)
        return public() if literal else self.checker.evidence[inside][condition]

    def _reused_carries(self, carry: Sequence[Fact], out: Sequence[Fact]) -> None:
        """A key that a loop carries unchanged is the same key in every iteration."""
        for before, after in zip(carry, out):
            if before.number == after.number:
                self.born[before.number] = self._loops[:-1]

    def reused(self, use: KeyUse) -> bool:
        """Whether a key is older than the innermost loop that uses it."""
        return use.count > 1 and self.born.get(use.key, ()) != use.loops


def _fresh(fact: Fact, number: int) -> Fact:
    """The initial facts, restricted to those that a later iteration may start with too."""
    return fact.replace(number=number, relation=None, scaled=frozenset(), multiple=None, linear=(),
                        amount=None, noise=None, draw=None, part=None)  # fmt: skip


def _of_several(fact: Fact) -> Fact:
    """A fact whose entries may come from different iterations, as in a batched loop."""
    return _fresh(fact, fact.number).replace(norms=())


def _forgotten(fact: Fact) -> Fact:
    """A fact without a bound that keeps its dependences and revealed keys."""
    return touched(Fact(fact.number, everything(np.float32)), [fact]).replace(
        low=fact.low, direct=fact.direct, lineage=fact.lineage, identity=fact.identity
    )


def _one_of(identity: Identity | None) -> Identity | None:
    """An entry, or several entries, of a key array: any of its keys."""
    return None if identity is None else Identity(identity.shape[1:], (), identity.keys)
