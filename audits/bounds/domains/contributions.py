"""Contributions of clients: the operands of sums, hidden sums in contractions, and `fad.clip`."""

import dataclasses
import math
from typing import Any

from audits.bounds.domains.stability import whole_norm
from audits.bounds.values.amounts import Amount
from audits.bounds.values.facts import Fact, Interval, Norm, Part, everything, factor_of, touched
from audits.bounds.values.precision import low_precision
from audits.bounds.values.sets import NONE, only
from audits.bounds.values.steps import Site, entries
from audits.transfer.interpreter import Path
from audits.transfer.labels import Label

# A sum of ones in a message; the number tells apart sums over different clients.
COUNT = "the number of clients"


@dataclasses.dataclass(frozen=True)
class Operand:
    """The facts about one client's contribution to one sum."""

    event: int
    fact: Fact
    shape: tuple[int, ...]
    client_axis: int | None
    dtype: str
    line: str


class Contributions:
    """The part of the prover for sums and clips; `Prover` provides the rest."""

    records: Any
    number: Any
    line: Any
    _symbol: Any
    _by_path: dict[tuple[Path, int], int]
    _sum_paths: frozenset[Path]

    def _is_sum(self, site: Site, path: Path) -> bool:
        """Hidden sums are recorded without an operand, and the first operand of an n-ary sum may be
        public.
        """
        return site.name == "federated_sum" or path in self._sum_paths

    def _sums(self, site: Site, path: Path) -> list[Fact]:
        hidden = self._by_path.get((path, -1))
        if hidden is not None:
            return [self._contraction(site, path, hidden)]
        made = []
        atoms = zip(site.equation.invars, site.equation.outvars, site.facts, site.labels)
        for position, (atom, out, fact, label) in enumerate(atoms):
            event = self._by_path.get((path, position))
            aval: Any = atom.aval
            if event is not None:
                self.records.operands[event] = Operand(
                    event,
                    _locally_summed(site, fact, label),
                    tuple(aval.shape),
                    label.client_axis,
                    str(aval.dtype),
                    self.line(site),
                )
            made.append(self._sum(site, path, position, event, out.aval))  # type: ignore[attr-defined]
        return made

    def _sum(self, site: Site, path: Path, position: int, event: int | None, aval: Any) -> Fact:
        own = NONE if event is None else only(event)
        number = self.number("sum", path, position)
        return Fact(
            number,
            everything(aval.dtype)._replace(nan=False, inf=False),
            linear=((event, _mean_factor(site)),) if event is not None else (),
            raw=own,
            amount=None
            if aval.shape
            else self._symbol(number, own, self._counting(site, position)),
        )

    def _counting(self, site: Site, position: int) -> str:
        """The name of a number of clients, which is a sum of ones."""
        one = site.facts[position].interval
        return COUNT if one.low == one.high == 1 and one.finite else ""

    def _contraction(self, site: Site, path: Path, event: int) -> Fact:
        """A sum over clients inside a product: |a b| is at most |a| |b| for each client."""
        out: Any = site.equation.outvars[0].aval
        wholes = [
            whole_norm(fact, site.shape(k), _client_position(site, k))
            for k, fact in enumerate(site.facts)
        ]
        product = None if None in wholes else wholes[0].times(wholes[1])  # type: ignore[union-attr,arg-type]
        own = frozenset(range(len(out.shape)))
        finite = all(f.interval.finite for f in site.facts)
        interval = everything(out.dtype)
        if finite and product is not None and product.number is not None:
            interval = Interval(-product.number, product.number)
        fact = Fact(
            self.number("contribution", path),
            interval,
            norms=() if product is None else (Norm(own, product),),
            proof="product of bounded values",
            low=next((f.low for f in site.facts if f.low), ""),
        )
        shape, dtype = tuple(out.shape), str(out.dtype)
        self.records.operands[event] = Operand(
            event, touched(fact, site.facts), shape, None, dtype, self.line(site)
        )
        return self._sum(site, path, 0, event, out)

    def _clip(self, site: Site, path: Path) -> list[Fact]:
        """The joint clip `fad.clip`: bounded and finite for every input."""
        bound, units = site.facts[0], site.params["norms"]
        limit = factor_of(bound)
        group, rows = self.number("clip", path), site.params.get("rows", 0)
        # A clip per example is not a clip per client.
        whole = rows == (0 if site.client_axis is None else 1)
        made = []
        for index, (variable, unit) in enumerate(zip(site.equation.outvars, units)):
            aval: Any = variable.aval
            number = self.number("clipped", path, index)
            if limit is None:
                made.append(touched(Fact(number, everything(aval.dtype)), site.facts))
                continue
            norm = limit.scaled(unit)
            reach = math.inf if norm.number is None else norm.number
            clipped = Fact(
                number,
                Interval(-reach, reach),
                norms=(Norm(frozenset(range(rows, len(aval.shape))), norm),),
                proof="clip",
                part=Part(group, index, unit, limit) if whole else None,
                low=low_precision(aval.dtype),
            )
            made.append(touched(clipped, site.facts))
        return made


def _mean_factor(site: Site) -> Amount:
    if not site.name.startswith("mean_from_"):
        return Amount(1.0)
    return Amount(1.0 / site.shape(0)[0])


def _client_position(site: Site, index: int) -> int | None:
    """The axis of an operand that a contraction sums over clients, replicated or not."""
    contracted = site.params["dimension_numbers"][0]
    sides = [label.client_axis for label in site.labels]
    for mine, axes in zip(sides, contracted):
        if mine in axes:
            return contracted[index][list(axes).index(mine)]
    return None


def _locally_summed(site: Site, fact: Fact, label: Label) -> Fact:
    """A reduction over clients and local axes at once: the local sum comes first."""
    if site.name not in ("reduce_sum", "psum"):
        return fact
    local = {a for a in site.params["axes"] if isinstance(a, int)} - {label.client_axis}
    if not local:
        return fact
    size = entries(site.shape(0), local)
    grown = lambda norms: tuple(n._replace(amount=n.amount.scaled(math.sqrt(size))) for n in norms)
    i = fact.interval
    # The entries that remain after the local sum; the whole-norm rule must not count them again.
    wide = Interval(i.low * math.sqrt(size), i.high * math.sqrt(size), i.nan, i.inf)
    norms, behind = grown(fact.norms), grown(fact.behind)
    return fact.replace(norms=norms, behind=behind, interval=wide, part=None)
