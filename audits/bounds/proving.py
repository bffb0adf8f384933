"""The second walk: computes one fact per value and records each sum, noise and output.

It follows the same paths as the communication check and reads its labels. It can therefore assume
that all primitives are known and that rows of different clients never mix.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from audits.bounds.combining import combine
from audits.bounds.domains.chance import rows_of
from audits.bounds.domains.clips import derives_a_norm
from audits.bounds.domains.contributions import Contributions
from audits.bounds.domains.intervals import flushed
from audits.bounds.domains.key_rules import KEPT, argument, is_key, public_keys
from audits.bounds.domains.stability import stated
from audits.bounds.looping import ControlFlow
from audits.bounds.records import KeyUse, Records
from audits.bounds.values.amounts import Amount
from audits.bounds.values.facts import Fact, Interval, everything
from audits.bounds.values.keys import MOST, NOTHING, Keys, indices, mixed
from audits.bounds.values.sets import NONE, Sums, united
from audits.bounds.values.steps import Site
from audits.transfer.interpreter import Checker, Path
from audits.transfer.labels import Label, Place, public
from audits.transfer.registry import DECISIONS
from secfad.inner import ClosedJaxpr, Jaxpr, Literal, Var, user_line


class Prover(Contributions, ControlFlow):
    """Collects the facts of the second walk."""

    def __init__(self, checker: Checker):
        self.checker = checker
        self.stacked = checker.style.stacked
        self.records = Records()
        self._senders = checker.senders()
        self.private: dict[str, Sums] = {}
        self.server_clips = False
        self._callers: list[Any] = []
        self._loops: tuple[int, ...] = ()
        self._numbers: dict[Any, int] = {}
        self._kinds: dict[tuple, int] = {}
        self._constants: dict[int, Fact] = {}
        self._visits: dict[tuple, tuple[ClosedJaxpr, list[Fact], Records]] = {}
        self._invariants: dict[Path, list[Fact]] = {}
        self._by_path: dict[tuple[Path, int], int] = {
            where: index for index, where in checker.operands.items()
        }
        self._sum_paths = frozenset(path for path, _ in self._by_path)

    # Numbers of values.

    def number(self, *key: Any) -> int:
        """Equal keys get equal numbers, because equal computations on equal values give equal
        values.
        """
        return self._numbers.setdefault(key, len(self._numbers))

    def run(self, closed: ClosedJaxpr, names: Sequence[str], secret: Sequence[bool]) -> list[Fact]:
        """Facts of the outputs.

        Args:
          closed: The program.
          names: Names of its arguments.
          secret: For each argument, whether it is a key that its holder keeps secret.
        """
        env = self.checker.evidence[()]
        facts = [
            self._argument(v.aval, env[v], name, own)
            for v, name, own in zip(closed.jaxpr.invars, names, secret)
        ]
        return self.closed(closed, facts, ())

    def _argument(self, aval: Any, label: Label, name: str, secret: bool) -> Fact:
        interval = everything(aval.dtype)
        if label.place < Place.COPY and interval.nan:
            # A server value is public or the server's own, so a NaN in it is not a leak.
            interval = Interval(-math.inf, math.inf)
        number = self.number("argument", name, len(self._numbers))
        amount = None
        if not aval.shape and label.place == Place.SERVER:
            # Arguments stay distinct values even if they share a name with each other or with a
            # value.
            name = f"{name}#{number}" if name in self.private else name
            self.private[name] = NONE
            amount = Amount.symbol(name)
        holder = "client" if label.place == Place.CLIENT else "server"
        keys = NOTHING
        if secret:
            keys = argument((name, number), tuple(aval.shape), aval.dtype, holder)
        return Fact(number, interval, amount=amount, keys=keys)

    def closed(self, closed: ClosedJaxpr, facts: Sequence[Fact], path: Path) -> list[Fact]:
        """Walks a closed jaxpr.

        The results depend only on the facts, so they are memoized for loops that search for an
        invariant. The memo keeps the program alive, so that its id stays unique.
        """
        if not self._loops:
            return self._closed(closed, facts, path)
        outs, seen = self._visit(closed, facts, path)
        self.records.add(seen)
        return outs

    def _visit(
        self, closed: ClosedJaxpr, facts: Sequence[Fact], path: Path
    ) -> tuple[list[Fact], Records]:
        """The facts of the outputs and the records, which the caller may discard."""
        key = (path, id(closed), tuple(facts), self._loops)
        if key not in self._visits:
            outside, self.records = self.records, Records()
            outs = self._closed(closed, facts, path)
            self._visits[key] = (closed, outs, self.records)
            self.records = outside
        _, outs, seen = self._visits[key]
        return list(outs), seen

    def _closed(self, closed: ClosedJaxpr, facts: Sequence[Fact], path: Path) -> list[Fact]:
        constants = [self._constant(c) for c in closed.consts]
        return self.jaxpr(closed.jaxpr, constants, facts, path)

    def jaxpr(
        self, jaxpr: Jaxpr, constants: Sequence[Fact], facts: Sequence[Fact], path: Path
    ) -> list[Fact]:
        """Walks a jaxpr whose constants have facts already."""
        labels = self.checker.evidence[path]
        env: dict[Var, Fact] = dict(zip(jaxpr.constvars, constants)) | dict(
            zip(jaxpr.invars, facts)
        )
        for position, equation in enumerate(jaxpr.eqns):
            here = (*path, position)
            site = Site(
                equation,
                [self._read(env, v) for v in equation.invars],
                [_label(labels, v) for v in equation.invars],
                [_label(labels, v) for v in equation.outvars],
                0,
                self.stacked,
            )
            for variable, fact in zip(equation.outvars, self._apply(site, here)):
                env[variable] = fact
        return [self._read(env, v) for v in jaxpr.outvars]

    def _read(self, env: Mapping[Var, Fact], atom: Var | Literal) -> Fact:
        return self._constant(atom.val) if isinstance(atom, Literal) else env[atom]

    def _constant(self, value: Any) -> Fact:
        try:
            array = np.asarray(value)
        except TypeError:
            number = self.number("key constant", id(value))
            return Fact(number, everything(None), keys=public_keys(number, np.shape(value)))
        number = self.number("constant", array.dtype, array.shape, array.tobytes())
        if number not in self._constants:
            self._constants[number] = _range_of(number, array)
        return self._constants[number]

    # Equations.

    def line(self, site: Site) -> str:
        """The user's line, or that of the call whose body has none."""
        lines = [user_line(e) for e in (*self._callers, site.equation)]
        outer = next((text for text in lines if text), "")
        return lines[-1] if lines[-1].split(":")[0] == outer.split(":")[0] else outer

    def _apply(self, site: Site, path: Path) -> list[Fact]:
        if site.name not in _NESTING:
            return self._leaf(site, path)
        self._callers.append(site.equation)
        try:
            return self._nested(site, path)
        finally:
            self._callers.pop()

    def _nested(self, site: Site, path: Path) -> list[Fact]:
        if site.name == "cond":
            self._watch_decision(site, path, site.facts[0], site.labels[0])
            return self._cond(site, path)
        if site.name == "scan":
            return self._scan(site, path)
        if site.name == "while":
            return self._while(site, path)
        return self._call(site, path)

    def _leaf(self, site: Site, path: Path) -> list[Fact]:
        name = site.name
        if name in ("federated_clip", "federated_clip_rows"):
            return self._clip(site, path)
        self._watch(site, path)
        if name in _PASSED_ON:
            return list(site.facts)
        if self._is_sum(site, path):
            return self._sums(site, path)
        return self._ordinary(site)

    def _watch(self, site: Site, path: Path) -> None:
        """Records draws and values that clients receive."""
        seen = self.records
        if site.name not in KEPT and site.name not in _PASSED_ON:
            self._draw(site)
        explicit = site.name == "broadcast_in_dim" and path in self._senders
        for fact, label in zip(site.facts, site.labels):
            crossing = label.place == Place.SERVER and site.outputs and site.outputs[0].on_clients
            if explicit or crossing:
                seen.sent = mixed([seen.sent, fact.keys])
                seen.shown = united(seen.shown, fact.raw)

    def _draw(self, site: Site) -> None:
        """Records a draw from keys, or a use of them that the prover does not know."""
        operand: Any = site.equation.invars[0].aval if site.equation.invars else None
        if operand is None or not is_key(operand.dtype):
            return
        key = site.facts[0]
        number = self.number(*self._key(site), 0)
        use = KeyUse(number, rows_of(site), self._loops, key.raw, str(operand.dtype))
        self.records.uses.append(use)

    def _watch_decision(self, site: Site, path: Path, fact: Fact, label: Label) -> None:
        """Records the predicate of a branch or loop that clients follow: they receive it.

        Clients follow it if they hold a result, or if a message is inside.
        """
        inside = any(found[: len(path)] == path for found in self._sum_paths)
        if label.on_clients or not (inside or any(out.on_clients for out in site.outputs)):
            return
        seen = self.records
        seen.sent = mixed([seen.sent, fact.keys])
        seen.shown = united(seen.shown, fact.raw)

    def _ordinary(self, site: Site) -> list[Fact]:
        if derives_a_norm(site):
            self.records.undefined.append(self.line(site))
        made = []
        for position, variable in enumerate(site.equation.outvars):
            one = _single(site, variable, position, self.number(*self._key(site), position))
            fact, noise = combine(one, self.number, lambda: self.line(site))
            if noise is not None:
                self.records.noise.append(dataclasses.replace(noise, loops=self._loops))
            made.append(self._settled(fact, one))
        return made

    def _settled(self, fact: Fact, site: Site) -> Fact:
        """Tightens the interval by the norms, and names server scalars."""
        reach = math.inf
        for norm in stated(fact):
            if norm.amount.number is not None:
                reach = min(reach, norm.amount.number)
        if reach < math.inf and fact.interval.finite:
            low, high = max(fact.interval.low, -reach), min(fact.interval.high, reach)
            if low <= high:
                fact = fact.replace(interval=Interval(low, high))
        label = site.outputs[0]
        scalar = not site.out_shape and label.place in (Place.SERVER, Place.COPY)
        if scalar and fact.amount is None:
            fact = fact.replace(amount=self._symbol(fact.number, fact.raw))
        if label.place == Place.SERVER and fact.norms and fact.proof == "recognised clip":
            self.server_clips = True
        return fact

    def _symbol(self, number: int, raw: Sums, word: str = "") -> Amount:
        """A name for a server scalar, with the un-noised sums behind it."""
        name = f"{word} (value {number})" if word else f"value {number}"
        self.private[name] = united(self.private.get(name, NONE), raw)
        return Amount.symbol(name)

    def _key(self, site: Site) -> tuple:
        """Identity of a computation: primitive, parameters and the numbers of its operands."""
        named = [(k, _word(v)) for k, v in site.params.items() if k not in _UNNAMED]
        words = tuple(sorted(named)) if len(named) > 1 else tuple(named)
        avals: list[Any] = [v.aval for v in site.equation.outvars]
        kind = (site.name, words, tuple([(a.shape, a.dtype) for a in avals]))
        known = self._kinds.setdefault(kind, len(self._kinds))
        return ("computed", known, *[f.number for f in site.facts])


_ENTERED = ("call", "custom_rule", "linear_solve", "cond", "scan", "while")
_NESTING = frozenset(name for name, family in DECISIONS.items() if family in _ENTERED)
# N-ary; each result equals its operand, whatever its placement.
_PASSED_ON = frozenset(
    {"federated_broadcast", "optimization_barrier", "device_put", "name", "sharding_constraint"}
)


def _range_of(number: int, array: np.ndarray) -> Fact:
    """The fact of a constant."""
    kind = array.dtype.kind
    if kind == "c" and array.size and np.isfinite(array).all():
        reach = float(np.abs(array.astype(np.complex128)).max())
        return Fact(number, Interval(-reach, reach))
    if (array.size == 0 or kind not in "biuf") and not jnp.issubdtype(array.dtype, jnp.floating):
        return Fact(number, everything(array.dtype))
    keys = Keys(indices(array)) if kind in "biu" and 0 < array.size <= MOST else NOTHING
    wide = array.astype(np.float64) if array.size else np.zeros(1)
    nan = bool(np.isnan(wide).any())
    if nan:
        return Fact(number, everything(np.float32))
    low, high = float(wide.min()), float(wide.max())
    whole = Interval(low, high, False, bool(np.isinf(wide).any()))
    return Fact(number, flushed(whole, array.dtype) if kind not in "biu" else whole, keys=keys)


def _single(site: Site, variable: Any, position: int, number: int) -> Site:
    """The site of one result."""
    equation, outputs = site.equation, site.outputs
    if len(outputs) > 1:
        equation, outputs = equation.replace(outvars=[variable]), [outputs[position]]
    return Site(equation, site.facts, site.labels, outputs, number, site.stacked)


def _word(value: Any) -> str:
    # The text of a large array omits its middle.
    return value.tobytes().hex() if isinstance(value, np.ndarray) else repr(value)


_UNNAMED = frozenset({"sharding", "out_sharding", "preferred_element_type", "precision"})


def _label(labels: Mapping[Var, Label], atom: Any) -> Label:
    found = None if isinstance(atom, Literal) else labels.get(atom)
    return _public(len(atom.aval.shape)) if found is None else found  # type: ignore[attr-defined]


_public = functools.cache(public)
