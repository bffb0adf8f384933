"""The keys of noise: who knows them, and what else depends on them.

Noise hides a sum only if its key holds somebody's secret, if every other draw and every release
depends on unrelated keys, and if each iteration of a loop has another key.
"""

import itertools
from collections.abc import Iterable, Sequence

from audits.bounds.domains.key_relations import Grove, Resolver, related
from audits.bounds.domains.releases import NoiseSite
from audits.bounds.proving import Prover
from audits.bounds.records import KeyUse
from audits.bounds.values.facts import Fact
from audits.bounds.values.keys import Edge, Key, Keys, mixed
from audits.rules.findings import Finding, finding


def key_findings(prover: Prover, outputs: Sequence[Fact]) -> list[Finding]:
    """Checks that noise keys are secret, fresh and used only for noise."""
    judge = _Judge(prover, outputs)
    sites: dict[int, list[NoiseSite]] = {}
    for site in prover.records.noise:
        if site.known:
            sites.setdefault(site.noise.draw, []).append(site)
    found = []
    for draw, added in sites.items():
        found += judge.noise(draw, added)
    return found


class _Judge:
    """The records of a walk, with the names of carried keys resolved."""

    def __init__(self, prover: Prover, outputs: Sequence[Fact]):
        records = prover.records
        self.resolver = Resolver(records.carries)
        self.draws: dict[int, list[KeyUse]] = {}
        for use in records.uses:
            self.draws.setdefault(use.draw, []).append(use)
        self.uses = self._grove(
            (k, use.draw) for use in records.uses for row in use.rows for k in row
        )
        self.sent = self._behind([records.sent], drawn=False)
        self.released = self._behind([f.keys for f in outputs] + [Keys(drawn=records.sent.drawn)])
        self.summed = self._behind([o.fact.keys for o in records.operands.values()])

    def _grove(self, keys: Iterable[tuple[Key, object]]) -> Grove:
        return Grove((name, what) for key, what in keys for name in self.resolver.names(key))

    def _behind(self, values: Iterable[Keys], drawn: bool = True) -> Grove:
        """The keys that values show, or whose draws are in them."""
        whole = mixed(values)
        return self._grove((k, k) for k in whole.shown | (whole.drawn if drawn else frozenset()))

    def noise(self, draw: int, sites: Sequence[NoiseSite]) -> list[Finding]:
        """The findings about one draw and the places where it is added."""
        line, at_client = sites[-1].line, sites[0].at_client
        uses = self.draws.get(draw, [])
        generator = uses[0].generator if uses else "a key"
        found = [finding("FAD506", line=line, generator=generator)]
        rows = [row for use in uses for row in use.rows]
        keys = list(dict.fromkeys(key for row in rows for key in row))
        holder = "client" if at_client else "server"
        if not keys or not all(self.resolver.secret(key, holder) for key in keys):
            found.append(finding("FAD503" if at_client else "FAD505", line=line))
        names = list(dict.fromkeys(n for key in keys for n in self.resolver.names(key)))
        if not at_client and any(self.sent.relatives(name) for name in names):
            found.append(finding("FAD502", line=line))
        shown = self.summed if at_client else self.released
        if any(shown.relatives(name) for name in names):
            found.append(finding("FAD504", line=line, other="a value that is released"))
        if not at_client and any(use.raw for use in uses):
            found.append(
                finding("FAD504", line=line, other="a sum without noise, which its key depends on")
            )
        count = len(sites) + len(uses) - 1 + self._others(draw, names)
        if count <= 1 and (self._repeated(rows, sites) or self._twice(rows)):
            count = 2
        if count > 1:
            found.append(finding("FAD501", line=line, count=count))
        return found

    def _others(self, draw: int, names: Sequence[Key]) -> int:
        """The number of other draws from keys that are related to these."""
        through = {_folded(step) for name in names for step in name.steps()}
        found = {other for name in names for other in self.uses.relatives(name)}
        return sum(len(self.draws[other]) for other in found - {draw} - through)

    def _repeated(self, rows: Sequence[Sequence[Key]], sites: Sequence[NoiseSite]) -> bool:
        """Whether an iteration of some loop may add noise with a key of another iteration."""
        for site in sites:
            for position in range(len(site.loops)):
                for row in rows:
                    names = [n for key in row for n in self.resolver.names(key)]
                    pairs = itertools.product(names, repeat=2)
                    if any(related(a, b, site.loops, position) for a, b in pairs):
                        return True
        return False

    def _twice(self, rows: Sequence[Sequence[Key]]) -> bool:
        """Whether one draw may use a key for two of its entries."""
        for row in rows:
            if len(row) > 1:
                grove = self._grove((key, k) for k, key in enumerate(row))
                for k, key in enumerate(row):
                    if any(set(grove.relatives(n)) - {k} for n in self.resolver.names(key)):
                        return True
        return False


def _folded(step: object) -> object:
    """The draw whose bits were folded into a key; that draw is part of the key."""
    kind = step.kind if isinstance(step, Edge) else None
    return kind[1] if isinstance(kind, tuple) and kind[0] == "bits" else None
