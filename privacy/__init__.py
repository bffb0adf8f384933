"""privacy: differential privacy for federated computations, and the ledger of its charges.

Names are loaded on first use, so reading a ledger does not import JAX.

Sources: docs/ledger-slots.md.
"""

import importlib
import sys
from typing import TYPE_CHECKING

if sys.platform == "win32":
    raise ImportError(
        "privacy expected Linux or macOS, got Windows: ledgers, keys and checkpoints rely on POSIX file "
        "permissions, locks and durable renames. Use the Windows Subsystem for Linux (WSL)."
    )

if TYPE_CHECKING:
    from privacy.accounting.calibration import noise_multiplier_for as noise_multiplier_for
    from privacy.accounting.pricing import epsilon as epsilon
    from privacy.accounting.slots import Release as Release
    from privacy.accounting.slots import Slot as Slot
    from privacy.budgets import Budget as Budget
    from privacy.certificates.certificates import Certificate as Certificate
    from privacy.errors import BudgetExceeded as BudgetExceeded
    from privacy.errors import LedgerCorrupt as LedgerCorrupt
    from privacy.errors import PrivacyError as PrivacyError
    from privacy.errors import RunRefused as RunRefused
    from privacy.execution.cohorts import Cohort as Cohort
    from privacy.execution.cohorts import FixedSampling as FixedSampling
    from privacy.execution.cohorts import FullParticipation as FullParticipation
    from privacy.execution.cohorts import PoissonSampling as PoissonSampling
    from privacy.execution.execution import run as run
    from privacy.execution.queries import Query as Query
    from privacy.execution.releases import ReleaseJournal as ReleaseJournal
    from privacy.execution.results import Result as Result
    from privacy.ledger.ledger import Ledger as Ledger
    from privacy.mechanisms.clip_norms import typical_norms as typical_norms
    from privacy.mechanisms.mechanisms import Gaussian as Gaussian
    from privacy.mechanisms.mechanisms import Skellam as Skellam
    from privacy.mechanisms.privatization import PrivateProgram as PrivateProgram
    from privacy.mechanisms.privatization import privatize as privatize
    from privacy.training.algorithms import fedopt as fedopt
    from privacy.training.algorithms import scaffold as scaffold
    from privacy.training.hypergradients import hypergradient_descent as hypergradient_descent
    from privacy.training.planned_noise import calibrated as calibrated
    from privacy.training.training import Trained as Trained
    from privacy.training.training import train as train

_NAMES = {
    "accounting.calibration": ("noise_multiplier_for",),
    "accounting.pricing": ("epsilon",),
    "accounting.slots": ("Release", "Slot"),
    "budgets": ("Budget",),
    "certificates.certificates": ("Certificate",),
    "errors": ("BudgetExceeded", "LedgerCorrupt", "PrivacyError", "RunRefused"),
    "execution.cohorts": ("Cohort", "FixedSampling", "FullParticipation", "PoissonSampling"),
    "execution.execution": ("run",),
    "execution.queries": ("Query",),
    "execution.releases": ("ReleaseJournal",),
    "execution.results": ("Result",),
    "ledger.ledger": ("Ledger",),
    "mechanisms.clip_norms": ("typical_norms",),
    "mechanisms.mechanisms": ("Gaussian", "Skellam"),
    "mechanisms.privatization": ("PrivateProgram", "privatize"),
    "training.algorithms": ("fedopt", "scaffold"),
    "training.hypergradients": ("hypergradient_descent",),
    "training.planned_noise": ("calibrated",),
    "training.training": ("Trained", "train"),
}
_HOMES = {name: f"privacy.{home}" for home, names in _NAMES.items() for name in names}

# For types, the aliases above say the same.
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'privacy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
