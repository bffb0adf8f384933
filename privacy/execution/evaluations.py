"""Evaluations: one private program on one draw of clients, and who pays for it.

A random draw that cannot be used is still charged. A Poisson draw with an unusable size reveals
something about who takes part, and drawing again until one fits would sample at a higher rate than
the charged one. The same holds for a draw, also of a fixed size, whose sums fail because too few of
its clients answer. Such a draw is reserved and never voided: it costs as much as its release would
have cost. Draws without randomness are not charged.

Source: docs/privacy-model.md, "Cohorts".
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

from privacy.accounting.sizes import takes_everyone
from privacy.certificates.certificates import Certificate
from privacy.errors import CohortTooSmall, PrivacyError
from privacy.execution.aggregation import charged_releases
from privacy.execution.cohorts import Cohort
from privacy.execution.releases import ReleaseJournal
from privacy.execution.secure_sums import MIN_COHORT, SecureSums
from privacy.ledger.ledger import Ledger
from privacy.ledger.reservations import Reservation
from privacy.mechanisms.privatization import PrivateProgram


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation of a private program, identified by its run and round.

    The cohort is one draw, for all rounds of the program.
    """

    private_program: PrivateProgram
    ledger: Ledger
    cohort: Cohort
    run_id: str
    round: int

    @property
    def by_chance(self) -> bool:
        """Whether the members are random, so that the outcome of the draw reveals them."""
        sampling = self.cohort.sampling
        return not takes_everyone(sampling.kind, sampling.rate, sampling.population)

    def reserve(self, clients: int) -> Reservation:
        """Charges all releases of the evaluation, with the noise of this number of clients."""
        program, sampling = self.private_program, self.cohort.sampling
        factor = self.ledger.charter.relation.sensitivity_factor
        return self.ledger.reserve(
            purpose=program.purpose,
            sampling_rate=sampling.rate,
            sampling=sampling.kind,
            releases=charged_releases(program.releases, program.mechanism, clients, factor),
            run_id=self.run_id,
            round=self.round,
            cohort_id=self.cohort.id,
        )

    def opened(self) -> list[Reservation]:
        """The reservations of this evaluation for which noise was drawn, newest first."""
        purpose = self.private_program.purpose
        found = self.ledger.find(self.run_id, self.round, purpose=purpose)
        return [r for r in reversed(found) if r.state in ("open", "committed")]

    @contextlib.contextmanager
    def charged_if_refused(self, journal: ReleaseJournal | None) -> Iterator[None]:
        """Charges a random draw whose size the block refuses.

        If the journal holds a release of this evaluation, the draw decides nothing and is free.

        Raises:
          BudgetExceeded: The ledger has no room for the draw either.
          PrivacyError: The error that the block raised.
        """
        try:
            yield
        except PrivacyError:
            released = journal is not None and any(journal.holds(r.seq) for r in self.opened())
            if self.cohort.sampling.kind == "poisson" and self.by_chance and not released:
                self.reserve(max(len(self.cohort.members), MIN_COHORT))
            raise

    def require_large_enough(self) -> None:
        """Refuses a cohort that is too small to hide a client in its sum.

        Raises:
          CohortTooSmall: It has fewer than three members.
        """
        if len(self.cohort.members) < MIN_COHORT:
            raise CohortTooSmall(
                f"Expected at least {MIN_COHORT} clients, got {len(self.cohort.members)}: a sum over "
                "fewer hides nobody. Raise the sampling rate: a draw that is refused for its size is "
                "charged, since repeating draws until one fits would not sample at the stated rate."
            )

    def require_usable(
        self, certificate: Certificate, sums: SecureSums, journal: ReleaseJournal | None
    ) -> None:
        """Refuses a cohort size that cannot be summed or is not certified, and charges it if it is
        random.

        Raises:
          RunRefused: Even the expected size cannot be summed. The draw decides nothing and is not
            charged.
          PrivacyError: The size of this cohort is refused.
        """
        mechanism, size = self.private_program.mechanism, len(self.cohort.members)
        expected = math.floor(self.cohort.sampling.expected_size + 0.5)
        sums.require(mechanism, max(MIN_COHORT, expected))
        with self.charged_if_refused(journal):
            self.require_large_enough()
            certificate.check_cohort(size)
            sums.require(mechanism, size)
