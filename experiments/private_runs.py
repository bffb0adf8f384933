"""What the private experiments share: certified programs, their ledgers, and typical norms.

Every release is certified, goes through ideal secure aggregation with the noise of the mechanism, and
is charged to a ledger whose budget is the experiment's.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import audits
import privacy
import secfad as fad

DELTA = 1e-5
Norms = float | Mapping[str, float]


class Certified:
    """A private program with its certificate, ready to be run.

    Args:
      computation: What runs.
      specs: What the server or one client holds.
      noise_multiplier: Of every release.
      clip_norm: Of everything that a client sends in a round, or sum name to norm.
      purpose: Whose budget pays.
    """

    def __init__(
        self,
        computation: fad.Computation,
        specs: Sequence[Any],
        noise_multiplier: float,
        clip_norm: Norms,
        purpose: str,
    ):
        mechanism = privacy.Gaussian(noise_multiplier=noise_multiplier, clip_norm=clip_norm)
        self.private = privacy.privatize(computation, *specs, mechanism=mechanism, purpose=purpose)
        self.certificate = audits.certify(self.private)

    def slot(self, count: int) -> privacy.Slot:
        """Room in a ledger for some evaluations by everyone."""
        query = privacy.Query(self.private, self.certificate)
        return query.slot(privacy.FullParticipation(population=1), count)

    def result(
        self, args: Sequence[Any], ledger: privacy.Ledger, number: int, clients: int
    ) -> privacy.Result:
        """One evaluation by everyone, by ideal secure aggregation."""
        return privacy.run(
            self.private, args, certificate=self.certificate, ledger=ledger,
            cohort=privacy.FullParticipation(population=clients).draw(),
            run_id="experiment", round=number, fidelity="ideal",
            acknowledge=[o.rule for o in self.certificate.obligations],
        )  # fmt: skip

    def run(self, args: Sequence[Any], ledger: privacy.Ledger, number: int, clients: int) -> Any:
        """What the server learns from one evaluation."""
        return self.result(args, ledger, number, clients).value


@contextlib.contextmanager
def ledger_for(
    epsilon: float, clients: int, slots: Sequence[privacy.Slot]
) -> Iterator[privacy.Ledger]:
    """A ledger that refuses what a budget of epsilon does not pay for; gone afterwards."""
    budget = privacy.Budget(epsilon, DELTA)
    with (
        tempfile.TemporaryDirectory() as folder,
        privacy.Ledger.create(
            Path(folder) / "ledger.db", budget, population=clients, slots=slots
        ) as ledger,
    ):
        yield ledger


def one_client(tree: Any) -> Any:
    """What one of the stacked clients holds."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree)


def specs_of(computation: fad.Computation, args: Sequence[Any]) -> list[Any]:
    """What the server or one client holds, from stacked arguments."""
    places = computation.placements.values()
    return [one_client(a) if p is fad.CLIENTS else a for a, p in zip(args, places)]


def releases_of(computation: fad.Computation, specs: Sequence[Any]) -> int:
    """Rounds of one evaluation that release something."""
    mechanism = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
    return len(privacy.privatize(computation, *specs, mechanism=mechanism).releases)


def noise_for(epsilon: float, draws: Mapping[str, int | tuple[int, int]]) -> float:
    """The noise multiplier, equal for all purposes, of evaluations by everyone; see `calibrated`."""
    everyone = privacy.FullParticipation(population=1)
    found = privacy.calibrated(privacy.Budget(epsilon, DELTA), everyone, draws, clip_norm=1.0)
    return max(float(mechanism.noise_multiplier) for mechanism in found.values())  # type: ignore[arg-type]
