import sys
from pathlib import Path

import pytest

from privacy import Ledger

sys.path.insert(0, str(Path(__file__).parent))
from ledgers import BUDGET, PLAN


@pytest.fixture
def create(tmp_path):
    """Makes ledgers; at the end each of them must still verify."""
    made = []

    def make(budget=BUDGET, *, slots=PLAN, **more):
        path = tmp_path / f"{len(made)}.db"
        ledger = Ledger.create(path, budget, population=1000, slots=slots, **more)
        made.append(ledger)
        return ledger

    yield make
    for ledger in made:
        ledger.verify()
        ledger.close()
