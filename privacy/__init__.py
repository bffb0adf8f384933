"""privacy: differential privacy for federated computations, and the ledger that pays for it.

Names are loaded when they are first used, so that reading a ledger does not import JAX.

Sources: docs/ledger-slots.md.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privacy.accounting import epsilon
    from privacy.budgets import Budget
    from privacy.errors import BudgetExceeded, LedgerCorrupt, PrivacyError
    from privacy.ledger import Ledger
    from privacy.slots import Release, Slot

__all__ = [
    "Budget",
    "BudgetExceeded",
    "Ledger",
    "LedgerCorrupt",
    "PrivacyError",
    "Release",
    "Slot",
    "epsilon",
]

_HOMES = {
    "epsilon": "privacy.accounting",
    "Budget": "privacy.budgets",
    "BudgetExceeded": "privacy.errors",
    "LedgerCorrupt": "privacy.errors",
    "PrivacyError": "privacy.errors",
    "Ledger": "privacy.ledger",
    "Release": "privacy.slots",
    "Slot": "privacy.slots",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'privacy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
