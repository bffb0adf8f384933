r"""The ledger: one budget per population, reserved before a cohort is contacted.

    reserve ----> open ----> commit        budget is taken at reserve
        \--> void                          and comes back only here, before any noise is drawn

A reservation that was never committed counts as spent: after a crash nobody knows which values left
the machine. Planned work declares slots (`privacy.accounting.slots`), priced once by PLD; unplanned
work is charged to a filter (`privacy.accounting.filters`). Every release is checked against its
purpose's budget and the global one. The file is append-only and hash-chained; put `Ledger.head`
into checkpoints, and refuse to resume on a ledger that is not its descendant: an older copy of the
file would be a refund.

>>> import tempfile, pathlib
>>> path = pathlib.Path(tempfile.mkdtemp()) / "ledger.db"
>>> plan = [Slot("training", 0.01, 1.0, 1000)]
>>> with Ledger.create(path, Budget(2.0, 1e-5), population=10_000, slots=plan) as ledger:
...     draw = ledger.reserve(purpose="training", sampling_rate=0.01, run_id="run", round=0,
...         releases=[Release("delta", 1.0, 1.0, noise_std=1.0)], cohort_id="3f9c")
...     _ = draw.open()
...     _ = draw.commit("9d1e", survivors=97)
...     (draw.state, ledger.remaining("training").slots[0].count)
('committed', 999)

Sources: docs/ledger-slots.md.
"""

import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from privacy.accounting import events
from privacy.accounting.draws import draw_terms
from privacy.accounting.slots import (
    Plan,
    Release,
    Slot,
    check_name,
    effective_noise_multiplier,
    expect_all,
)
from privacy.budgets import Budget, sampling_probability
from privacy.cards import Card, Shown
from privacy.checking import expect, expect_count, expect_path
from privacy.errors import CohortReused, InvalidEvent, LedgerError, NoBoundWarning, PrivacyError
from privacy.ledger import verification as ledger_verification
from privacy.ledger.admission import admit_plan, payment
from privacy.ledger.bounds import Bounds
from privacy.ledger.charter import make_charter, read_genesis
from privacy.ledger.faults import unreadable
from privacy.ledger.records import FORMAT, Record, check_link
from privacy.ledger.reports import Remaining, ledger_card, quote, remaining, spent
from privacy.ledger.reservations import Reservation, find_reservations, seconds
from privacy.ledger.store import Store
from privacy.relations import Relation


def expect_ledger(value: Any, error: type[PrivacyError] = LedgerError) -> "Ledger":
    """Returns the value if it is an open ledger."""
    advice = "Call privacy.Ledger.open(path), or privacy.Ledger.create(path, budget, ...)."
    return expect(value, Ledger, "ledger", "an open ledger", advice, error)


class Ledger(Shown):
    """An append-only record of all uses of a population's data, and its budget.

    Guarantees:
      Everything released through open reservations, however adaptively chosen, is (epsilon,
      delta)-DP for the ledger's budget and relation, with one client as the unit, against observers
      who see the releases but not who takes part. If clients add the noise, the observers may know
      the number of participants. A purpose's own budget bounds, in the same sense, what the purpose
      adds to all others. This holds across processes, crashes and retries, if every release has an
      open reservation and if noise, clipping and sampling are as declared in it.

    Source: docs/ledger-slots.md.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time):
        """Use `Ledger.create` or `Ledger.open`."""
        advice = "Call privacy.Ledger.open(path), or privacy.Ledger.create(path, budget, ...)."
        expect(store, Store, "store", "the records of a ledger", advice, LedgerError)
        self.store = store
        self._clock = clock
        self._verified = False
        genesis = store.get(0)
        if genesis is None:
            raise unreadable(store.path, "it has no genesis record")
        check_link(None, genesis)
        self.id, self.charter = read_genesis(store, genesis)
        self.bounds = Bounds(store)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        budget: Budget,
        *,
        population: int,
        purposes: Mapping[str, Budget] | None = None,
        relation: str | Relation = Relation.ADD_OR_REMOVE_ONE,
        slots: Sequence[Slot] = (),
        accountant: str = "pld",
        unplanned: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> "Ledger":
        """Creates a new ledger with a first plan.

        Args:
          path: A free path.
          budget: The global budget.
          population: Number of clients that the budget covers.
          purposes: Budgets of single purposes; without any, the three of `PURPOSES` share the
            global one.
          relation: Neighbouring relation; it never changes.
          slots: Plan, priced before anything is released.
          accountant: "pld" admits only planned work, at the tightest price. "rdp@ORDER", "gdp" or
            "zcdp" also admit unplanned work; "rdp" takes the best order for the plan.
          unplanned: With "pld", purposes that run on a filter instead of slots, as
            {"evaluation": "rdp@8"}. Their whole budgets are set aside from the global one.
          clock: Returns seconds since the epoch, for the records.

        Raises:
          LedgerError: The path exists.
          LedgerUnavailable: The file cannot be written there.
          BudgetExceeded: The plan does not fit; no file remains.
        """
        expect_path(path, "path", "Name a file for the ledger.", LedgerError)
        charter = make_charter(
            budget,
            population=population,
            purposes=purposes,
            relation=relation,
            accountant=accountant,
            unplanned=unplanned,
            slots=slots,
        )
        genesis = {"format": FORMAT, "ledger_id": secrets.token_hex(16), "time": seconds(clock)}
        genesis |= charter.record()

        def fill(store: Store) -> None:
            store.append("genesis", genesis)
            if slots:
                cls(store, clock)._declare(slots, data_independent=True)

        return cls(Store.create(path, fill), clock)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time
    ) -> "Ledger":
        """Opens an existing ledger and checks its newest record.

        Warns:
          NoBoundWarning: It holds charges of an older version whose price is not a bound.

        Raises:
          LedgerError: The ledger does not exist.
          LedgerUnavailable: It cannot be read now.
          LedgerCorrupt: It is damaged. `verify` checks all of it.
        """
        expect_path(path, "path", "Name the ledger's file.", LedgerError)
        store = Store(path)
        try:
            ledger = cls(store, clock)
            last = store.last()
            if last.seq:
                check_link(store.before(last.seq), last)
            statement = ledger.bounds.statement
        except BaseException:
            store.close()
            raise
        if statement:
            warnings.warn(f"{path}: {statement}", NoBoundWarning, stacklevel=2)
        return ledger

    def __repr__(self) -> str:
        return f"<Ledger {self.id[:12]} of {self.charter.population} clients at {self.store.path}>"

    def card(self) -> Card:
        """What a ledger shows of itself: its budgets and what is spent of them."""
        return ledger_card(self.id, self.store, self.charter, self.bounds)

    def __enter__(self):
        return self

    def __exit__(self, *exception: object):
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self.store.close()

    # Planning.

    def declare(self, slots: Sequence[Slot], *, data_independent: bool = False) -> Plan:
        """Adds slots, priced together with all earlier slots.

        Before the first release every plan is data-independent. Later, on a "pld" ledger, state
        this with data_independent=True, which is recorded. A plan chosen from releases (longer
        training because the loss is still falling) must be paid from a filter instead.

        Raises:
          BudgetExceeded: It does not fit; nothing is declared.
          LedgerError: Releases were made, and the plan was not declared independent of them.
        """
        expect_all(slots, Slot, "slots", "Pass [privacy.Slot(...)] or [query.slot(...)].")
        with self.store.transaction():
            return self._declare(slots, data_independent=data_independent)

    def plan(self, slots: Sequence[Slot] = ()) -> Plan:
        """The cost of all declared slots and these slots, in both views; writes nothing."""
        expect_all(slots, Slot, "slots", "Pass [privacy.Slot(...)] or [query.slot(...)].")
        return quote(self.store, self.charter, self.bounds, slots)

    def _declare(self, slots: Sequence[Slot], *, data_independent: bool) -> Plan:
        if not slots:
            raise InvalidEvent("Expected at least one slot, got none. Pass privacy.Slot(...).")
        self.bounds.require()
        opened = self._opened()
        if opened and not data_independent and self.charter.accountant == "pld":
            raise LedgerError(
                "Expected a plan before the first release, got one after it. If it was not chosen"
                " from what was released, call declare(slots, data_independent=True); else create"
                " the ledger with accountant='rdp@ORDER'."
            )
        body = {
            "slots": [asdict(slot) for slot in slots],
            "costs": admit_plan(self.store, self.charter, slots),
            "data_independent": data_independent or not opened,
            "time": seconds(self._clock),
        }
        self.store.append("plan", body)
        return self.plan()

    # Spending.

    def reserve(
        self,
        *,
        purpose: str,
        sampling_rate: float,
        releases: Sequence[Release],
        run_id: str,
        round: int,
        cohort_id: str,
        sampling: str = "poisson",
    ) -> Reservation:
        """Charges one cohort draw with all its releases.

        Call this before the cohort is contacted. Releases inside may be adaptive if all of them are
        listed here with their worst case.

        Args:
          purpose: Whose budget pays.
          sampling_rate: The draw's q; 1 for full participation or, with noise by the server, for
            unknown sampling.
          releases: Every noisy sum of this draw.
          run_id: The run; `find` searches for it and the round.
          round: At least 0.
          cohort_id: Random name of the draw, never the list of members.
          sampling: "poisson", or "fixed" for round(q x population) clients without replacement.

        Raises:
          BudgetExceeded: No slot dominates it and no filter has room for it. Nothing was written.
          CohortReused: This draw was charged before.
          SizeNotPublic: Clients add noise, and the size of the draw would be a secret.
          NoBoundKnown: The ledger holds charges whose price is not a bound.
          InvalidEvent: A number is invalid.
        """
        self.charter.check_purpose(purpose)
        z = effective_noise_multiplier(releases, self.charter.relation)
        q = sampling_probability(sampling_rate)
        expect_count(round, "round", "", error=InvalidEvent)
        terms = draw_terms(
            releases, self.charter.relation, sampling, q, population=self.charter.population
        )
        charged = getattr(terms[0][0], "noise_multiplier", None)
        body: dict[str, Any] = {
            "purpose": purpose,
            "run_id": check_name(run_id, "a run_id"),
            "round": round,
            "cohort_id": check_name(cohort_id, "a cohort_id"),
            "sampling": {"kind": sampling, "q": q},
            "releases": [release.record() for release in releases],
            "noise_multiplier": z,
            "charged_multiplier": charged,
            "event": events.event_of(terms),
            "process": os.getpid(),
            "time": seconds(self._clock),
        }
        with self.store.transaction():
            self.bounds.require()
            self._check_fresh(cohort_id)
            body |= payment(self.store, self.charter, purpose, sampling, q, charged, terms)
            seq = self.store.append("reserve", body).seq
        return Reservation(self.store, self._clock, seq, purpose, run_id, round, cohort_id, q, z)

    def _check_fresh(self, cohort_id: str) -> None:
        taken = "SELECT seq FROM reservations WHERE cohort_id = ?"
        rows = self.store.select(taken, (cohort_id,), (int,))
        if rows:
            raise CohortReused(
                f"Expected a fresh cohort draw, got {cohort_id!r}, charged by record {rows[0][0]}."
                " List all releases of one draw in one reservation, or draw again."
            )

    # Reading.

    def spent(self, view: str = "released") -> dict[str, float]:
        """Epsilon by purpose, and of all purposes under "total", each at its budget's delta.

        All reservations that were not voided count. The numbers report the cost of the same draws
        if they had been planned. Slots and filters decide what may still be spent.

        Args:
          view: "released" for observers of the releases only; "server" for a server that sees who
            takes part, without amplification by sampling. Infinite if no bound is known;
            `ledger.bounds.remarks` gives the reason.
        """
        return spent(self.store, self.charter, self.bounds, view)

    def remaining(self, purpose: str) -> Remaining:
        """The remaining budget of a purpose."""
        return remaining(self.store, self.charter, self.bounds, purpose)

    @property
    def head(self) -> str:
        """Hash of the newest record. Store it with every checkpoint and result."""
        return self.store.last().hash

    def is_descendant_of(self, head: str) -> bool:
        """Whether this file contains the history that ended in head."""
        return self.store.with_hash(head) is not None

    def verify(self) -> None:
        """Checks every record, the numbers that it depends on, and every total.

        Guarantees:
          Every plan and draw was charged at least the cost of its numbers, up to the tolerance in
          `privacy.ledger.rules`, and the totals are those of the records.

        Raises:
          LedgerCorrupt: The error names the first bad record.
        """
        ledger_verification.verify(self.store)
        self._verified = True

    def verify_once(self) -> None:
        """Verifies once per object; `privacy.run` and `privacy.train` call it first."""
        if not self._verified:
            self.verify()

    def entries(self) -> Iterator[Record]:
        """All records in order."""
        return self.store.records()

    def find(
        self, run_id: str, round: int | None = None, *, purpose: str | None = None
    ) -> tuple[Reservation, ...]:
        """The reservations of a run or of one round, in order, in whatever state."""
        return find_reservations(self.store, self._clock, run_id, round, purpose)

    def _opened(self) -> bool:
        query = "SELECT 1 FROM reservations WHERE state IN ('open', 'committed') LIMIT 1"
        return bool(self.store.select(query, (), (int,)))
