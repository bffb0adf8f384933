"""Double precision on request: `@pytest.mark.usefixtures("double_precision")`."""

from pathlib import Path

import jax
import pytest


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


def pytest_collection_modifyitems(config, items):
    """Longer evidence runs when it is asked for: `pytest -m slow`."""
    if "slow" not in config.option.markexpr:
        here = Path(__file__).parent
        late = [i for i in items if i.get_closest_marker("slow") and here in i.path.parents]
        items[:] = [i for i in items if i not in late]
        config.hook.pytest_deselected(items=late)
