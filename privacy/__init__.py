"""privacy: differential privacy for federated computations, and the ledger that pays for it.

Names are loaded when they are first used, so that reading a ledger does not import JAX.

Sources: docs/ledger-slots.md.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privacy.accounting.calibration import noise_multiplier_for
    from privacy.accounting.pricing import epsilon
    from privacy.accounting.slots import Release, Slot
    from privacy.budgets import Budget
    from privacy.certificates.certificates import Certificate
    from privacy.errors import BudgetExceeded, LedgerCorrupt, PrivacyError, RunRefused
    from privacy.execution.cohorts import Cohort, FixedSampling, FullParticipation, PoissonSampling
    from privacy.execution.execution import Result, run
    from privacy.execution.queries import Query
    from privacy.execution.releases import ReleaseJournal
    from privacy.ledger.ledger import Ledger
    from privacy.mechanisms.clip_norms import typical_norms
    from privacy.mechanisms.mechanisms import Gaussian, Skellam
    from privacy.mechanisms.privatization import PrivateProgram, privatize
    from privacy.training.algorithms import fedopt, scaffold
    from privacy.training.hypergradients import hypergradient_descent
    from privacy.training.planned_noise import calibrated
    from privacy.training.training import Trained, train

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
    "Certificate": "privacy.certificates.certificates",
    "Cohort": "privacy.execution.cohorts",
    "FixedSampling": "privacy.execution.cohorts",
    "FullParticipation": "privacy.execution.cohorts",
    "Gaussian": "privacy.mechanisms.mechanisms",
    "Ledger": "privacy.ledger.ledger",
    "LedgerCorrupt": "privacy.errors",
    "PoissonSampling": "privacy.execution.cohorts",
    "PrivacyError": "privacy.errors",
    "PrivateProgram": "privacy.mechanisms.privatization",
    "Query": "privacy.execution.queries",
    "Release": "privacy.accounting.slots",
    "ReleaseJournal": "privacy.execution.releases",
    "Result": "privacy.execution.execution",
    "RunRefused": "privacy.errors",
    "Skellam": "privacy.mechanisms.mechanisms",
    "Slot": "privacy.accounting.slots",
    "Trained": "privacy.training.training",
    "calibrated": "privacy.training.planned_noise",
    "epsilon": "privacy.accounting.pricing",
    "fedopt": "privacy.training.algorithms",
    "hypergradient_descent": "privacy.training.hypergradients",
    "noise_multiplier_for": "privacy.accounting.calibration",
    "privatize": "privacy.mechanisms.privatization",
    "run": "privacy.execution.execution",
    "scaffold": "privacy.training.algorithms",
    "train": "privacy.training.training",
    "typical_norms": "privacy.mechanisms.clip_norms",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'privacy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
