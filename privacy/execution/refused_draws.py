"""Refused draws: a random draw that cannot be used is still charged.

A Poisson draw with an unusable size reveals something about who takes part, and drawing again until
one fits would sample at a higher rate than the charged one. The same holds for a draw, also of a
fixed size, whose sums fail because too few of its clients answer. Such a draw is reserved and never
voided: it costs as much as its release would have cost. Draws without randomness are not charged.

Source: docs/privacy-model.md, "Cohorts".
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from privacy.accounting.sizes import takes_everyone
from privacy.certificates.certificates import Certificate
from privacy.errors import CohortTooSmall, PrivacyError
from privacy.execution.aggregation import charged_releases
from privacy.execution.cohorts import Cohort
from privacy.execution.releases import ReleaseJournal
from privacy.execution.secure_sums import MIN_COHORT, SecureSums
from privacy.ledger.ledger import Ledger
from privacy.mechanisms.privatization import PrivateProgram


def by_chance(cohort: Cohort) -> bool:
    """Whether the members of a cohort are random, so that the outcome of the draw reveals them."""
    sampling = cohort.sampling
    return not takes_everyone(sampling.kind, sampling.rate, sampling.population)


def require_large_enough(cohort: Cohort) -> None:
    """Refuses a cohort that is too small to hide a client in its sum.

    Raises:
      CohortTooSmall: It has fewer than three members.
    """
    if len(cohort.members) < MIN_COHORT:
        raise CohortTooSmall(
            f"Expected at least {MIN_COHORT} clients, got {len(cohort.members)}: a sum over fewer "
            "hides nobody. Raise the sampling rate: a draw that is refused for its size is "
            "charged, since repeating draws until one fits would not sample at the stated rate."
        )


def require_usable(
    private_program: PrivateProgram,
    ledger: Ledger,
    cohort: Cohort,
    certificate: Certificate,
    sums: SecureSums,
    journal: ReleaseJournal | None,
    run_id: str,
    round: int,
) -> None:
    """Refuses a cohort size that cannot be summed or is not certified, and charges it if it is
    random.

    Raises:
      RunRefused: Even the expected size cannot be summed. The draw decides nothing and is not
        charged.
      PrivacyError: The size of this cohort is refused.
    """
    mechanism, size = private_program.mechanism, len(cohort.members)
    sums.require(mechanism, max(MIN_COHORT, math.floor(cohort.sampling.expected_size + 0.5)))
    evaluation: Any = {"run_id": run_id, "round": round}
    released = journal is not None and was_released(private_program, ledger, journal, **evaluation)
    with charged_if_refused(private_program, ledger, cohort, released=released, **evaluation):
        require_large_enough(cohort)
        certificate.check_cohort(size)
        sums.require(mechanism, size)


def was_released(
    private_program: PrivateProgram,
    ledger: Ledger,
    journal: ReleaseJournal,
    *,
    run_id: str,
    round: int,
) -> bool:
    """Whether the journal holds a release of this evaluation, so that a repetition only reads it."""
    found = ledger.find(run_id, round, purpose=private_program.purpose)
    return any(r.state in ("open", "committed") and journal.holds(r.seq) for r in found)


@contextlib.contextmanager
def charged_if_refused(
    private_program: PrivateProgram,
    ledger: Ledger,
    cohort: Cohort,
    *,
    run_id: str,
    round: int,
    released: bool,
) -> Iterator[None]:
    """Charges a random draw whose size the block refuses.

    Args:
      private_program: The program to evaluate.
      ledger: The ledger that is charged.
      cohort: The draw.
      run_id: The run of the evaluation.
      round: The round of the evaluation.
      released: Whether the evaluation was released before, so that the draw decides nothing.

    Raises:
      BudgetExceeded: The ledger has no room for the draw either.
      PrivacyError: The error that the block raised.
    """
    try:
        yield
    except PrivacyError:
        if cohort.sampling.kind == "poisson" and by_chance(cohort) and not released:
            size = max(len(cohort.members), MIN_COHORT)
            factor = ledger.charter.relation.sensitivity_factor
            mechanism = private_program.mechanism
            ledger.reserve(
                purpose=private_program.purpose,
                sampling_rate=cohort.sampling.rate,
                sampling=cohort.sampling.kind,
                releases=charged_releases(private_program.releases, mechanism, size, factor),
                run_id=run_id,
                round=round,
                cohort_id=cohort.id,
            )
        raise
