"""Traffic: the bytes of one client in one evaluation, for a public number of clients.

The number of bytes that a client of a real cohort sends depends on the cohort size. The size is as
secret as the cohort: the released view of a budget assumes that it is not known. The reported bytes
are therefore counted in a rehearsal with the same program and mechanism and every message of the
protocol. The rehearsal has the expected number of clients, and all of them send zeros.

Source: docs/privacy-model.md, "What the figures cost".
"""

import math
from dataclasses import dataclass

import numpy as np

from privacy.checking import expect, expect_number
from privacy.execution.aggregation import SecureAggregator
from privacy.execution.secure_sums import MIN_COHORT, STANDARD, SecureSums
from privacy.mechanisms.privatization import PrivateProgram
from secfad.inner import Upload


@dataclass(frozen=True)
class Traffic:
    """Bytes that one client sends (up) and receives, with broadcasts (down), in one evaluation."""

    up: float
    down: float


def public_traffic(
    private_program: PrivateProgram, expected_size: float, sums: SecureSums = STANDARD
) -> Traffic:
    """Counts the bytes of a rehearsal with a public number of clients, rounded up.

    The result does not depend on client data or on a cohort.
    """
    advice = "Call privacy.privatize(computation, *specs, mechanism=...)."
    expect(private_program, PrivateProgram, "private_program", "a private program", advice)
    advice = "Pass sampling.expected_size."
    expected = "a positive number"
    expect_number(expected_size, "expected_size", expected, advice, lambda n: n > 0)
    clients = max(MIN_COHORT, math.ceil(expected_size))
    aggregator = SecureAggregator(
        releases=private_program.releases,
        mechanism=private_program.mechanism,
        expected_size=clients,
        context=b"rehearsal",
        sums=sums,
        fidelity="protocol",
        faults=lambda _: (),
        before_noise=lambda: None,
    )
    for index, release in enumerate(private_program.releases):
        names = tuple(planned.name for planned in release.sums)
        zeros = tuple(np.zeros((clients, planned.size)) for planned in release.sums)
        aggregator(Upload(index, names, zeros))  # type: ignore[arg-type]
    up, down = aggregator.mean_bytes
    return Traffic(up, down + private_program.program.costs.down_bytes)
