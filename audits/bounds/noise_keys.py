"""The keys of noise: who knows them, and their other uses."""

from collections.abc import Sequence

from audits.bounds.domains.facts import Fact
from audits.bounds.domains.releases import NoiseSite
from audits.bounds.proving import Prover
from audits.rules.findings import Finding, finding
from audits.transfer.labels import Place


def key_findings(prover: Prover, outputs: Sequence[Fact]) -> list[Finding]:
    """Checks that noise keys are secret, fresh and used only for noise."""
    found = []
    drawn = frozenset().union(*(f.draws for f in outputs)) | prover.records.shown_draws
    revealed = frozenset().union(*(f.reveals for f in outputs))
    noise_keys: dict[int, list[NoiseSite]] = {}
    for site in prover.records.noise:
        if not site.known:
            continue
        noise_keys.setdefault(site.noise.key, []).append(site)
    for key, sites in noise_keys.items():
        line = sites[-1].line
        place = sites[0].noise.place
        found.append(
            finding("FAD506", line=line, generator=prover.records.generators.get(key, "a key"))
        )
        if place == Place.PUBLIC:
            found.append(finding("FAD505", line=line))
        own = prover.records.lineages.get(key, frozenset({key}))
        if own & prover.records.sent and not sites[0].at_client:
            found.append(finding("FAD502", line=line))
        ancestors = prover.records.lineages.get(key, frozenset()) | {key}
        if not sites[0].at_client and (key in drawn or ancestors & revealed):
            found.append(finding("FAD504", line=line, other="a value that is released"))
        if len(sites) > 1:
            found.append(finding("FAD501", line=line, count=len(sites)))
        elif (times := _times_used(prover, key)) > 1:
            found.append(finding("FAD501", line=line, count=times))
    return found


def _times_used(prover: Prover, key: int) -> int:
    """The number of uses of a key in any form."""
    mine = prover.records.identities.get(key, frozenset())
    same = [u for u in prover.records.uses if u.key == key or mine & u.identities]
    return sum(use.count if prover.reused(use) else 1 for use in same)
