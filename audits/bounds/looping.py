"""Facts through calls, branches and loops.

The walk repeats a loop until the facts of its carries hold in every iteration. It widens growing
facts to no bound, so a few passes are enough. `key_loops` follows keys and counters.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from audits.bounds.domains.key_loops import KeyLoop, stacked
from audits.bounds.records import Records
from audits.bounds.values.facts import (
    Fact,
    Interval,
    everything,
    join_facts,
    touched,
    weaker,
)
from audits.bounds.values.keys import mixed
from audits.bounds.values.steps import Site
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
        fixed, start, rows = loop.split(site.facts)
        inner = (*path, "body" if (*path, "body") in self.checker.evidence else "row")
        keys = KeyLoop(self.number("loop", path), loop.length, self._loops)
        outside, self._loops = self._loops, (*self._loops, keys.loop)
        shapes = [atom.aval.shape for atom in loop.xs]  # type: ignore[attr-defined]
        slices = [self._slice(f, s, keys, inner, k) for k, (f, s) in enumerate(zip(rows, shapes))]
        run = lambda carry: self._visit(loop.body, [*fixed, *carry, *slices], inner)
        carry, out, seen = self._steady(start, [a.aval for a in loop.carry], run, keys, inner)
        self.records.add(seen)
        self._loops = outside
        return [
            join_facts(self.number("carry out", path, k), a, b).replace(
                keys=keys.end(k, carry[k].keys, a.keys)
            )
            for k, (a, b) in enumerate(zip(loop.split_out(out)[0], start))
        ] + [self._stack(f, path, k) for k, f in enumerate(loop.split_out(out)[1])]

    def _slice(self, fact: Fact, shape, keys: KeyLoop, path: Path, index: int) -> Fact:
        return Fact(
            self.number("slice", path, index),
            fact.interval,
            raw=fact.raw,
            divisors=fact.divisors,
            blame=fact.blame,
            keys=keys.row(fact.keys, shape, fact.number),
        )

    def _stack(self, fact: Fact, path: Path, index: int) -> Fact:
        return Fact(
            self.number("stacked", path, index),
            fact.interval,
            raw=fact.raw,
            divisors=fact.divisors,
            direct=fact.direct,
            blame=fact.blame,
            keys=stacked(fact.keys),
        )

    def _steady(
        self, start: Sequence[Fact], avals: Sequence[Any], body, keys: KeyLoop, path: Path
    ) -> Steady:
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
        begun = keys.begin([f.keys for f in start], avals)
        facts = [f.replace(keys=k) for f, k in zip(facts, begun)]
        for attempt in itertools.count():
            out, seen = body(facts)
            merged = [self._widened(a, b, attempt) for a, b in zip(facts, out)]
            if attempt >= MAX_PASSES:
                merged = [_forgotten(f) for f in merged]
            later = keys.again([f.keys for f in facts], [f.keys for f in out], avals)
            merged = [f.replace(keys=k) for f, k in zip(merged, later)]
            if merged == facts:
                self._invariants[path] = facts
                self.records.carries.update(keys.meaning(later, [f.keys for f in out]))
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
        keys = KeyLoop(self.number("loop", path), None, self._loops)
        outside, self._loops = self._loops, (*self._loops, keys.loop)
        batched = bool(loop.predicate.jaxpr.outvars[0].aval.shape)  # type: ignore[attr-defined]

        def once(carry: Sequence[Fact]) -> tuple[list[Fact], Records]:
            out, seen = self._visit(loop.body, [*fixed, *carry], inner)
            return (list(map(_of_several, out)) if batched else out), seen

        begun = list(map(_of_several, start)) if batched else start
        carry, out, seen = self._steady(begun, [a.aval for a in loop.carry], once, keys, inner)
        # The predicate also reads the last carry, after which no iteration follows.
        read = [f.replace(keys=keys.tested(k, f.keys)) for k, f in enumerate(carry)]
        decided = self.closed(loop.predicate, [*tested, *read], (*path, "test"))
        self._watch_decision(site, path, decided[0], self._tested(path))
        self.records.add(seen)
        self._loops = outside
        # Every result reveals the number of iterations, even a result without data.
        return [
            touched(
                join_facts(self.number("carry out", path, k), a, b).replace(
                    keys=keys.end(k, carry[k].keys, a.keys)
                ),
                decided,
            )
            for k, (a, b) in enumerate(zip(out, start))
        ]

    def _tested(self, path: Path) -> Label:
        """The label of the predicate of a `while` loop."""
        inside = (*path, "test")
        (condition,) = self.checker.programs[inside].outvars
        literal = isinstance(condition, Literal)
        return public() if literal else self.checker.evidence[inside][condition]


def _fresh(fact: Fact, number: int) -> Fact:
    """The initial facts, restricted to those that a later iteration may start with too."""
    return fact.replace(number=number, relation=None, scaled=frozenset(), multiple=None, linear=(),
                        amount=None, noise=None, draw=None, part=None)  # fmt: skip


def _of_several(fact: Fact) -> Fact:
    """A fact whose entries may come from different iterations, as in a batched loop."""
    return _fresh(fact, fact.number).replace(norms=(), keys=mixed([fact.keys]))


def _forgotten(fact: Fact) -> Fact:
    """A fact without a bound that keeps its dependences and revealed keys."""
    return touched(Fact(fact.number, everything(np.float32)), [fact]).replace(
        low=fact.low, direct=fact.direct
    )
