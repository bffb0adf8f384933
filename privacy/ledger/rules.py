"""Rules: recomputes the numbers in every record from their inputs.

A chain shows that no record was changed after it was written. It does not show that the records are
correct. So verification and import recompute every number that a decision uses: capacities from the
budgets, costs and multipliers from the releases, the prices of plans from their slots. The ledger's
premises cannot be recomputed: its budgets, its plans, and the draws that happened.

A record may charge more than this version of the library would, but never less, up to
`EPSILON_ROOM` and `ROOM`: two versions of an accountant need not agree in the last digits.

>>> from privacy.budgets import Budget
>>> charter = make_charter(Budget(4, 1e-5), population=100, accountant="gdp")
>>> rules = Rules()
>>> rules.check(0, "genesis", charter.record() | {"ledger_id": "a", "time": 0.0, "format": 1})
>>> rules.finish()

Sources: docs/ledger-slots.md, section 4.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from privacy.accounting import terms as elementary
from privacy.accounting.draws import draw_terms
from privacy.accounting.events import canonical_json, parse_event
from privacy.accounting.slots import (
    TOTAL,
    Release,
    Slot,
    check_name,
    effective_noise_multiplier,
    tally_key,
)
from privacy.budgets import finite_number, sampling_probability
from privacy.errors import InvalidEvent, LedgerCorrupt, LedgerError
from privacy.ledger.admission import is_poisson, plan_costs, plan_price
from privacy.ledger.charter import Charter, make_charter
from privacy.ledger.records import FORMAT

EPSILON_ROOM = 1e-4
"""Relative room for the price of a plan: the grid of privacy losses on which it is computed."""
ROOM = 1e-9
"""Relative room for multipliers, rates, costs and capacities; the latter two have one unit more."""
_SEEN = 4096
# The direction in which a leaf's fields reveal more: down or up; other fields must be equal.
_LESS_NOISE = ("noise_multiplier", "variance")
_MORE_REACH = ("q", "l1", "l2")


@dataclass(frozen=True)
class _Draw:
    """The joint mechanism of a reservation's releases."""

    terms: elementary.Terms
    charged: float | None


class Rules:
    """Checks the records of one chain in order, and finally the price of all plans."""

    def __init__(self):
        self._charter: Charter | None = None
        self._plans: list[tuple[int, list[Slot]]] = []
        self._reserved: dict[int, Mapping[str, Any]] = {}
        self._seen: dict[bytes, _Draw] = {}

    @property
    def charter(self) -> Charter:
        """The ledger's charter, after its genesis was checked."""
        assert self._charter is not None  # the chain begins with a genesis record
        return self._charter

    def check(self, seq: int, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Checks one record; for a void, returns the refunded reservation if it exists.

        Raises:
          LedgerError: A number does not follow from its inputs.
          ValueError, KeyError, TypeError: A field is missing or has an invalid value.
        """
        finite_number(body["time"], "a time")
        if kind in ("genesis", "plan", "reserve"):
            {"genesis": self._genesis, "plan": self._plan, "reserve": self._reserve}[kind](
                seq, body
            )
            return None
        number = body["reservation"]
        if type(number) is not int:
            raise InvalidEvent(f"Expected the number of a reservation, got {number!r}.")
        reserved = (
            self._reserved.get(number) if kind == "open" else self._reserved.pop(number, None)
        )
        if kind == "commit":
            self._commit(reserved, body)
        return reserved

    def finish(self) -> None:
        """Prices all plans of a "pld" ledger together.

        A part of a plan never costs more than the whole, so one price per scope is enough. Only if
        it is too high, the plans are priced one after the other to name the first bad one.

        Raises:
          LedgerCorrupt: A plan costs more than its budget.
        """
        if self.charter.accountant != "pld":
            return
        purposes = {slot.purpose for _, slots in self._plans for slot in slots}
        for scope in (*sorted(purposes), TOTAL) if purposes else ():
            if not self._fits([slot for _, slots in self._plans for slot in slots], scope):
                self._name_the_plan(scope)

    def _fits(self, slots: list[Slot], scope: str) -> bool:
        most = self.charter.planned_budget(scope).epsilon * (1 + EPSILON_ROOM)
        return plan_price(self.charter, slots, scope) <= most

    def _name_the_plan(self, scope: str) -> None:
        declared: list[Slot] = []
        for seq, slots in self._plans:
            declared += slots
            if not self._fits(declared, scope):
                needed = plan_price(self.charter, declared, scope)
                raise LedgerCorrupt(
                    f"Expected plans within {self.charter.planned_budget(scope)} of {scope!r}; with"
                    f" record {seq} they cost epsilon {needed:.6g}. Do not spend from this file;"
                    " restore it from an export that verifies.",
                    record=seq,
                )

    def _genesis(self, seq: int, body: Mapping[str, Any]) -> None:
        del seq
        charter = Charter.read(body)
        check_name(body["ledger_id"], "a ledger's id")
        if body["format"] != FORMAT or body["unit"] != "client":
            raise LedgerError(f"Expected a ledger of format {FORMAT} whose unit is a client.")
        pld = charter.accountant == "pld"
        again = make_charter(
            charter.budget,
            population=charter.population,
            purposes=charter.purposes,
            relation=charter.relation,
            accountant=charter.accountant,
            unplanned={scope: str(rule) for scope, rule in charter.rules.items()} if pld else None,
        )
        if again.rules != charter.rules:
            raise LedgerError(f"Expected filters for {sorted(again.rules)}, as its terms say.")
        for scope, entry in again.record()["filters"].items():
            _at_most(
                body["filters"][scope]["capacity"], entry["capacity"], f"capacity of {scope!r}"
            )
        self._charter = charter

    def _plan(self, seq: int, body: Mapping[str, Any]) -> None:
        slots = [Slot(**entry) for entry in body["slots"]]
        if not slots or [asdict(slot) for slot in slots] != body["slots"]:
            raise InvalidEvent(f"Expected slots as they are declared, got {body['slots']!r}.")
        for slot in slots:
            self.charter.check_purpose(slot.purpose)
        self._plans.append((seq, slots))
        independent = body["data_independent"]
        if self.charter.accountant != "pld":
            _check_costs(body["costs"], plan_costs(self.charter, slots))
        elif body["costs"] != {} or independent is not True:
            raise LedgerError("Expected a plan that was said to be independent of releases.")

    def _reserve(self, seq: int, body: Mapping[str, Any]) -> None:
        self.charter.check_purpose(body["purpose"])
        for what in ("run_id", "cohort_id"):
            check_name(body[what], what)
        if type(body["round"]) is not int or body["round"] < 0:
            raise InvalidEvent(f"Expected a round of at least 0, got {body['round']!r}.")
        kind, q = body["sampling"]["kind"], body["sampling"]["q"]
        draw = self._draw(body, kind, q)
        if body["slot"] is not None:
            of_slots = draw.charged is not None and is_poisson(kind, q)
            if type(body["slot"]) is not int or not of_slots or body["costs"] or body["tally"]:
                raise LedgerError(
                    "Expected a slot for a Gaussian draw alone, and nothing beside it."
                )
        else:
            _check_costs(body["costs"], self.charter.costs(body["purpose"], draw.terms))
            if body["tally"] != tally_key(draw.terms):
                _check_terms(body["tally"], draw.terms, "tally")
        self._reserved[seq] = body

    def _draw(self, body: Mapping[str, Any], kind: str, q: float) -> _Draw:
        """The draw of a reservation; equal draws are computed once."""
        fields = ("sampling", "releases", "event", "noise_multiplier", "charged_multiplier")
        key = canonical_json([body[field] for field in fields])
        if key not in self._seen:
            if len(self._seen) >= _SEEN:
                self._seen.clear()
            self._seen[key] = self._computed(body, kind, sampling_probability(q))
        return self._seen[key]

    def _computed(self, body: Mapping[str, Any], kind: str, q: float) -> _Draw:
        # Older versions charged a Poisson draw the same price whoever adds the noise. Accept such
        # charges here; `privacy.ledger.bounds` reports that their price is not a bound.
        charter = self.charter
        releases = [Release(**entry) for entry in body["releases"]]
        if [release.record() for release in releases] != body["releases"]:
            raise InvalidEvent(f"Expected releases as they are reserved, got {body['releases']!r}.")
        priced = [replace(r, noise_party="server") if kind == "poisson" else r for r in releases]
        terms = draw_terms(priced, charter.relation, kind, q, population=charter.population)
        z = effective_noise_multiplier(releases, charter.relation)
        charged = getattr(terms[0][0], "noise_multiplier", None)
        _at_most(body["noise_multiplier"], z, "noise_multiplier")
        if (charged is None) != (body["charged_multiplier"] is None):
            raise LedgerError(f"Expected charged_multiplier {charged}.")
        if charged is not None:
            _at_most(body["charged_multiplier"], charged, "charged_multiplier")
        _check_terms(body["event"], terms, "event")
        return _Draw(terms, charged)

    def _commit(self, reserved: Mapping[str, Any] | None, body: Mapping[str, Any]) -> None:
        check_name(body["digest"], "a digest")
        releases = reserved["releases"] if reserved else ()
        least = max((release["min_survivors"] or 0 for release in releases), default=0)
        survivors = body["survivors"]
        if survivors is not None and (type(survivors) is not int or survivors < least):
            raise LedgerError(f"Expected at least {least} survivors, got {survivors!r}.")


def _at_most(recorded: Any, computed: float, what: str) -> None:
    """Refuses a number that allows more spending than its inputs."""
    units = isinstance(computed, int)
    if units and type(recorded) is not int:
        raise InvalidEvent(f"Expected {what} in whole units, got {recorded!r}.")
    if finite_number(recorded, what) > computed + ROOM * abs(computed) + units:
        raise LedgerError(f"Expected {what} {computed}, got {recorded}.")


def _check_costs(recorded: Mapping[str, Any], computed: Mapping[str, int]) -> None:
    if not computed or set(recorded) != set(computed):
        raise LedgerError(f"Expected a slot or costs in {sorted(computed)}, got {recorded!r}.")
    for scope, units in computed.items():
        if type(recorded[scope]) is not int or recorded[scope] < units * (1 - ROOM) - 1:
            raise LedgerError(
                f"Expected a cost of {units} units in {scope!r}, got {recorded[scope]!r}."
            )


def _check_terms(event: Any, computed: elementary.Terms, what: str) -> None:
    """Refuses an event that reveals less than its mechanisms."""
    recorded = parse_event(json.loads(event) if isinstance(event, str) else event)
    same = [n for _, n in recorded] == [n for _, n in computed]
    if not same or not all(_covers(a, b) for (a, _), (b, _) in zip(recorded, computed)):
        raise LedgerError(f"Expected {what} {computed}, got {recorded}.")


def _covers(recorded: elementary.Leaf, computed: elementary.Leaf) -> bool:
    if type(recorded) is not type(computed):
        return False
    for field in dataclasses.fields(computed):
        said, true = getattr(recorded, field.name), getattr(computed, field.name)
        if isinstance(true, elementary.SkellamTerm):
            covered = _covers(said, true)
        elif field.name in _LESS_NOISE:
            covered = said <= true * (1 + ROOM)
        elif field.name in _MORE_REACH:
            covered = said >= true * (1 - ROOM)
        else:
            covered = said == true
        if not covered:
            return False
    return True
