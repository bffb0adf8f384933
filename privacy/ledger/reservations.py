"""Reservations: the three steps of one charge.

    reserve --> open --> commit

`reserve` comes before the cohort is contacted, `open` after noise was drawn and before anything is
released, `commit` when the released arrays are known. A reservation that stops in between stays
spent; only a reservation that was never opened can be voided. `Ledger.reserve` creates reservations
and `Ledger.find` finds them; `privacy.ledger.ledger` has an example.

Sources: docs/ledger-slots.md, section 4.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from privacy.accounting.slots import check_name
from privacy.budgets import finite_number
from privacy.checking import expect_count
from privacy.errors import InvalidEvent, ReservationState
from privacy.ledger.faults import unreadable
from privacy.ledger.records import Record
from privacy.ledger.store import Store


@dataclass(frozen=True)
class Reservation:
    """A charge for one cohort draw.

    `seq` is its record's number; a retry has a new number, so noise keys derived from it are fresh.
    The noise multiplier is the joint effective one, computed by the ledger.
    """

    store: Store = field(repr=False, compare=False)
    clock: Callable[[], float] = field(repr=False, compare=False)
    seq: int
    purpose: str
    run_id: str
    round: int
    cohort_id: str
    sampling_rate: float
    noise_multiplier: float

    @property
    def state(self) -> str:
        """The last step on disk: "reserved", "open", "committed" or "void"."""
        query = "SELECT state FROM reservations WHERE seq = ?"
        rows = self.store.select(query, (self.seq,), (str,))
        if not rows:
            raise unreadable(self.store.path, f"no reservation {self.seq}, which existed before")
        return rows[0][0]

    @property
    def digest(self) -> str | None:
        """Hash of the released arrays that the ledger committed; None before a commit."""
        query = (  # from the reservation onward, so the search ends within a few records
            "SELECT json_extract(text, '$.digest') FROM records WHERE seq > ? AND kind = 'commit'"
            " AND json_extract(text, '$.reservation') = ? ORDER BY seq LIMIT 1"
        )
        rows = self.store.select(query, (self.seq, self.seq), (str,))
        return rows[0][0] if rows else None

    def open(self) -> Record:
        """Records that noise was drawn, before anything is released. From here on it is spent.

        Raises:
          ReservationState: It was already opened or voided. Never draw its noise again.
        """
        return self._step("open", {"reservation": self.seq})

    def commit(self, digest: str, survivors: int | None = None) -> Record:
        """Records the released arrays.

        Args:
          digest: Hash of the released arrays.
          survivors: Number of clients in the sums, if it is public.

        Raises:
          ReservationState: It is not open, or fewer survived than the noise was sized for.
        """
        check_name(digest, "a digest")
        if survivors is not None:
            survivors = self._check_survivors(survivors)
        body = {"reservation": self.seq, "digest": digest, "survivors": survivors}
        return self._step("commit", body)

    def void(self) -> Record:
        """Refunds the charge. Possible only before noise is drawn.

        Raises:
          ReservationState: It was already opened or voided.
        """
        return self._step("void", {"reservation": self.seq})

    def _check_survivors(self, survivors: int) -> int:
        expect_count(survivors, "survivors", "", error=InvalidEvent)
        for release in self.store.body(self.seq)["releases"]:
            if survivors < (release["min_survivors"] or 0):
                raise ReservationState(
                    f"Expected at least {release['min_survivors']} survivors, which the noise of"
                    f" {release['name']!r} was sized for, got {survivors}. Withhold the release;"
                    " the reservation stays spent."
                )
        return survivors

    def _step(self, kind: str, body: Mapping[str, Any]) -> Record:
        with self.store.transaction():
            return self.store.append(kind, {**body, "time": seconds(self.clock)})


def find_reservations(
    store: Store,
    clock: Callable[[], float],
    run_id: str,
    round: int | None,
    purpose: str | None,
) -> tuple[Reservation, ...]:
    """The reservations of a run or of one round; see `Ledger.find`."""
    query = (
        "SELECT seq, purpose, round, cohort_id FROM reservations WHERE run_id = ?"
        " AND round >= ? AND round <= ? AND purpose = coalesce(?, purpose) ORDER BY seq"
    )
    bounds = (0, 2**62) if round is None else (round, round)
    check_name(run_id, "a run_id")
    if round is not None:
        expect_count(round, "round", "Leave it out for all rounds.", error=InvalidEvent)
    with store.reading():
        rows = store.select(query, (run_id, *bounds, purpose), (int, str, int, str))
        return tuple(_reservation(store, clock, run_id, *row) for row in rows)


def _reservation(
    store: Store,
    clock: Callable[[], float],
    run_id: str,
    seq: int,
    purpose: str,
    round: int,
    cohort: str,
) -> Reservation:
    try:
        body = store.body(seq)
        q, z = float(body["sampling"]["q"]), float(body["noise_multiplier"])
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(store.path, f"record {seq} is not a reservation") from error
    return Reservation(store, clock, seq, purpose, run_id, round, cohort, q, z)


def seconds(clock: Callable[[], float]) -> float:
    """The time of a clock.

    Raises:
      InvalidEvent: It is not a finite number, which no record could hold.
    """
    return finite_number(clock(), "time from the ledger's clock()")
