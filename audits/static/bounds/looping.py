"""Facts through calls, branches and loops.

A loop is read until the facts of its carries hold in every iteration; what keeps growing is widened
to no bound, so that at most a few passes are needed. A value made inside a loop is a new value in
every iteration, which is how the use of one key in all of them is found.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from audits.static.bounds.facts import Fact, Identity, Interval, everything, join_facts, touched
from audits.static.bounds.steps import Site
from audits.static.interpreter import Checker, Path
from secfad._jax import ClosedJaxpr, sub_jaxprs

MAX_PASSES = 6


@dataclasses.dataclass(frozen=True)
class KeyUse:
    """A key is consumed: by a draw or by a split."""

    key: int
    path: Path
    count: int
    loops: tuple[int, ...]
    identities: frozenset[int] = frozenset()


class ControlFlow:
    """The part of the prover that enters other programs; `Prover` gives it the rest."""

    checker: Checker
    recording: bool
    count: int
    born: dict[int, tuple[int, ...]]
    _loops: tuple[int, ...]

    number: Any
    closed: Any
    jaxpr: Any
    _unknown: Any

    def _call(self, site: Site, path: Path) -> list[Fact]:
        if site.name in ("linear_solve", "custom_linear_solve"):
            return self._unknown(site)
        bodies = [b for v in site.params.values() for b in sub_jaxprs(v)]
        body = bodies[0]
        if isinstance(body, ClosedJaxpr):
            return self.closed(body, site.facts, path)
        return self.jaxpr(body, [], site.facts, path)

    def _cond(self, site: Site, path: Path) -> list[Fact]:
        outs = [
            self.closed(branch, site.facts[1:], (*path, f"branch{k}"))
            for k, branch in enumerate(site.params["branches"])
        ]
        made = []
        for position, column in enumerate(zip(*outs)):
            result = column[0]
            for other in column[1:]:
                result = join_facts(self.number("branch", path, position), result, other)
            made.append(touched(result, site.facts[:1]))
        return made

    def _scan(self, site: Site, path: Path) -> list[Fact]:
        constants, carries = site.params["num_consts"], site.params["num_carry"]
        inner = (*path, "body" if (*path, "body") in self.checker.evidence else "row")
        fixed = site.facts[:constants]
        start = site.facts[constants : constants + carries]
        length = int(site.params["length"])
        outside, self._loops = self._loops, (*self._loops, self.number("loop", path))
        slices = [self._slice(f, inner, k) for k, f in enumerate(site.facts[constants + carries :])]
        run = lambda carry: self.closed(site.params["jaxpr"], [*fixed, *carry, *slices], inner)
        carry = self._steady(start, lambda c: run(c)[:carries], inner)
        before, self.count = self.count, self.count * max(length, 1)
        out = run(carry)
        self._reused_carries(carry, out)
        self.count, self._loops = before, outside
        return [
            join_facts(self.number("carry out", path, k), a, b)
            for k, (a, b) in enumerate(zip(out[:carries], start))
        ] + [self._stack(f, path, k) for k, f in enumerate(out[carries:])]

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

    def _steady(self, start: Sequence[Fact], body, path: Path) -> list[Fact]:
        """Facts of loop carries that hold in every iteration; what keeps changing is forgotten."""
        quiet, self.recording = self.recording, False
        fresh = [
            f.replace(number=self.number("carry", path, k), relation=None, scaled=frozenset(),
                      multiple=None, linear=(), noise=None, draw=None, part=None)
            for k, f in enumerate(start)
        ]  # fmt: skip
        for attempt in range(MAX_PASSES):
            out = body(fresh)
            merged = [self._widened(a, b, attempt) for a, b in zip(fresh, out)]
            if merged == fresh:
                break
            fresh = merged
        else:
            fresh = [
                touched(Fact(f.number, everything(np.float32)), [f]).replace(
                    lineage=f.lineage, identity=f.identity
                )
                for f in fresh
            ]
        self.recording = quiet
        return fresh

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
        conds, bodies = site.params["cond_nconsts"], site.params["body_nconsts"]
        fixed = site.facts[conds : conds + bodies]
        start = site.facts[conds + bodies :]
        inner = (*path, "body")
        outside, self._loops = self._loops, (*self._loops, self.number("loop", path))
        body = site.params["body_jaxpr"]
        carry = self._steady(start, lambda c: self.closed(body, [*fixed, *c], inner), inner)
        before, self.count = self.count, self.count * 2
        test = [*site.facts[:conds], *carry]
        decided = self.closed(site.params["cond_jaxpr"], test, (*path, "test"))
        out = self.closed(body, [*fixed, *carry], inner)
        self._reused_carries(carry, out)
        self.count, self._loops = before, outside
        # How often the loop ran shows in every result, also in one that no data enter.
        return [
            touched(join_facts(self.number("carry out", path, k), a, b), decided)
            for k, (a, b) in enumerate(zip(out, start))
        ]

    def _reused_carries(self, carry: Sequence[Fact], out: Sequence[Fact]) -> None:
        """A key that a loop hands on unchanged is the same key in every iteration."""
        for before, after in zip(carry, out):
            if before.number == after.number:
                self.born[before.number] = self._loops[:-1]

    def reused(self, use: KeyUse) -> bool:
        """Whether a key is older than the innermost loop that uses it."""
        return use.count > 1 and self.born.get(use.key, ()) != use.loops


def _one_of(identity: Identity | None) -> Identity | None:
    """An entry of a key array, or many in a row: any of its keys."""
    return None if identity is None else Identity(identity.shape[1:], (), identity.keys)
