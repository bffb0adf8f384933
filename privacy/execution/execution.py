"""`run`: one private evaluation, which joins certificate, budget, aggregation and noise.

    certificate matches -> arguments are sound -> reserve -> every round: clip, encode, SecAgg, noise
    -> journal -> commit

`run` builds its own aggregator, so nobody can substitute another one. It executes the projected
stages of the certified program, so the server's part never holds a client's value. With full
participation, a failure before the first noise is drawn refunds the charge. After that, and for any
random draw, the charge stays, even if the process dies.

Sources: docs/privacy-model.md; docs/ledger-slots.md.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from privacy.accounting.sizes import require_public_size, size_of
from privacy.certificates.certificates import Certificate
from privacy.certificates.envelopes import Envelope
from privacy.certificates.run_certificates import believed, check_certificate
from privacy.errors import NonFiniteData, RunRefused
from privacy.execution.aggregation import Faults, SecureAggregator
from privacy.execution.clip_activity import norm_squares
from privacy.execution.cohorts import Cohort
from privacy.execution.evaluations import Evaluation
from privacy.execution.releases import Released, ReleaseJournal, ReleaseKey
from privacy.execution.results import Result, by_place
from privacy.execution.run_arguments import check_run, check_stacked
from privacy.execution.secure_sums import Adversary, GraphChoice, SecureSums
from privacy.ledger.ledger import Ledger
from privacy.ledger.reservations import Reservation
from privacy.mechanisms.privatization import PrivateProgram
from secfad import SERVER, execute
from secfad.errors import ArgumentError, CohortError
from secfad.inner import (
    Aggregate,
    Aggregator,
    Upload,
    checked_arguments,
    cohort_size,
    is_known_dtype,
    label,
)


def run(
    private_program: PrivateProgram,
    args: Sequence[Any],
    *,
    certificate: Certificate | Envelope,
    ledger: Ledger,
    cohort: Cohort,
    run_id: str,
    round: int,
    journal: ReleaseJournal | None = None,
    fidelity: Literal["protocol", "ideal"] = "protocol",
    graph: GraphChoice = "auto",
    adversary: Adversary = "semi-honest",
    corrupt: float = 0.05,
    dropout: float = 0.05,
    faults: Faults = lambda _: (),
    acknowledge: Collection[str] = (),
    trusted_key: bytes | None = None,
    keep: Callable[[Result], Any] = lambda _: None,
) -> Result:
    """Evaluates a certified private program on a cohort and charges the ledger.

    Guarantees:
      Only noisy sums leave the aggregator; they are released after a reservation of their full
      price is durable. A run that was refused, or failed before noise was drawn, released nothing.
      It costs nothing, unless the cohort is random and its size was refused or the sums failed: see
      `privacy.execution.evaluations`. With a journal, a repeated (run_id, round, purpose) with
      the same program, mechanism and server arguments returns the same release without a second
      charge if it was released, and otherwise pays again; with others it is refused. The returned
      release is the one that the ledger committed. The first run with a `Ledger` object verifies
      the whole ledger.

    Args:
      private_program: The result of `privatize`.
      args: The computation's arguments; client arguments stacked over `cohort.members`.
      certificate: The result of `audits.certify` for exactly this program; signed if there is a
        trusted key.
      ledger: The ledger that is charged.
      cohort: One draw, used for all rounds of this evaluation.
      run_id: Identifies the evaluation, together with `round`.
      round: Number of the evaluation in the run.
      journal: The journal that makes releases durable.
      fidelity: "protocol" runs every message of secure aggregation; "ideal" draws cancelling masks.
      graph: "complete": every client exchanges keys with every other; "ring": with as few as the
        fractions below allow; "auto": the ring in large cohorts, see
        `privacy.execution.secure_sums`.
      adversary: "semi-honest", or "active" with signed keys and confirmed survivors.
      corrupt: Fraction of a cohort that may collude with the server.
      dropout: Fraction of a cohort that may drop out; with noise by clients at least the fraction
        that its price allows to be missing.
      faults: Upload number to scripted faults; see `secagg.simulate`.
      acknowledge: Rule ids of the certificate's obligations that the caller accepts.
      trusted_key: Ed25519 public key that must have signed the certificate; see `privacy.certificates.keys`.
      keep: Called with a new result before its release is durable, so that clients store their
        results before the server does; not called for a replay.

    Raises:
      CertificateError: No certificate, one of another program, environment or number of clients, or
        one that the trusted key did not sign.
      RunRefused: Arguments or cohort do not match the program, or the cohort violates the
        assumptions.
      SizeNotPublic: Clients add the noise, and the size of the cohort would be a secret.
      MechanismError: The assumptions are invalid, or their combination is not supported.
      ResumeRefused: The release in the journal has another key, or the ledger lacks releases of the
        journal.
      JournalCorrupt: The journal does not hold the committed release.
      LedgerCorrupt: The ledger does not verify.
      BudgetExceeded: The ledger has no room; nothing was written.
      secagg.Aborted: Too few clients answered; nothing was released.
    """
    check_run(
        private_program=private_program, args=args, ledger=ledger, cohort=cohort, run_id=run_id,
        round=round, journal=journal, fidelity=fidelity, faults=faults, acknowledge=acknowledge,
        trusted_key=trusted_key, keep=keep,
    )  # fmt: skip
    sums = SecureSums(graph=graph, adversary=adversary, corrupt=corrupt, dropout=dropout)
    evaluation = Evaluation(private_program, ledger, cohort, run_id, round)
    proved = believed(private_program, certificate, trusted_key)
    check_certificate(private_program, proved, acknowledge)
    _check_size(evaluation)
    ledger.verify_once()
    if journal is not None:
        journal.check(ledger)
    evaluation.require_usable(proved, sums, journal)
    key = _checked_key(evaluation, args)
    earlier = _journalled(evaluation, journal, key)
    if earlier is not None:
        return _replay(evaluation, args, sums, *earlier)
    reservation = evaluation.reserve(len(cohort.members))
    aggregator = _aggregator(evaluation, reservation, sums, fidelity, faults)
    value = _paid(evaluation, args, aggregator, reservation)
    released = Released.of(aggregator.released)
    up, down = aggregator.mean_bytes
    result = _result(
        evaluation,
        value,
        sums,
        reservation,
        released,
        bytes_up=up,
        bytes_down=down + private_program.program.costs.down_bytes,
        transcripts=tuple(aggregator.transcripts),
        survivors=aggregator.survivors,
    )
    keep(result)
    if journal is not None:
        journal.write(reservation.seq, released, key)
    survivors = len(aggregator.survivors or ()) if aggregator.distributed else None
    reservation.commit(released.digest, survivors)
    return result


def _checked_key(evaluation: Evaluation, args: Sequence[Any]) -> ReleaseKey:
    """Refuses arguments that do not match the program, and server arguments that are not finite."""
    program, cohort = evaluation.private_program.program, evaluation.cohort
    try:
        leaves = checked_arguments(program, args)
        size = cohort_size(program, leaves) or 0
    except (ArgumentError, CohortError) as error:
        raise RunRefused(f"{error}{check_stacked(program, args, len(cohort.members))}") from error
    for leaf in leaves:
        if not is_known_dtype(leaf.dtype):
            raise RunRefused(
                f"Expected keys of one of JAX's own generators, got {leaf.dtype} of another one. Make "
                'keys with impl="threefry2x32", "rbg" or "unsafe_rbg".'
            )
    if size != len(cohort.members):
        raise RunRefused(
            f"Expected client arguments for the {len(cohort.members)} members of the cohort, got {size}."
            " Stack the data of cohort.members, in that order."
        )
    # Check server arguments only: a refusal is visible and must not depend on one client's data.
    paths = jax.tree_util.tree_leaves_with_path(tuple(args))
    for leaf, place, (path, _) in zip(leaves, program.in_placements, paths):
        floating = place is SERVER and jnp.issubdtype(leaf.dtype, jnp.inexact)
        if floating and not np.isfinite(np.asarray(leaf)).all():
            raise NonFiniteData(
                f"Expected finite numbers in {label(path, program.argument_names)}, got NaN or "
                "infinity. Nothing was sent or charged; find the step that made it."
            )
    mechanism = evaluation.private_program.mechanism.record()
    return ReleaseKey.of(program, leaves, ledger=evaluation.ledger.id, mechanism=mechanism)


def _check_size(evaluation: Evaluation) -> None:
    """Refuses a cohort that its sampling cannot have drawn, and a secret size with noise by
    clients.
    """
    cohort, ledger = evaluation.cohort, evaluation.ledger
    kind, rate, population = cohort.sampling.kind, cohort.sampling.rate, cohort.sampling.population
    by_clients = evaluation.private_program.mechanism.by_clients
    if population != ledger.charter.population:
        raise RunRefused(
            f"Expected a cohort of the ledger's population of {ledger.charter.population}, got one "
            f"of {population}. A budget speaks of one population."
        )
    if by_clients:
        require_public_size(ledger.charter.relation, kind, rate, population)
    stated, members = size_of(kind, rate, population), len(cohort.members)
    if stated is not None and (members > stated or (members < stated and by_clients)):
        reason = "clients add the noise" if by_clients else "the ledger charges that size"
        raise RunRefused(
            f"Expected a cohort of the public size {stated}, since {reason}, got {members} members."
            " Use the cohorts that the sampling draws."
        )


def _journalled(
    evaluation: Evaluation, journal: ReleaseJournal | None, key: ReleaseKey
) -> tuple[Reservation, Released] | None:
    """A durable release of the same evaluation; commits it if a crash prevented the commit."""
    if journal is None:
        return None
    for reservation in evaluation.opened():
        released = journal.read(reservation.seq, key, committed=reservation.digest)
        if released is not None:
            if reservation.state == "open":
                reservation.commit(released.digest)
            return reservation, released
    return None


def _replay(
    evaluation: Evaluation,
    args: Sequence[Any],
    sums: SecureSums,
    reservation: Reservation,
    released: Released,
) -> Result:
    """Runs the server's part again on the released sums."""
    rounds = iter(released.rounds)

    def aggregate(upload: Upload) -> Aggregate:
        del upload
        return Aggregate(list(next(rounds)), evaluation.cohort.sampling.expected_size)

    value = _executed(evaluation, args, aggregate)
    return _result(
        evaluation, value, sums, reservation, released, bytes_up=0.0, bytes_down=0.0, replayed=True
    )


def _executed(evaluation: Evaluation, args: Sequence[Any], aggregate: Aggregator) -> Any:
    """The result, with JAX's NaN debugging off: it would stop a round because of one client's data."""
    program, size = evaluation.private_program.program, evaluation.cohort.sampling.expected_size
    with jax.debug_nans(False), jax.debug_infs(False):
        return execute(program, *args, aggregate=aggregate, public_size=size)


def _aggregator(
    evaluation: Evaluation,
    reservation: Reservation,
    sums: SecureSums,
    fidelity: Literal["protocol", "ideal"],
    faults: Faults,
) -> SecureAggregator:
    """The aggregator of a reservation, bound to its run and its mechanism."""
    private = evaluation.private_program
    what = f"{private.program.digest}|{evaluation.run_id}|{evaluation.round}"
    return SecureAggregator(
        releases=private.releases,
        mechanism=private.mechanism,
        expected_size=evaluation.cohort.sampling.expected_size,
        context=f"{what}|{reservation.seq}|{private.mechanism.record()}".encode(),
        sums=sums,
        fidelity=fidelity,
        faults=faults,
        before_noise=reservation.open,
    )


def _paid(
    evaluation: Evaluation,
    args: Sequence[Any],
    aggregator: SecureAggregator,
    reservation: Reservation,
) -> Any:
    """The value; the reservation is given back if it fails before noise was drawn."""
    try:
        return _executed(evaluation, args, aggregator)
    except BaseException:
        if reservation.state == "reserved" and not evaluation.by_chance:
            reservation.void()
        raise


def _result(
    evaluation: Evaluation,
    value: Any,
    sums: SecureSums,
    reservation: Reservation,
    released: Released,
    **facts: Any,
) -> Result:
    """The result of a release; `facts` are those of its round, which a replay does not have."""
    private = evaluation.private_program
    value, at_clients = by_place(private, value)
    return Result(
        value=value,
        at_clients=at_clients,
        seq=reservation.seq,
        noise_multiplier=reservation.noise_multiplier,
        releases=tuple(release.name for release in private.releases),
        norm_squares=tuple(norm_squares(private, released.rounds)),
        secure_sums=sums.record(private.mechanism),
        digest=released.digest,
        **facts,
    )
