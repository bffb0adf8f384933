"""The law suites run in double precision, over tables of programs kept beside them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def exact(double_precision, quick_compilation):
    """Laws are held to the last digits."""
