"""privacy: differential privacy for federated computations, and the ledger that pays for it.

Names are loaded when they are first used, so that reading a ledger does not import JAX.

Sources: docs/ledger-slots.md.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privacy.accounting import epsilon
    from privacy.algorithms import fedopt, scaffold
    from privacy.budgets import Budget
    from privacy.calibration import noise_multiplier_for
    from privacy.certificates import Certificate
    from privacy.clip_norms import typical_norms
    from privacy.cohorts import Cohort, FixedSampling, FullParticipation, PoissonSampling
    from privacy.errors import BudgetExceeded, LedgerCorrupt, PrivacyError, RunRefused
    from privacy.execution import Result, run
    from privacy.hypergradients import hypergradient_descent
    from privacy.ledger import Ledger
    from privacy.mechanisms import Gaussian, Skellam
    from privacy.planned_noise import calibrated
    from privacy.privatization import PrivateProgram, privatize
    from privacy.queries import Query
    from privacy.releases import ReleaseJournal
    from privacy.slots import Release, Slot
    from privacy.training import Trained, train

__all__ = [
    "Budget",
    "BudgetExceeded",
    "Certificate",
    "Cohort",
    "FixedSampling",
    "FullParticipation",
    "Gaussian",
    "Ledger",
    "LedgerCorrupt",
    "PoissonSampling",
    "PrivacyError",
    "PrivateProgram",
    "Query",
    "Release",
    "ReleaseJournal",
    "Result",
    "RunRefused",
    "Skellam",
    "Slot",
    "Trained",
    "calibrated",
    "epsilon",
    "fedopt",
    "hypergradient_descent",
    "noise_multiplier_for",
    "privatize",
    "run",
    "scaffold",
    "train",
    "typical_norms",
]

_HOMES = {
    "Budget": "privacy.budgets",
    "BudgetExceeded": "privacy.errors",
    "Certificate": "privacy.certificates",
    "Cohort": "privacy.cohorts",
    "FixedSampling": "privacy.cohorts",
    "FullParticipation": "privacy.cohorts",
    "Gaussian": "privacy.mechanisms",
    "Ledger": "privacy.ledger",
    "LedgerCorrupt": "privacy.errors",
    "PoissonSampling": "privacy.cohorts",
    "PrivacyError": "privacy.errors",
    "PrivateProgram": "privacy.privatization",
    "Query": "privacy.queries",
    "Release": "privacy.slots",
    "ReleaseJournal": "privacy.releases",
    "Result": "privacy.execution",
    "RunRefused": "privacy.errors",
    "Skellam": "privacy.mechanisms",
    "Slot": "privacy.slots",
    "Trained": "privacy.training",
    "calibrated": "privacy.planned_noise",
    "epsilon": "privacy.accounting",
    "fedopt": "privacy.algorithms",
    "hypergradient_descent": "privacy.hypergradients",
    "noise_multiplier_for": "privacy.calibration",
    "privatize": "privacy.privatization",
    "run": "privacy.execution",
    "scaffold": "privacy.algorithms",
    "train": "privacy.training",
    "typical_norms": "privacy.clip_norms",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'privacy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
