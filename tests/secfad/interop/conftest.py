"""The table of DrJAX programs, importable by name; DrJAX itself asks JAX for an old kind of mesh."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(
                pytest.mark.filterwarnings("ignore:.*thread_resources:DeprecationWarning")
            )


@pytest.fixture(autouse=True, scope="module")
def quick(quick_compilation):
    """Many small programs are compiled once each."""
