"""The bundles that several files of this folder examine."""

import pytest
from damaged_bundles import make_bundles


@pytest.fixture(scope="session")
def bundles():
    """Five honest bundles by name."""
    return make_bundles()
